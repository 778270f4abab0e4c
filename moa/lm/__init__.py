"""Language models: loading, fine-tuning, generation, prompts, checkpoints."""
