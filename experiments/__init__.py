"""One module per claim about biases; `python -m experiments` lists and runs them.

`experiments/glossary.md` says what the words mean that they share.
"""
