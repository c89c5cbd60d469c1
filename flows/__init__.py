"""What Prefect runs, and the `logitlake` command."""

import logging

# Runs log; only a command prints (logitlake.flows.terminal.output.printed_messages).
logging.getLogger(__name__).addHandler(logging.NullHandler())
