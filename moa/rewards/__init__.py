"""Rewards: one file per kind; specs.py declares them."""
