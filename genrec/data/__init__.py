"""Catalogs, interactions, ids, filters and subsets: everything that comes from the caller's tables."""
