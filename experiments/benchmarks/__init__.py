"""Speed against peers: `python -m experiments.benchmarks NAME`."""
