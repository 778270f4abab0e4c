"""`python -m moa` is `moa`, by the package of the working folder where it is a checkout."""

from moa.cli import main

main()
