"""Small problems whose Pareto front is known, trained by the same methods, advantages and losses as language models."""
