"""The evaluator: two denoisers and what was to be forgotten in, typed records out."""
