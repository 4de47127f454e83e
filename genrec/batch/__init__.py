"""Batch runs that can be interrupted and resumed: every row is processed exactly once."""
