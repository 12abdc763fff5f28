"""The argument parser of every verb: errors of one line, arguments added when they are needed."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from speechssl.text import nearest, printable


class Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` for `speechssl` and its verbs.

    Sub-parsers made with ``add_subparsers().add_parser(name, add_arguments=function)`` are of this
    class, too.

    Args:
        add_arguments: called with this parser when it first parses or is shown: the arguments of
            the verbs that are not used cost nothing.
        settings: of `argparse.ArgumentParser`; backticks in ``description`` are left out.
    """

    def __init__(
        self, add_arguments: Callable[[Parser], None] | None = None, **settings: Any
    ) -> None:
        settings.setdefault("formatter_class", ParagraphFormatter)
        super().__init__(**settings)
        self.description = plain(self.description)
        self._add_arguments = add_arguments
        self._words: list[str] = []

    def complete(self) -> None:
        """Add the arguments that have not been added yet."""
        if self._add_arguments is not None:
            add_arguments = self._add_arguments
            self._add_arguments = None
            add_arguments(self)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as `argparse.ArgumentParser` does, with all arguments added."""
        self.complete()
        self._words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2; of a misspelt choice the nearest is named.

        So is a file whose name begins with a dash: argparse takes it for an option.
        """
        message = _INVALID_CHOICE.sub(_with_nearest, message)
        for word in self._words:
            if word.startswith("-") and len(word) > 1 and os.path.exists(word):
                message += f" ({word} is a file here: write ./{word})"
        print(f"speechssl: error: {printable(message)}; see `{self.prog} --help`", file=sys.stderr)
        sys.exit(2)


_INVALID_CHOICE = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)")
"""What argparse says of a word that is none of the choices."""


def _with_nearest(found: re.Match[str]) -> str:
    choices = [choice.strip(" '") for choice in found[2].split(",")]
    hint = nearest(found[1], choices, cutoff=0.6)
    return f"no {found[1]!r}{hint}; choose from {', '.join(choices)}"


def plain(text: str | None) -> str:
    """Return a docstring's text as a terminal shows it: without backticks."""
    return (text or "").replace("`", "")


def summary(docstring: str) -> str:
    """Return the first paragraph of a docstring on one line, for argparse's ``help``."""
    first_paragraph = plain(docstring).partition("\n\n")[0]
    return " ".join(first_paragraph.split()).replace("%", "%%")


class ParagraphFormatter(argparse.HelpFormatter):
    """Help whose description keeps its paragraphs."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.split("\n\n")
        filled = [super(ParagraphFormatter, self)._fill_text(p, width, indent) for p in paragraphs]
        return "\n\n".join(filled)
