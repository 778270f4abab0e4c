"""Stages: one command per rule of the workflow.

Each reads files, calls the library, and writes tables or model folders.
"""

import sys

from moa.job.process import exit_with_parent, hold_collector
from moa.job.warm import delegate

# Before a stage's own imports, which take seconds: Snakemake may die meanwhile.
exit_with_parent()
if sys.argv[0] == "-m":  # what Python shows while it looks for the module that it was asked to run
    delegate()
    hold_collector()
