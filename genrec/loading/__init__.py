"""Loading: builds a recommender from a catalog, interactions and the models on this machine.

Results that are slow to compute (the index, item vectors, counts, priors) are cached under the fingerprints of their
inputs, so the next start only reads them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
