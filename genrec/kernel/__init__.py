"""The inner loops of the trie, twice: compiled by numba where it is installed, and in numpy alone everywhere.

What both modules have gives the same results, and the tests hold them equal; `TokenTrie` chooses. Two loops exist only
compiled, `merge` and `decode_rows`: without numba the trie sorts anew, and walks up from the last tokens.
"""
