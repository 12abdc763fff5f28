"""Front ends, one file each: waveforms to frames of features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULT = "logmel"
"""The front end of a section `features` that names none."""


def with_default_name(section: Mapping[str, Any] | str | None) -> Any:
    """Return section `features` of a configuration with the name of its front end."""
    if section is None:
        return {"name": DEFAULT}
    if isinstance(section, Mapping) and "name" not in section:
        return {"name": DEFAULT, **section}
    return section
