"""Rankers: one interface, one module per ranker."""
