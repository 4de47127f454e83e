"""Parsers that turn a message into preferences."""
