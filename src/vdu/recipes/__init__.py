"""One verb each: they put the rooms together."""
