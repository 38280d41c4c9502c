"""The paper's tables as data: published values, the runs that reproduce them, and our committed results."""
