"""Noise schedules, noising and sampling; diffusers' schedulers do the stepping."""
