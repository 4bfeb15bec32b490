"""Where the command `metarun`, `python -m metarun` and torchrun begin and end."""

from __future__ import annotations

import os
import signal
import sys


def run() -> None:
    """Run the command line and end the process."""
    try:
        from metarun.cli.main import main

        status = main()
    except KeyboardInterrupt:  # before the command line could handle it
        print("metarun: interrupted", file=sys.stderr)
        status = 128 + signal.SIGINT
    # All is said: a late Ctrl-C should not show where the interpreter ends its threads.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # gloo's threads outlive its process group, and now and then abort an interpreter that takes its time.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    run()
