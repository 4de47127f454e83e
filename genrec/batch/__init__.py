"""Batch runs that can be interrupted and resumed: every row is processed exactly once."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
