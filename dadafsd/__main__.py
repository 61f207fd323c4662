"""`python -m dadafsd`."""

from dadafsd.cli import main

main()
