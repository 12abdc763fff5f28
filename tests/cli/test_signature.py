"""Signatures as command lines."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from speechssl.cli.signature import add_parameters, argument_helps, call


def corpus(
    root: str | Path,
    out: Path,
    *,
    speaker: str | None = None,
    rate: float = 16e3,
    jobs: int = 1,
    trim: bool = False,
    split: Literal["dev", "test"] = "dev",
    lists: list[str] | None = None,
    widths: Sequence[int] = (1, 2),
    _internal: int = 3,
) -> dict[str, Any]:
    """Make a corpus.

    Args:
        root: where the audio is.
        speaker: pattern of the speaker
            in the path.
        rate: Hz, within 5 % of it.

    Raises:
        UserError: never.
    """
    return {key: value for key, value in locals().items() if not key.startswith("_")}


def parse(words: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_parameters(parser, corpus)
    return call(corpus, parser.parse_args(words.split()))


def test_defaults_are_the_functions() -> None:
    assert parse("in out") == corpus(Path("in"), Path("out"))


def test_every_type_is_read() -> None:
    words = "in out --speaker ^a --rate 8e3 --jobs 4 --trim --split test --lists a b --widths 5"
    assert parse(words) == {
        **{"root": Path("in"), "out": Path("out"), "speaker": "^a", "rate": 8000.0, "jobs": 4},
        **{"trim": True, "split": "test", "lists": ["a", "b"], "widths": [5]},
    }


@pytest.mark.parametrize(
    "words", ["in", "in out --jobs x", "in out --split train", "in out --_internal 4"]
)
def test_mistakes_exit_with_2(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(words)
    assert stop.value.code == 2


def test_a_flag_without_default_is_required() -> None:
    def needs(out: str, *, key: str) -> str:
        """Say ``key``."""
        return out + key

    parser = argparse.ArgumentParser(exit_on_error=False)
    add_parameters(parser, needs)
    assert call(needs, parser.parse_args(["a", "--key", "b"])) == "ab"


def test_helps_come_from_the_docstring() -> None:
    helps = argument_helps(
        "Title.\n\nArgs:\n    a: one\n        more.\n    b (int): two: 2.\n\nRaises:\n    X: no."
    )
    assert helps == {"a": "one more.", "b": "two: 2."}


def test_names_that_are_explained_together_have_the_same_help() -> None:
    helps = argument_helps("Title.\n\nArgs:\n    a, b: sizes\n        of layers.\n    c: one.")
    assert helps == {"a": "sizes of layers.", "b": "sizes of layers.", "c": "one."}


def test_help_shows_percent_signs_and_defaults() -> None:
    parser = argparse.ArgumentParser()
    add_parameters(parser, corpus)
    text = " ".join(parser.format_help().split())
    assert "Hz, within 5 % of it (default: 16000)" in text
    assert "(default: 1 2)" in text and "(default: --no-trim)" in text
    assert "Make a corpus." in text and "Raises" not in text
