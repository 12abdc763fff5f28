"""Configurations that come with the package: `speechssl train dino-small ...`.

A configuration is a YAML file of this folder; its name is the file's. Its header is the command
that runs it, an empty line, and one line that describes it (for `speechssl list conf`):

    # speechssl train dino-small 'data.train=[DIR]' --out RUN
    #
    # DINO for hours of audio on one CPU or GPU.
"""

from __future__ import annotations

from pathlib import Path

from speechssl.errors import UserError
from speechssl.text import nearest

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the names of the shipped configurations, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def descriptions() -> dict[str, str]:
    """Return name -> the line that describes it, for each shipped configuration."""
    return {name: _description(FOLDER / f"{name}.yaml") for name in names()}


def find(name: str) -> Path | None:
    """Return the file of a shipped configuration, or None if there is none of this name."""
    return FOLDER / f"{name}.yaml" if name in names() else None


def locate(config: str | Path) -> Path:
    """Return the file that CONFIG of a command line means: a path, or the name of a shipped one.

    A file that exists wins over a name.

    Raises:
        UserError: neither; the nearest and all shipped names are given.
    """
    path = Path(config)
    if path.is_file():
        return path
    shipped = find(str(config))
    if shipped is not None:
        return shipped
    near = nearest(str(config), names())
    raise UserError(
        f"config: no file {config}, and no configuration of that name{near}; give a YAML file or"
        f" one of: {', '.join(names())}"
    )


def _description(path: Path) -> str:
    """Return the first line of the header's second paragraph."""
    lines = path.read_text(encoding="utf-8").splitlines()
    start = lines.index("#") + 1
    return lines[start].removeprefix("#").strip()
