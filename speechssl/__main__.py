"""Run ``python -m speechssl``, or ``torchrun --nproc-per-node N -m speechssl train ...``."""

import sys

from speechssl.cli import main

if __name__ == "__main__":
    sys.exit(main())
