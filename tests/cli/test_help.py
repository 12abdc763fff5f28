"""Help texts: every verb, corpus, task and argument has one that says something."""

import argparse
import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

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


def phrases(text: str) -> set[str]:
    """The parts of a help between its stops, as words; those of three words and fewer left out."""
    found = set()
    for phrase in re.split(r"[;:().]\s|[;:()]", text.lower()):
        said = re.findall(r"[\w.-]+", phrase)
        if len(said) > 3:
            found.add(" ".join(said))
    return found


def helps(source: str) -> Iterator[tuple[int, list[str]]]:
    """The line of each call that adds an argument, and the texts that it writes."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not re.match(r".*add_\w+$", ast.unparse(node.func)):
            continue
        given = node.args[1:] + [word.value for word in node.keywords]
        constants = [part for value in given for part in ast.walk(value)]
        texts = [part.value for part in constants if isinstance(part, ast.Constant)]
        yield node.lineno, [text for text in texts if isinstance(text, str)]


def test_a_help_is_split_into_what_it_says() -> None:
    (line, texts), (_, more) = helps(
        'p.add_argument("--x", help="one to the next (default: 1)")\nflags.add_out(p, "a b c d; e f")'
    )
    assert line == 1
    assert phrases(texts[0]) == {"one to the next"}
    assert phrases(more[0]) == {"a b c d"}


def test_no_help_stands_twice() -> None:
    """What two verbs say of an argument is said once, by a function of `cli/flags.py`."""
    folder = Path(command.__file__).parent
    places = defaultdict(list)
    for path in sorted(folder.rglob("*.py")):
        for line, texts in helps(path.read_text()):
            for phrase in {phrase for text in texts for phrase in phrases(text)}:
                places[phrase].append(f"{path.name}:{line}")
    twice = {phrase: where for phrase, where in places.items() if len(where) > 1}
    assert len(places) > 150
    assert not twice


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
