"""Where prompts and texts come from: one file per kind of source."""
