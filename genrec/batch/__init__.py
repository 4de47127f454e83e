"""Batch runs that resume: every row is processed exactly once."""
