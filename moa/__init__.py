"""Multi-objective alignment of language models: a workflow-managed benchmark.

Importing this package loads neither torch nor any other heavy library, so that Snakemake can plan in seconds.
"""

__version__ = "0.1.0"
