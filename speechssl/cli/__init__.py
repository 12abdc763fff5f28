"""The ``speechssl`` command: one file a verb."""

from speechssl.cli.command import main

__all__ = ["main"]
