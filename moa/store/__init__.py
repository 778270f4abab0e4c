"""What results are kept in: tables as Parquet, files that are complete or absent, provenance, read-only SQL.

Loads no torch.
"""
