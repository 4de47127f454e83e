"""Trained recommenders of the field, in our own code, that genrec is measured against."""
