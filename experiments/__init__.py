"""One module per claim about biases; `python -m experiments` lists and runs them.

Words they share are in `experiments/glossary.md`.
"""
