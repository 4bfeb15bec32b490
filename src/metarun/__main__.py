"""`python -m metarun`, and what torchrun starts."""

import os
import sys

from metarun.cli import main

if __name__ == "__main__":
    status = main()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # gloo's threads outlive its process group, and now and then abort an interpreter that takes its time.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
