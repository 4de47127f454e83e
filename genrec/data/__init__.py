"""Catalogs, interactions, ids, filters and subsets: everything that comes from the caller's tables."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
