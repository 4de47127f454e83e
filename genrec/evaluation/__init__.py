"""Offline evaluation: protocols that hold out interactions, metrics, and intervals."""
