"""The local page on which a person looks at an unlearned model: it denoises, filters samples and walks the checkpoints."""
