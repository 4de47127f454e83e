"""Search over the trie: beam and exhaustive search, bounds, priors and decoding constraints."""
