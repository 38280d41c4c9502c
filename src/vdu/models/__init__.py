"""Adapters of pipelines, networks, and checkpoint importers."""
