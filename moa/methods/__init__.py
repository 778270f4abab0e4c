"""Methods: one file per method. Importing them loads no torch, so that Snakemake can plan in seconds."""
