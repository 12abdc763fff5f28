"""Take values out of files that others wrote: what has another type than expected is left out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from speechssl import foreign_json


def finite(value: Any) -> float | None:
    """Return a finite number as a float; None for anything else."""
    if not foreign_json.is_number(value) or not math.isfinite(value):
        return None
    return float(value)


def number(held: Mapping[str, Any], key: str) -> float | None:
    """Return a finite number, or None."""
    return finite(held.get(key))


def mapping(held: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a mapping, or an empty one."""
    value = held.get(key)
    return value if isinstance(value, dict) else {}


def items(held: Mapping[str, Any], key: str) -> list[Any]:
    """Return a list, or an empty one."""
    value = held.get(key)
    return value if isinstance(value, list) else []


def text(held: Mapping[str, Any], key: str, missing: str = "-") -> str:
    """Return a value as text, or `missing` where there is none."""
    value = held.get(key)
    return missing if value is None else str(value)[:2000]


def shown(value: float | None, spec: str = ".4g", missing: str = "-") -> str:
    """Return a number as text, or `missing`."""
    return missing if value is None else f"{value:{spec}}"
