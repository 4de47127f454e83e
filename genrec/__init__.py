"""genrec makes any instruction-tuned LLM a recommender that can only name things you really have.

    from genrec import open_default

    recommender = open_default()
    for item in recommender.recommend("12748", k=5, where="price < 5").items:
        print(item.rank, item.title, item.source)

Names load when they are first used, so `import genrec` is quick and needs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
