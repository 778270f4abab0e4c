"""One training step, phase by phase: this project's loop, TRL's GRPOTrainer, a plain loop, and the least work."""
