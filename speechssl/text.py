"""Names of somebody else's in what people read: ids, labels and paths are text, never markup.

For the terminal (`printable`), Markdown (`markdown`), tables that a spreadsheet may open (`tsv_cell`)
and tables on standard output (`tsv_field`). Files that programs read again, Kaldi's above all, hold
ids as they are.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence

_FORMULA = ("=", "+", "-", "@")
"""With these a cell begins that a spreadsheet takes for a formula."""

_MARKDOWN = (
    (re.compile(r"\\(?=[!-/:-@\[-`{-~]|\Z)"), r"\\\\"),  # a backslash that would escape
    (re.compile(r"[`*|~$]"), r"\\\g<0>"),
    (re.compile(r"(?<![^\W_])_|_(?![^\W_])"), r"\\_"),  # inside a word it is no emphasis
    (re.compile(r"\](?=[(\[:])"), r"\\]"),  # links, images and their definitions
    (re.compile(r"&(?=#?\w+;)"), "&amp;"),
    (re.compile(r"<"), "&lt;"),
    (re.compile(r">"), "&gt;"),
    (re.compile(r"\b(https?|ftp)://", re.IGNORECASE), r"\1:&#47;/"),  # would become links
    (re.compile(r"\b(www)\.", re.IGNORECASE), r"\1&#46;"),
    (re.compile(r"@(?=\w)"), "&#64;"),  # addresses and mentions
)


def printable(text: str) -> str:
    r"""Return text on one line, with what is not seen written out: `\n`, `\x1b`, `\u202e`, `\udcff`.

    That is control characters (a terminal obeys them), characters that change the direction or
    have no width, and surrogates (bytes that are not UTF-8).
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def plural(count: int, noun: str) -> str:
    """Return a count and a noun: `1 speaker`, `2 speakers`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def first_of(names: Collection[str]) -> str:
    """Return the first of some names in their order, and how many more there are."""
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"{min(names)!r}{more}"


def markdown(text: str) -> str:
    """Return text as Markdown that shows it: in a line, a heading or a cell of a table."""
    text = printable(text)
    for pattern, replacement in _MARKDOWN:
        text = pattern.sub(replacement, text)
    return text


def tsv_cell(text: str) -> str:
    """Return text as a cell of a table that people open and no program reads again.

    A formula (`=cmd()`, `+1`, `@x`, `-2`) begins with an apostrophe, as spreadsheets write text.
    """
    text = tsv_field(text)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


def tsv_field(text: str) -> str:
    r"""Return text as a field of a table that another program reads: as it is, on one line.

    What would break the line is written out (`\t`, `\n`), and so is what a terminal obeys. Bytes of
    a file's name that are not UTF-8 stay as they are: the file can be found by its name.
    """
    if text.isprintable():
        return text
    shown = ""
    for letter in text:
        is_raw_byte = "\udc80" <= letter <= "\udcff"
        shown += letter if letter.isprintable() or is_raw_byte else _escaped(letter)
    return shown


def nearest(word: str, known: Sequence[str], cutoff: float = 0.5) -> str:
    """Return `` (did you mean 'X'?)`` for the most similar known word, or an empty string.

    Args:
        word: what somebody wrote.
        known: what there is.
        cutoff: least similarity, 0 to 1.
    """
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=cutoff)
    return f" (did you mean {close[0]!r}?)" if close else ""
