"""The experiment file: keys, explanations of mistakes, preferences, reward specifications. Loads no torch."""
