"""Measurements: protocols, baselines, ranking runs, benchmarks, and the construction of the embedded data set."""

import os

# On busy cores, threads that spin while they wait are many times slower than threads that sleep. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
