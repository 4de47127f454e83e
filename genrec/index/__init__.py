"""The catalog as token ids: item identifiers, the token trie, and the index that combines them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
