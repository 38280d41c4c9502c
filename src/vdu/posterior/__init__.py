"""A Gaussian posterior over the weights, and its estimators."""
