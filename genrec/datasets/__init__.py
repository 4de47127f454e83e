"""Data sets and models to start with: the embedded shop, and downloads pinned by SHA-256."""
