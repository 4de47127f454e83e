"""Measuring: protocols, baselines, ranking runs and the making of the embedded data set."""

import os

# Two threads that spin for each other on busy cores are many times slower than two that sleep; read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
