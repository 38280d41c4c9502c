"""Probes: attempts to recover the forgotten concept, and tests beyond the model's samples."""
