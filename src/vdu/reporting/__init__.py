"""JSON and images become a page; no torch."""
