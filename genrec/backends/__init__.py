"""Backends that run a language model: one protocol, and one module for each engine."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
