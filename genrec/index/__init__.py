"""The catalog as token ids: item identifiers, the token trie, and the index that combines them."""
