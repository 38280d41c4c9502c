"""Images as float32 in [−1, 1], and the split into forget and retain sets."""
