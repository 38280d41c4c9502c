"""One metric family per file: arrays in, numbers out."""
