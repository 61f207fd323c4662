"""`python -m dada`."""

from dada.cli import main

main()
