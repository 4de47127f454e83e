"""The inner loops of the trie and of item vectors: compiled by numba if it is installed, and in numpy.

Functions that both modules have give the same results, which the tests check. Some exist only compiled: without `merge`
the trie is sorted again, without `tokens_of_rows` paths are walked from their last tokens, and without `top_k` and
`genrec.index.kernels.int8` every item vector is read in full.
"""
