"""A job's life: command line, process, memory, unlock."""
