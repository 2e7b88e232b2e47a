"""`python -m cluster.cli`: how a command starts another one with the same interpreter."""

from cluster.cli import main

main()
