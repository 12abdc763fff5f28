"""The ``speechssl`` command: one small subcommand a verb, each of which only calls through.

Heavy imports happen inside the subcommand, so that ``speechssl --help`` answers at once. A mistake
that a user can cause is one line on standard error and exit code 2.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import speechssl
from speechssl import parts
from speechssl.cli import cluster, diagnose, embed, files, finetune, train, verification
from speechssl.errors import UserError
from speechssl.threads import respect_quota, wait_passively


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0, 2 for a user's mistake, 130 when
    interrupted).
    """
    wait_passively()
    respect_quota()
    try:
        arguments = _parse(argv)
        with warnings.catch_warnings():
            warnings.showwarning = _warner()
            code = arguments.run(arguments)
        sys.stdout.flush()
        return int(code or 0)
    except UserError as error:
        print(f"speechssl: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("speechssl: interrupted", file=sys.stderr)
        return 130
    except (
        BrokenPipeError
    ):  # the reader of our output (`| head`) has left: stay quiet, at exit as well
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parsed arguments; ``key=value`` overrides may stand anywhere, which argparse alone cannot
    do.
    """
    top = parser()
    arguments, rest = top.parse_known_args(argv)
    if rest and hasattr(arguments, "overrides") and not any(word.startswith("-") for word in rest):
        arguments.overrides += rest
    elif rest:
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def _warner() -> Callable[..., None]:
    """What shows a warning as one line, once."""
    shown = set()

    def show(message: Warning | str, *_where: Any, **_more: Any) -> None:
        if str(message) not in shown:
            shown.add(str(message))
            print(f"speechssl: warning: {message}", file=sys.stderr)

    return show


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        print(f"speechssl: error: {message}; see `{self.prog} --help`", file=sys.stderr)
        sys.exit(2)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command; every subcommand sets ``run``."""
    top = _Parser(
        prog="speechssl", description="Utterance-level self-supervised speech representations."
    )
    top.add_argument("--version", action="version", version=f"speechssl {speechssl.__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(
        name: str, run: Callable[[argparse.Namespace], int | None], text: str
    ) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    _prepare_arguments(
        verb("prepare", _prepare, "write Kaldi directories (and trials) from a corpus")
    )
    _validate_arguments(
        verb("validate", _validate, "check Kaldi directories before hours are spent on them")
    )
    files.shard_arguments(verb("shard", files.shard, "pack a Kaldi directory into tar shards"))
    train.train_arguments(verb("train", train.train, "train an encoder on unlabelled audio"))
    train.average_arguments(
        verb("average", train.average, "average the weights of a run's last checkpoints")
    )
    embed.arguments(verb("embed", embed.run, "one embedding per utterance"))
    verification.score_arguments(verb("score", verification.score, "cosine scores of a trial list"))
    verification.evaluate_arguments(
        verb("evaluate", verification.evaluate, "measure embeddings on a task")
    )
    finetune.arguments(verb("finetune", finetune.run, "train a classifier on labels, fold by fold"))
    cluster.arguments(verb("cluster", cluster.run, "embeddings to pseudo-labels, without labels"))
    train.pseudolabel_arguments(
        verb(
            "pseudolabel",
            train.pseudolabel,
            "cluster, train on the clusters, and again, without labels",
        )
    )
    diagnose.arguments(
        verb("diagnose", diagnose.run, "has a model collapsed? which is best? without labels")
    )
    _report_arguments(verb("report", _report, "gather an experiment's results into one table"))
    files.export_arguments(verb("export", files.export, "a model for other programs"))
    _list_arguments(verb("list", _list, "the encoders, methods, corpora ... that there are"))
    return top


def _prepare_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("corpus", help="see `speechssl list corpora`")
    sub.add_argument("rest", nargs=argparse.REMAINDER, help="see `speechssl prepare CORPUS --help`")


def _prepare(arguments: argparse.Namespace) -> None:
    from speechssl.cli.signature import add_parameters, call

    known = parts.names("corpora")
    if arguments.corpus not in known:
        raise UserError(f"prepare: no corpus {arguments.corpus!r}; known: {', '.join(known)}")
    function = parts.find("corpora", arguments.corpus)
    sub = _Parser(prog=f"speechssl prepare {arguments.corpus}")
    add_parameters(sub, function)
    call(function, sub.parse_args(arguments.rest))


def _validate_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="a Kaldi directory")
    sub.add_argument(
        "--read-audio", action="store_true", help="decode every file too, and compare lengths"
    )


def _validate(arguments: argparse.Namespace) -> None:
    from speechssl.data.manifest import validate

    count = 0
    for directory in arguments.directories:
        problems = validate(directory, read_audio=arguments.read_audio)
        count += len(problems)
        print("\n".join(problems) if problems else f"{directory}: fine")
    if count:
        raise UserError(
            f"validate: {count} problem{'s' if count > 1 else ''}, listed above; mend them first"
        )


def _report_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "experiment", type=Path, metavar="EXP", help="holds eval/MODEL/LIST/results.json"
    )
    sub.add_argument(
        "--compare", action="store_true", help="methods beside each other: comparison.md and .png"
    )
    sub.add_argument(
        "--record",
        action="store_true",
        help="model, data, labels, scoring of each result: record.md and .json",
    )
    sub.add_argument(
        "--transfer",
        action="store_true",
        help="emotion and other labels (recipes/emotion): transfer.md",
    )


def _report(arguments: argparse.Namespace) -> None:
    if arguments.compare:
        from speechssl.report.comparison import compare

        print(compare(arguments.experiment))
        return
    if arguments.record:
        from speechssl.report.record import record

        print(record(arguments.experiment))
        return
    if arguments.transfer:
        from speechssl.report.transfer import transfer

        print(transfer(arguments.experiment))
        return
    from speechssl.report.summary import summarise

    print(summarise(arguments.experiment))


def _list_arguments(sub: argparse.ArgumentParser) -> None:
    known = ", ".join(parts.FOLDERS)
    sub.add_argument(
        "parts", nargs="?", choices=parts.FOLDERS, metavar="PARTS", help=f"one of: {known}"
    )


def _list(arguments: argparse.Namespace) -> None:
    for folder in [arguments.parts] if arguments.parts else parts.FOLDERS:
        if not arguments.parts:
            print(f"{folder}:")
        indent = "" if arguments.parts else "  "
        for name, text in parts.descriptions(folder).items():
            print(f"{indent}{name:<18} {text}".rstrip())
