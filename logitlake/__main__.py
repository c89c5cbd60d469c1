"""`python -m logitlake` is the `logitlake` command."""

from logitlake.flows.cli.app import main

main()
