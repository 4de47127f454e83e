"""Search over the trie, score bounds, priors and decoding constraints."""
