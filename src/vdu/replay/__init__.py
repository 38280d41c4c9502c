"""What a method learns from besides the forget set, made by the model itself: generated samples, their selection, auxiliary models."""
