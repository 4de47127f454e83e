"""Measure genrec's speed and memory beside its peers', in one run: python -m eval.speed."""
