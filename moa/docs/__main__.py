"""Writes the generated pages of docs/: python -m moa.docs."""

from pathlib import Path

from moa.docs import experiment, tables

DOCS = Path(__file__).resolve().parents[2] / "docs"

if __name__ == "__main__":
    (DOCS / "tables.md").write_text(tables.render(), encoding="utf-8")
    (DOCS / "experiment.md").write_text(experiment.render(), encoding="utf-8")
