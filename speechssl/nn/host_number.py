"""Whole numbers in buffers, read without waiting for a GPU at every step."""

from __future__ import annotations

from torch import Tensor


def host_number(buffer: Tensor) -> int:
    """Return the whole number in a buffer; the device is asked only after it was written.

    ``int(buffer)`` waits until a GPU has done all its work, at every step again. PyTorch counts
    the writes into a tensor (also those of ``load_state_dict``), so a number that was read once
    is known until the next write.

    Args:
        buffer: int64 of shape ().
    """
    now = (id(buffer), buffer._version)  # the id: a deep copy takes the attribute along
    known: tuple[tuple[int, int], int] | None = getattr(buffer, "_known_on_host", None)
    if known is None or known[0] != now:
        known = (now, int(buffer))
        buffer._known_on_host = known  # type: ignore[attr-defined]
    return known[1]
