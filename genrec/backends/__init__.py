"""Backends that run a language model: one protocol, and one module for each engine."""
