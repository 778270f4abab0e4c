"""Stages: one command per rule of the workflow.

Each reads files, calls the library, and writes tables or model folders.
"""

from moa.job.process import exit_with_parent

# Before a stage's own imports, which take seconds: Snakemake may die meanwhile.
exit_with_parent()
