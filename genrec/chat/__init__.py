"""Conversational recommendation: preferences, parsers, replies and the advisor."""
