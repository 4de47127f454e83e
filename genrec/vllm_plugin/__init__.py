"""Catalog constraints inside vLLM: a logits processor and the catalogs that it serves."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
