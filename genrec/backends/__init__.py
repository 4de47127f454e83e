"""Whatever runs a language model: one protocol, one file an engine."""
