"""The ``speechssl`` command: finds the verbs, parses the command line, runs one of them.

A verb is a public module of this folder with two functions, and nothing else lists it:

    '''Count the utterances of a Kaldi directory.'''        # docstring: its help

    import argparse
    from pathlib import Path

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("directory", type=Path, metavar="DIR", help="a Kaldi directory")

    def run(args: argparse.Namespace) -> int | None:         # exit code; None stands for 0
        from speechssl.data.manifest import read_manifest    # heavy imports inside `run`

        print(len(read_manifest(args.directory)))

* The module's name is the verb (``cli/count.py``: ``speechssl count``; ``_`` becomes ``-``). It may
  be a package (``cli/evaluate/__init__.py``).
* The first paragraph of the docstring stands in ``speechssl --help``, the whole of it at the top of
  ``speechssl count --help``; backticks are left out. It is read without importing the module.
* A module is imported when its verb is used, and not for ``speechssl --help``.
* Flags that other verbs have, too, come from ``cli/flags.py``. Every argument has a help that says
  more than its name (tests/cli/test_help.py).
* A positional argument ``overrides`` (``flags.add_overrides``) takes ``key=value`` words from
  anywhere on the command line.
* A verb with tasks or the like makes sub-parsers, each of which may set its own ``run``:

      tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
      task = tasks.add_parser("NAME", help=HELP, description=HELP, add_arguments=FUNCTION)
      task.set_defaults(run=FUNCTION)

A `UserError` becomes one line on standard error and exit code 2, a warning one line, once.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import speechssl
from speechssl import processes, progress
from speechssl.cli.parsers import Parser, summary
from speechssl.errors import MachineError, UserError, what_ran_out
from speechssl.text import printable
from speechssl.threads import choose_waiting, respect_quota

ORDER = (
    "prepare",
    "validate",
    "shard",
    "train",
    "watch",
    "sweep",
    "federate",
    "average",
    "embed",
    "diarize",
    "score",
    "evaluate",
    "calibrate",
    "verify",
    "register",
    "identify",
    "finetune",
    "predict",
    "index",
    "search",
    "cluster",
    "pseudolabel",
    "adapt",
    "diagnose",
    "report",
    "export",
    "push",
    "list",
)
"""Order of ``speechssl --help``: that of a user's work. Verbs that are not named here come last."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        Exit code: 0, 2 for a user's mistake, 130 when interrupted, 141 when the reader of standard
        output has left, 143 after SIGTERM or SIGUSR1.
    """
    respect_quota()
    choose_waiting()
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # names of files are bytes
    with processes.raise_on_signals(ends_process=argv is None) as arrived:
        code = _code_at_end(argv, arrived)
        if arrived.code is not None and argv is None:
            processes.end_now(code)
        return code


def _code_at_end(argv: Sequence[str] | None, arrived: processes.EndingSignal) -> int:
    """Run the command line, say in a line which signal has ended it, and return the exit code."""
    code = 0
    try:
        processes.end_with_torchrun()
        code = _run_command_line(argv)
    except processes.Terminated as ended:
        if str(ended):
            print(f"speechssl: {ended}", file=sys.stderr)
        return processes.TERMINATED_CODE
    except KeyboardInterrupt:
        code = processes.INTERRUPTED_CODE
    except BaseException:
        # Whatever a signal has become on its way out of a library: it was the signal.
        if arrived.code is None:
            raise
    code = arrived.code or code
    if code == processes.INTERRUPTED_CODE:
        print("speechssl: interrupted", file=sys.stderr)
    elif code == processes.TERMINATED_CODE:
        print("speechssl: terminated", file=sys.stderr)
    return code


def _run_command_line(argv: Sequence[str] | None) -> int:
    """Return the exit code of `main`; what a signal raises passes."""
    try:
        arguments = parse(argv)
        with warnings.catch_warnings(), progress.shown():
            warnings.showwarning = show_once()
            _refuse_addresses(arguments)
            code = arguments.run(arguments)
        sys.stdout.flush()
        return int(code or 0)
    except UserError as error:
        print(f"speechssl: error: {printable(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # `| head` has closed its end. Python flushes stdout once more at exit: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (MachineError, OSError, MemoryError, RuntimeError, ImportError) as error:
        reason = what_ran_out(error)
        if reason is None:
            raise
        print(f"speechssl: error: {printable(reason)}", file=sys.stderr)
        return 2


_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/.*")
"""An address; `pathlib.Path` has made one slash of two. A drive of Windows has one letter."""

_OUTPUTS = ("out", "save", "html", "det", "page")
"""Arguments that name what is written."""


def _refuse_addresses(arguments: argparse.Namespace) -> None:
    """Refuse outputs behind an address (s3://...) of verbs that write to a disk.

    A verb that writes to addresses sets `out_takes_address`.

    Raises:
        UserError: there is one; taken for a path, it would become a folder `s3:` here.
    """
    if getattr(arguments, "out_takes_address", False):
        return
    for name in _OUTPUTS:
        value = str(getattr(arguments, name, None))
        if _ADDRESS.fullmatch(value):
            scheme, _, rest = value.partition(":")
            address = f"{scheme}://{rest.lstrip('/')}"
            raise UserError(
                f"{arguments.verb}: {address}: this is written to a disk of this machine only; give a"
                " path, and copy it to its address afterwards"
            )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line.

    Overrides (``key=value``) may stand anywhere: argparse takes those that stand together and
    leaves the others over.
    """
    top = parser()
    arguments, rest = top.parse_known_args(argv)
    if not rest:
        return arguments  # type: ignore[no-any-return]
    has_unknown_flag = any(word.startswith("-") for word in rest)
    if has_unknown_flag or not hasattr(arguments, "overrides"):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.overrides += rest
    return arguments  # type: ignore[no-any-return]


def parser() -> Parser:
    """Return the parser of the whole command; every verb's parser sets ``run``."""
    top = Parser(
        prog="speechssl", description="Utterance-level self-supervised speech representations."
    )
    top.add_argument("--version", action="version", version=f"speechssl {speechssl.__version__}")
    subparsers = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, text in verbs().items():
        sub = subparsers.add_parser(
            name,
            help=summary(text),
            description=text,
            add_arguments=partial(_add_arguments, name),
        )
        sub.set_defaults(run=partial(_run, name))
    return top


def verbs() -> dict[str, str]:
    """Return verb -> help for each verb of this folder, importing nothing."""
    found = {}
    for path in Path(__file__).parent.iterdir():
        source = path / "__init__.py" if path.is_dir() else path
        if path.name.startswith("_") or source.suffix != ".py" or not source.is_file():
            continue
        tree = ast.parse(source.read_text(encoding="utf-8"))
        if _is_verb(tree):
            name = path.stem.replace("_", "-")
            found[name] = ast.get_docstring(tree) or ""
    return dict(sorted(found.items(), key=lambda item: _position(item[0])))


def _is_verb(tree: ast.Module) -> bool:
    """True if a module defines ``add_arguments`` and ``run``."""
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    return {"add_arguments", "run"} <= functions


def _position(verb: str) -> tuple[int, str]:
    """Sort key: the place in ``ORDER``, then the name."""
    place = ORDER.index(verb) if verb in ORDER else len(ORDER)
    return place, verb


def _module(verb: str) -> Any:
    return importlib.import_module(f"speechssl.cli.{verb.replace('-', '_')}")


def _add_arguments(verb: str, sub: Parser) -> None:
    _module(verb).add_arguments(sub)


def _run(verb: str, arguments: argparse.Namespace) -> int | None:
    return _module(verb).run(arguments)  # type: ignore[no-any-return]


def show_once() -> Callable[..., None]:
    """Return a ``showwarning`` that prints each distinct warning once, on one line."""
    shown = set()

    def show(message: Warning | str, *_where: Any, **_more: Any) -> None:
        text = " ".join(str(message).split())
        if text not in shown:
            shown.add(text)
            print(f"speechssl: warning: {printable(text)}", file=sys.stderr)

    return show
