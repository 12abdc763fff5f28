"""Run ``speechssl``, ``python -m speechssl``, or ``torchrun --nproc-per-node N -m speechssl train``."""

import sys


def run() -> int:
    """Run the command line, of which even the imports may be interrupted; return its exit code."""
    try:
        from speechssl.cli import main

        return main()
    except KeyboardInterrupt:  # before `main` could see to it
        print("speechssl: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(run())
