"""Run ``speechssl``, ``python -m speechssl``, or ``torchrun --nproc-per-node N -m speechssl train``."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, of which even the imports may be interrupted; return its exit code."""
    try:
        from speechssl import cli

        return cli.main(argv)
    except KeyboardInterrupt:  # before `cli.main` could see to it
        print("speechssl: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
