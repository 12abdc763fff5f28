"""A corpus that is not as published: refused, or said on standard error with `--partial`."""

from __future__ import annotations

import sys

from speechssl.errors import UserError

NOT_COMPARABLE = ": not comparable with published figures"


def refuse_unless_partial(
    difference: str, *, remedy: str, partial: bool, consequence: str = ""
) -> None:
    """Refuse a corpus that is not as published, or print how it differs on standard error.

    Args:
        difference: what is found and what is expected.
        remedy: what to do, and what `--partial` would do instead.
        partial: go on.
        consequence: of going on, behind the difference.

    Raises:
        UserError: not `partial`.
    """
    if not partial:
        raise UserError(f"{difference}; {remedy}: --partial")
    print(f"{difference}{consequence} (--partial)", file=sys.stderr)
