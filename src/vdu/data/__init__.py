"""Images as float32 in [−1, 1], and the split into what is forgotten and what is kept."""
