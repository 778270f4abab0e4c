"""Stages: one command per rule of the workflow. Each reads files, calls the library, and writes tables or model folders."""
