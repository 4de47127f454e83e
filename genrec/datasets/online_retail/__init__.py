"""UCI Online Retail, cleaned; see README.md for its source and licence."""
