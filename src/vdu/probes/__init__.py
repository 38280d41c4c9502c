"""Attempts to bring back what was forgotten, and questions that samples cannot answer."""
