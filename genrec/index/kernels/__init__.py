"""The inner loops of the trie and of item vectors, compiled by numba where it is installed, and in numpy everywhere.

What both modules have gives the same results, and the tests hold them equal; who uses them chooses. Some exist only
compiled: without `merge` the trie sorts anew, without `tokens_of_rows` it walks up from the last tokens, and without
`top_k` and the products of `narrow` every item vector is read in full.
"""
