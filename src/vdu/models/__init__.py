"""One face over every pipeline kind, the judges, and checkpoint importers."""
