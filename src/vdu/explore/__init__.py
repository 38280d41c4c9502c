"""The local page for exploring an unlearned model: denoising, stored samples and checkpoints."""
