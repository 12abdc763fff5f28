"""The ``speechssl`` command: one small subcommand a verb, each of which only calls through.

Heavy imports happen inside the subcommand, so that ``speechssl --help`` answers at once. A mistake that a
user can cause is one line on standard error and exit code 2.
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
from speechssl import _cli_cluster, _cli_diagnose, _cli_files, _cli_finetune, _cli_verification
from speechssl.errors import UserError

PARTS = ("corpora", "encoders", "methods", "predictors", "clustering", "diagnostics", "evaluation")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0, 2 for a user's mistake, 130 when interrupted)."""
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
    except BrokenPipeError:  # the reader of our output (`| head`) has left: stay quiet, at exit as well
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parsed arguments; ``key=value`` overrides may stand anywhere, which argparse alone cannot do."""
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
    top = _Parser(prog="speechssl", description="Utterance-level self-supervised speech representations.")
    top.add_argument("--version", action="version", version=f"speechssl {speechssl.__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(
        name: str, run: Callable[[argparse.Namespace], int | None], text: str
    ) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    _prepare_arguments(verb("prepare", _prepare, "write Kaldi directories (and trials) from a corpus"))
    _validate_arguments(verb("validate", _validate, "check Kaldi directories before hours are spent on them"))
    _cli_files.shard_arguments(verb("shard", _cli_files.shard, "pack a Kaldi directory into tar shards"))
    _train_arguments(verb("train", _train, "train an encoder on unlabelled audio"))
    _average_arguments(verb("average", _average, "average the weights of a run's last checkpoints"))
    _embed_arguments(verb("embed", _embed, "one embedding per utterance"))
    _cli_verification.score_arguments(verb("score", _cli_verification.score, "cosine scores of a trial list"))
    _cli_verification.evaluate_arguments(
        verb("evaluate", _cli_verification.evaluate, "measure embeddings on a task")
    )
    _cli_finetune.arguments(verb("finetune", _cli_finetune.run, "train a classifier on labels, fold by fold"))
    _cli_cluster.arguments(verb("cluster", _cli_cluster.run, "embeddings to pseudo-labels, without labels"))
    _pseudolabel_arguments(
        verb("pseudolabel", _pseudolabel, "cluster, train on the clusters, and again, without labels")
    )
    _cli_diagnose.arguments(
        verb("diagnose", _cli_diagnose.run, "has a model collapsed? which is best? without labels")
    )
    _report_arguments(verb("report", _report, "gather an experiment's results into one table"))
    _cli_files.export_arguments(verb("export", _cli_files.export, "a model for other programs"))
    _list_arguments(verb("list", _list, "the encoders, methods, corpora ... that there are"))
    return top


def _prepare_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("corpus", help="see `speechssl list corpora`")
    sub.add_argument("rest", nargs=argparse.REMAINDER, help="see `speechssl prepare CORPUS --help`")


def _prepare(arguments: argparse.Namespace) -> None:
    import importlib

    from speechssl import config
    from speechssl._signature import add_parameters, call

    known = config.names("corpora")
    if arguments.corpus not in known:
        raise UserError(f"prepare: no corpus {arguments.corpus!r}; known: {', '.join(known)}")
    function = importlib.import_module(f"speechssl.corpora.{arguments.corpus}").prepare
    sub = _Parser(prog=f"speechssl prepare {arguments.corpus}")
    add_parameters(sub, function)
    call(function, sub.parse_args(arguments.rest))


def _validate_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="a Kaldi directory")
    sub.add_argument("--read-audio", action="store_true", help="decode every file too, and compare lengths")


def _validate(arguments: argparse.Namespace) -> None:
    from speechssl.data.manifest import validate

    count = 0
    for directory in arguments.directories:
        problems = validate(directory, read_audio=arguments.read_audio)
        count += len(problems)
        print("\n".join(problems) if problems else f"{directory}: fine")
    if count:
        raise UserError(f"validate: {count} problem{'s' if count > 1 else ''}, listed above; mend them first")


def _train_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("config", help="a YAML file")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the file's")
    sub.add_argument("--out", type=Path, metavar="DIR", help="the run folder (not needed with --dry-run)")
    sub.add_argument("--resume", action="store_true", help="continue from the last checkpoint in --out")
    sub.add_argument("--dry-run", action="store_true", help="check config, data and one step, then stop")
    sub.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: auto)")
    sub.add_argument("--minutes", type=float, help="choose train.steps so that it takes about this long")


def _train(arguments: argparse.Namespace) -> None:
    from speechssl.train.loop import train

    if arguments.out is None and not arguments.dry_run:
        raise UserError("train: --out is missing; give a run folder, or --dry-run to check without one")
    train(
        arguments.config,
        arguments.overrides,
        out=arguments.out or Path("."),
        resume=arguments.resume,
        dry_run=arguments.dry_run,
        device=arguments.device,
        minutes=arguments.minutes,
    )


def _average_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("run_folder", type=Path, metavar="RUN", help="the --out of `speechssl train`")
    sub.add_argument("--last", type=int, default=10, metavar="N", help="how many snapshots (default: 10)")
    sub.add_argument("--until", type=int, metavar="STEP", help="none after this step (default: to the end)")
    sub.add_argument("--out", type=Path, metavar="DIR", help="the model folder (default: RUN/model-averageN)")


def _average(arguments: argparse.Namespace) -> None:
    from speechssl.train.checkpoint import average

    print(average(arguments.run_folder, arguments.last, arguments.out, arguments.until))


def _embed_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", metavar="MODEL", help="a model or run folder, or mfcc (statistics, no model)")
    sub.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="audio files, folders, a wav.scp, Kaldi directories; - is a list of files on standard input",
    )
    sub.add_argument(
        "--out", required=True, metavar="FILE", help=".npz, .ark, .scp, .parquet, or - for one line a file"
    )
    sub.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: auto)")
    sub.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    sub.add_argument("--jobs", type=int, default=1, help="processes to share the files (default: 1)")
    sub.add_argument("--readers", type=int, default=2, help="threads that decode, per process (default: 2)")
    sub.add_argument("--batch-seconds", type=float, default=60.0, help="audio in a batch (default: 60)")
    sub.add_argument(
        "--max-seconds", type=float, default=120.0, help="longer files go in pieces, averaged (default: 120)"
    )
    sub.add_argument(
        "--keep-going", action="store_true", default=True, help="skip, count and list bad files (the default)"
    )
    sub.add_argument("--strict", dest="keep_going", action="store_false", help="end at the first bad file")
    sub.add_argument("--allow-pipes", action="store_true", help="run the shell pipes of wav.scp")
    sub.add_argument("--resume", action="store_true", help="go on from what a broken run left behind")
    sub.add_argument(
        "--every", type=int, default=1, metavar="N", help="every N-th utterance only, for a training mean"
    )
    sub.add_argument(
        "--layer", default="embedding", metavar="NAME", help="which layer; a wrong name lists those there are"
    )
    sub.add_argument(
        "--network", metavar="NAME", help="student or teacher of a run folder (default: the one it saved)"
    )


def _embed(arguments: argparse.Namespace) -> None:
    from speechssl.embed import embed_to_file

    summary = embed_to_file(
        arguments.model,
        arguments.inputs,
        arguments.out,
        device=arguments.device,
        precision=arguments.precision,
        jobs=arguments.jobs,
        readers=arguments.readers,
        batch_seconds=arguments.batch_seconds,
        max_seconds=arguments.max_seconds,
        keep_going=arguments.keep_going,
        allow_pipes=arguments.allow_pipes,
        resume=arguments.resume,
        every=arguments.every,
        layer=arguments.layer,
        network=arguments.network,
    )
    if summary is not None:
        print(summary, file=sys.stderr)


def _pseudolabel_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("config", help="a YAML file; see `speechssl.pseudolabel.PseudoLabelSettings`")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the file's")
    sub.add_argument("--out", required=True, type=Path, metavar="DIR", help="goes on from what is there")
    sub.add_argument("--device", default="auto", help="cpu, cuda ... (default: auto)")


def _pseudolabel(arguments: argparse.Namespace) -> None:
    from speechssl.pseudolabel import pseudolabel

    done = pseudolabel(arguments.config, arguments.overrides, out=arguments.out, device=arguments.device)
    print(f"round {done['chosen']} of {len(done['rounds']) - 1} chosen; model: {done['model']}")


def _report_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("experiment", type=Path, metavar="EXP", help="holds eval/MODEL/LIST/results.json")
    sub.add_argument(
        "--compare", action="store_true", help="methods beside each other: comparison.md and .png"
    )
    sub.add_argument(
        "--record",
        action="store_true",
        help="model, data, labels, scoring of each result: record.md and .json",
    )
    sub.add_argument(
        "--transfer", action="store_true", help="emotion and other labels (recipes/emotion): transfer.md"
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
    sub.add_argument("parts", nargs="?", choices=PARTS, metavar="PARTS", help=f"one of: {', '.join(PARTS)}")


def _list(arguments: argparse.Namespace) -> None:
    for part in [arguments.parts] if arguments.parts else PARTS:
        rows = _parts(Path(__file__).parent / part)
        if rows and not arguments.parts:
            print(f"{part}:")
        indent = "" if arguments.parts else "  "
        for name, text in rows:
            print(f"{indent}{name:<18} {text}".rstrip())


def _parts(folder: Path) -> list[tuple[str, str]]:
    """Name and first docstring line of each part in a folder, without importing anything.

    A module is a part if it defines what the program looks for: ``PART`` (a class), ``prepare`` (a corpus),
    ``evaluate`` (a task) or a function of its own name (a diagnostic).
    """
    import ast

    rows = []
    for path in sorted(folder.glob("[!_]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assigned = [node.targets for node in tree.body if isinstance(node, ast.Assign)]
        defined |= {target.id for targets in assigned for target in targets if isinstance(target, ast.Name)}
        if defined & {"PART", "prepare", "evaluate", path.stem}:
            rows.append((path.stem, (ast.get_docstring(tree) or "").partition("\n")[0]))
    return rows
