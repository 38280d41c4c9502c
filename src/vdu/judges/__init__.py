"""Oracle classifiers (judges): architecture, record, training, and the fallback that is trained where none is given."""
