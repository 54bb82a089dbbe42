"""Faults that `experiments.benchmarks.soak` throws at sweeps with stores."""
