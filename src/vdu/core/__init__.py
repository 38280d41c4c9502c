"""What every room stands on: types, errors, seeds, checks, records, runs, the cache."""
