"""The runs of a sweep: every combination of the values on the command line, and their names."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechssl.errors import UserError
from speechssl.regular import read_text
from speechssl.text import nearest

MOST_RUNS = 10_000
"""More runs than this are a mistake in a range."""

_LONGEST_NAME = 100
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
_OPENING = "([{"
_CLOSING = ")]}"

Axes = dict[str, list[str]]
"""Setting -> its values, as they are written in an override, in the order of the command line."""


@dataclass(frozen=True)
class PlannedRun:
    """One training.

    Attributes:
        name: of its folder: what it differs by, `lr=1e-3,seed=0`.
        setting: the same without the seed.
        seed: its seed, or None if the sweep has none of its own.
        overrides: `key=value` words that make it.
    """

    name: str
    setting: str
    seed: int | None
    overrides: tuple[str, ...]


def read_words(words: Sequence[str]) -> tuple[list[str], Axes]:
    """Tell settings with one value, `key=value`, from those with several, `key=a,b` or `key=0..4`.

    Commas inside brackets, braces and quotes do not part values: `data.train=[a,b]` is one.

    Returns:
        The words with one value, and the others by their settings.

    Raises:
        UserError: a word is no `key=values`, or a setting or a value stands there twice.
    """
    fixed: list[str] = []
    axes: Axes = {}
    for word in words:
        key, equals, written = word.partition("=")
        if not equals or not key:
            raise UserError(f"sweep: {word!r} is not key=value or key=a,b,c, such as seed=0..4")
        values = values_of(key, written)
        is_axis = len(values) > 1 or key == "seed"
        was_fixed = any(other.partition("=")[0] == key for other in fixed)
        if key in axes or (is_axis and was_fixed):
            raise UserError(f"sweep: {key} stands there twice; give all its values in one word")
        if is_axis:
            axes[key] = values
        else:
            fixed.append(word)  # of two, the later one wins, as in `speechssl train`
    return fixed, axes


def values_of(key: str, written: str) -> list[str]:
    """Return the values of one word.

    Raises:
        UserError: two of them are one, or a range is too long or runs backwards.
    """
    values: list[str] = []
    for value in split_outside_brackets(written, ","):
        span = _RANGE.fullmatch(value)
        values += _numbers(key, int(span[1]), int(span[2])) if span else [value]
    for value in values:
        if not value and (len(values) > 1 or key == "seed"):
            raise UserError(
                f"sweep: {key}={written} has an empty value; leave out a comma, or {key}"
            )
    _refuse_twins(key, values)
    return values


def _refuse_twins(key: str, values: Sequence[str]) -> None:
    """Raise UserError if two values are one: runs with two names would be the same training."""
    known: dict[str | float, str] = {}
    for value in values:
        meant = _meant(value)
        if meant not in known:
            known[meant] = value
        elif known[meant] == value:
            raise UserError(f"sweep: {key} has the value {value!r} twice; leave one of them out")
        else:
            raise UserError(
                f"sweep: {key} has the values {known[meant]!r} and {value!r}, which are one number;"
                " leave one of them out"
            )


def _meant(value: str) -> str | float:
    """Return the number that a value is (`1e-3` and `0.001` are one), or else the value."""
    try:
        return float(value)
    except ValueError:
        return value


def _numbers(key: str, first: int, last: int) -> list[str]:
    if last < first:
        raise UserError(f"sweep: {key}={first}..{last} is empty; write the smaller number first")
    if last - first >= MOST_RUNS:
        raise UserError(
            f"sweep: {key}={first}..{last} has {last - first + 1} values; at most {MOST_RUNS:,}"
        )
    return [str(number) for number in range(first, last + 1)]


def split_outside_brackets(text: str, separator: str) -> list[str]:
    """Split at a character that is inside no brackets, braces or quotes."""
    pieces = [""]
    depth = 0
    quote = ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in _OPENING:
            depth += 1
        elif letter in _CLOSING:
            depth -= 1
        elif letter == separator and depth <= 0:
            pieces.append("")
            continue
        pieces[-1] += letter
    return pieces


def read_arms(path: Path, only: Collection[str] = ()) -> dict[str, list[str]]:
    """Read a table of arms: a name, a tab, and `key=value` words; `#` begins a comment.

    Args:
        path: the table.
        only: names of those that are wanted; empty: all.

    Returns:
        Name -> words, in the order of the table.

    Raises:
        UserError: it cannot be read, a line is not of this form, or there is no such arm.
    """
    lines = read_text(path, "check --arms").splitlines()
    arms: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, tab, words = line.partition("\t")
        if not tab or not name or name in arms:
            raise UserError(
                f"sweep: {path}, line {number}: not a new name, a tab, and key=value words"
            )
        arms[name] = [word for word in split_outside_brackets(words.strip(), " ") if word]
    for name in only:
        if name not in arms:
            raise UserError(f"sweep: no arm {name!r} in {path}{nearest(name, list(arms))}")
    if not arms:
        raise UserError(f"sweep: {path} has no arms; write a name, a tab, and key=value words")
    return {name: words for name, words in arms.items() if not only or name in only}


def plan(
    fixed: Sequence[str], axes: Axes, arms: Mapping[str, Sequence[str]] | None = None
) -> list[PlannedRun]:
    """Return a run for every combination of values (and arms); the seed varies fastest.

    Args:
        fixed: words that every run has.
        axes: from `read_words`.
        arms: name -> words, from `read_arms`; None: there are none.

    Raises:
        UserError: too many, or two runs would have one name.
    """
    seeds = axes.get("seed", [])
    others = {key: values for key, values in axes.items() if key != "seed"}
    runs = []
    for arm, words in (arms or {"": []}).items():
        for values in itertools.product(*others.values()):
            chosen = dict(zip(others, values, strict=True))
            runs += list(runs_of_setting(chosen, seeds, [*words, *fixed], arm))
            if len(runs) > MOST_RUNS:
                raise UserError(f"sweep: more than {MOST_RUNS} runs; give fewer values")
    names: set[str] = set()
    for run in runs:
        if run.name in names:
            raise UserError(f"sweep: two runs would be called {run.name!r}; rename an arm")
        names.add(run.name)
    return runs


def runs_of_setting(
    chosen: Mapping[str, str], seeds: Sequence[str], fixed: Sequence[str], arm: str = ""
) -> Iterator[PlannedRun]:
    """Yield the runs of one setting, one for each seed; one without a seed if there are none.

    Args:
        chosen: setting -> value, what the name says.
        seeds: as they are written.
        fixed: further words.
        arm: begins the name.
    """
    words = [f"{key}={value}" for key, value in chosen.items()]
    short = [f"{_short(key, chosen)}={value}" for key, value in chosen.items()]
    setting = [arm] * bool(arm) + short
    for seed in seeds or [""]:
        overrides = [*fixed, *words]
        parts = list(setting)
        if seed:
            overrides.append(f"seed={seed}")
            parts.append(f"seed={seed}")
        yield PlannedRun(
            name=folder_name(",".join(parts) or "run"),
            setting=folder_name(",".join(setting) or "run"),
            seed=_seed(seed) if seed else None,
            overrides=tuple(overrides),
        )


def _seed(written: str) -> int:
    if not written.isdecimal():
        raise UserError(f"sweep: seed={written!r}: seeds are whole numbers of at least 0")
    return int(written)


def _short(key: str, keys: Collection[str]) -> str:
    """Return the last part of a setting's path, or all of it if another one ends alike."""
    last = key.rpartition(".")[2]
    return key if sum(other.rpartition(".")[2] == last for other in keys) > 1 else last


def folder_name(text: str) -> str:
    """Return text as the name of one folder; a digest tells apart what had to be changed."""
    name = re.sub(r"[^\w.=,+\-]", "_", text, flags=re.ASCII).lstrip(".-")[:_LONGEST_NAME]
    if name == text:
        return name
    return f"{name}-{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:6]}"
