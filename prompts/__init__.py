"""The prompt templates that ship with genrec."""
