"""`python -m moa.cli` is the command `moa`."""

from moa.cli import main

main()
