"""From a user's history to token ids: templates, tokenizers, the chat format, and the one renderer."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
