"""Offline evaluation: protocols that hold out interactions, and metrics."""
