"""Shared foundations: types, errors, seeds, checks, records, runs and the cache."""
