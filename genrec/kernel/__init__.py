"""The inner loops of the trie, twice: compiled by numba where it is installed, and in numpy alone everywhere.

Both modules have the same functions with the same results; `TokenTrie` chooses. The tests hold them equal.
"""
