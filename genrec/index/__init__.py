"""The catalog as token ids: the trie, item identifiers and the index that joins them."""
