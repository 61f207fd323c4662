"""`python -m dadafs`."""

from dadafs.cli import main

main()
