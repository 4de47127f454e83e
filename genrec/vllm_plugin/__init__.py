"""Catalog constraints inside vLLM: a logits processor and the catalogs that it serves."""
