"""Baseline recommenders that genrec is compared to."""
