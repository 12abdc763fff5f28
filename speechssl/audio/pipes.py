"""Shell commands whose output is an audio file: entries of wav.scp that end with `|`."""

from __future__ import annotations

import subprocess

from speechssl.errors import UserError


class Pipe(str):
    """A shell command that may be run, because the user allowed it.

    The type carries the permission: only a reader of wav.scp that was given `allow_pipes=True`
    makes one. A plain string that ends with `|` is refused.
    """

    __slots__ = ()


def run(command: Pipe) -> bytes:
    """Run a command and return what it writes to standard output.

    Raises:
        UserError: it failed; the message holds the last line of its standard error.
    """
    line = command.strip().removesuffix("|")
    done = subprocess.run(line, shell=True, capture_output=True, check=False)
    if done.returncode:
        messages = done.stderr.decode(errors="replace").strip().splitlines()
        last = messages[-1] if messages else "no message"
        raise UserError(f"{command}: the command failed with exit code {done.returncode} ({last})")
    return done.stdout
