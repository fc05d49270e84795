"""The command line as a process: the script `musicgen-batch`, and `python -m pipeline.cli`."""

import logging
import os
import sys

from pipeline.cli.root import main
from pipeline.config import EXIT_DRAINED


def console() -> None:
    """Runs the command that the arguments name, and ends the process with its exit code.

    A drained run leaves a thread behind that waits inside Ray. The interpreter's orderly end would
    pull Ray away under it, which now and then turned exit code 5 into 1: such a run leaves Ray by
    itself and skips that end.
    """
    try:
        main()
    except SystemExit as leaving:
        if leaving.code != EXIT_DRAINED:
            raise
    if "ray" in sys.modules:
        from pipeline.runtime.ray_cluster import leave_ray

        leave_ray()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_DRAINED)


if __name__ == "__main__":
    console()
