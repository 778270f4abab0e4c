"""The multi-objective RL loop: advantages, losses, weight solvers, rollouts, checkpoints.

Knows no files but checkpoints.
"""
