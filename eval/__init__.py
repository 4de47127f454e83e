"""Measuring: protocols, baselines, ranking runs and the making of the embedded data set."""
