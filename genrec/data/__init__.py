"""Data that ships with genrec."""
