"""Help texts: every verb, corpus, task and argument has one that says something."""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from speechssl import parts
from speechssl.cli import command
from speechssl.cli.parsers import Parser


def parsers(parser: Parser) -> Iterator[Parser]:
    """A parser and, below it, those of its verbs, tasks and corpora."""
    parser.complete()
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from parsers(sub)


ALL = {parser.prog: parser for parser in parsers(command.parser())}


def arguments(parser: Parser) -> list[argparse.Action]:
    """Its arguments, without ``--help`` and the choice of a sub-parser."""
    left_out = (argparse._SubParsersAction, argparse._HelpAction)
    return [action for action in parser._actions if not isinstance(action, left_out)]


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower()))


def test_all_verbs_corpora_and_tasks_are_walked() -> None:
    assert {f"speechssl {verb}" for verb in command.verbs()} <= set(ALL)
    assert {f"speechssl prepare {corpus}" for corpus in parts.names("corpora")} <= set(ALL)
    assert {"speechssl evaluate verification", "speechssl evaluate classification"} <= set(ALL)


@pytest.mark.parametrize("prog", ALL)
def test_a_parser_has_a_description_and_can_be_shown(prog: str) -> None:
    assert ALL[prog].description
    assert "`" not in ALL[prog].description
    shown = ALL[prog].format_help()  # a bare % in a help would raise
    assert shown.startswith(f"usage: {prog}")


@pytest.mark.parametrize("prog", ALL)
def test_every_argument_has_a_help_that_says_more_than_its_name(prog: str) -> None:
    for action in arguments(ALL[prog]):
        names = ", ".join(action.option_strings) or action.dest
        text = re.sub(r"\(default: .*\)", "", action.help or "")
        assert text.strip(), f"{prog}: {names} has no help"
        known = words(" ".join([names, action.dest, str(action.metavar or "")]))
        assert words(text) - known - {"the", "a", "of", "number"}, f"{prog}: {names}: {text}"


@pytest.mark.parametrize("prog", ALL)
def test_every_choice_of_a_subparser_has_a_help(prog: str) -> None:
    for action in ALL[prog]._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help for choice in action._choices_actions}
            assert set(helps) == set(action.choices)
            assert all(helps.values())


def test_a_flag_means_the_same_wherever_it_is() -> None:
    """``--device``, ``--seed`` ...: one help and one default among the verbs (corpora have their
    own).
    """
    shared = ("--device", "--precision", "--labels", "--groups", "--folds", "--replicates")
    for flag in shared:
        found = set()
        for prog, parser in ALL.items():
            if prog.startswith("speechssl prepare "):
                continue
            action = parser._option_string_actions.get(flag)
            if action is not None:
                found.add((action.help, action.default, action.metavar, action.type))
        assert len(found) == 1, f"{flag}: {found}"


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "omegaconf", "scipy", "soundfile")
    code = (
        "import sys\n"
        "from speechssl.cli import command\n"
        "command.parser().format_help()\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
