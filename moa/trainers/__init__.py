"""Trainers beside the shared loop, and what all trainers share."""
