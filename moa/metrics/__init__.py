"""Metrics of evaluated points. Pure functions of arrays: no files, no tables, no names of methods."""
