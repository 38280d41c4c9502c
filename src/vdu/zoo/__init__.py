"""Small packaged models with their provenance."""
