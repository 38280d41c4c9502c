"""One saved Gaussian over the weights, many estimators."""
