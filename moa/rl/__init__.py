"""The multi-objective RL loop: advantages, losses, weight solvers, updates.

Its checkpoints are written and read by moa/lm; it knows no other files.
"""
