"""Whatever orders items: one protocol, one file a ranker."""
