"""The program `saeql`: starts the process of a query first, then imports what reads the command line.

The two then load what they need side by side; a process that no query came for ends with its caller.
"""

import os
import sys

from queries.cli.early import start_early


def main() -> None:
    """Run the command line of this process."""
    try:
        start_early(sys.argv[1:])
        from queries.cli.main import main as command_line
    except KeyboardInterrupt:
        os._exit(130)
    command_line()
