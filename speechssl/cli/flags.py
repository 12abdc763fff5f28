"""Arguments that several verbs share: the same name, help and check everywhere.

A function whose default differs between verbs takes it as a parameter; the help always ends in
``(default: ...)`` where there is a default.
"""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from speechssl.model import Model
    from speechssl.speakers.calibration import Calibration


def _int(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {word}") from None


def _float(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {word}") from None


def whole_number(word: str) -> int:
    """Return a whole number of at least 0."""
    number = _int(word)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {word}")
    return number


def count(word: str) -> int:
    """Return a whole number of at least 1."""
    number = _int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {word}")
    return number


def number(word: str) -> float:
    """Return a finite number."""
    value = _float(word)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, not {word}")
    return value


def positive(word: str) -> float:
    """Return a number above 0."""
    value = _float(word)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, not {word}")
    return value


def not_negative(word: str) -> float:
    """Return a finite number of at least 0."""
    value = number(word)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {word}")
    return value


def share(word: str) -> float:
    """Return a number above 0 and at most 1."""
    number = _float(word)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, not {word}")
    return number


def probability(word: str) -> float:
    """Return a number above 0 and below 1."""
    number = _float(word)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and below 1, not {word}")
    return number


def folds(word: str) -> int | Path:
    """Return a number of folds, or the file that says which fold each utterance is in."""
    return int(word) if word.isdigit() else Path(word)


_MODELS = "small, a model folder, a run folder, another program's model, hub:owner/name"


def add_model(parser: argparse.ArgumentParser, what: str = "") -> None:
    """Add the positional ``MODEL``; `what` begins its help, such as ``where to start from: ``."""
    parser.add_argument("model", metavar="MODEL", help=f"{what}{_MODELS}")


def add_model_or_name(parser: argparse.ArgumentParser) -> None:
    """Add the positional ``MODEL`` where ``mfcc`` may stand for it."""
    parser.add_argument("model", metavar="MODEL", help=f"{_MODELS}, or mfcc (no model)")


def add_recordings(
    parser: argparse.ArgumentParser, what: str = "", more: str = "", *, stdin: bool = False
) -> None:
    """Add the positional ``INPUT ...``, recordings as `embed.sources.collect` takes them.

    Args:
        parser: of the verb.
        what: begins the help, such as ``recordings to name``.
        more: ends the list of what an input may be.
        stdin: whether ``-`` may stand for a list on standard input.
    """
    help = f"{what}: " if what else ""
    help += f"audio or video files, folders, a wav.scp, Kaldi directories{more}"
    if stdin:
        help += "; -: a list of files on standard input"
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=help)


def add_windows(
    parser: argparse.ArgumentParser, what: str, window: float | None, hop: float | None
) -> None:
    """Add ``--window`` and ``--hop``.

    Args:
        parser: of the verb.
        what: help of the first, with its default.
        window: default, seconds; None: recordings are not cut.
        hop: default, seconds; None: half a window.
    """
    parser.add_argument("--window", type=positive, default=window, metavar="SECONDS", help=what)
    parser.add_argument(
        "--hop",
        type=positive,
        default=hop,
        metavar="SECONDS",
        help=f"from one window to the next (default: {hop or 'half a window'})",
    )


def add_calibration(parser: argparse.ArgumentParser) -> None:
    """Add ``--calibration`` and ``--trials``, for `read_calibration`."""
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="calibration.json, or a file of lines `enrol test score` with --trials (default: the"
        " one stored with the model)",
    )
    parser.add_argument(
        "--trials",
        type=Path,
        metavar="TRIALS",
        help="answers to the scores of --calibration: `enrol test target|nontarget`",
    )


def add_prior(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--prior``; `what` is its help."""
    parser.add_argument(
        "--prior", type=probability, default=0.5, metavar="P", help=f"{what} (default: 0.5)"
    )


def read_calibration(args: argparse.Namespace, model: Model) -> Calibration | None:
    """Return the calibration of ``--calibration``, or else that of the model, or None.

    Args:
        args: with ``model`` and what `add_calibration` adds.
        model: the one that was loaded.

    Raises:
        UserError: a file that cannot be read or is of another model, or flags that do not go together.
    """
    from speechssl.errors import UserError
    from speechssl.speakers import calibration

    if args.trials is not None and args.calibration is None:
        raise UserError("--trials are the answers to the scores of --calibration; give both")
    if args.calibration is None:
        return calibration.of_model(args.model, model)
    if args.trials is not None:
        return calibration.from_scores(args.calibration, args.trials)
    if args.calibration.suffix != ".json":
        raise UserError(
            f"--calibration {args.calibration}: scores need their answers; give --trials, too (or a"
            " calibration.json)"
        )
    return calibration.read(args.calibration, model)


def add_allow_code(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-code``, the user's word for parts outside this package."""
    parser.add_argument(
        "--allow-code",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="build parts of this installed package where the model's folder names them (may be"
        " repeated; default: none, a folder runs no code of its own)",
    )


def add_model_name(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``, which names the embeddings in the results."""
    parser.add_argument(
        "--model", metavar="NAME", help="whose embeddings these are, for results.json"
    )


def add_embeddings(parser: argparse.ArgumentParser) -> None:
    """Add the positional ``EMB``."""
    parser.add_argument(
        "embeddings", metavar="EMB", help="file or folder that `speechssl embed --out` wrote"
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the positional ``CONFIG`` (`speechssl.conf.locate` finds its file)."""
    parser.add_argument(
        "config",
        metavar="CONFIG",
        help="a YAML file, or the name of a shipped configuration (`speechssl list conf`)",
    )


def add_overrides(parser: argparse.ArgumentParser, help: str) -> None:
    """Add ``key=value ...``, which may stand anywhere on the command line."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=help)


def add_out(parser: argparse.ArgumentParser, help: str, required: bool = False) -> None:
    """Add ``--out DIR``."""
    parser.add_argument("--out", required=required, type=Path, metavar="DIR", help=help)


def add_table_out(parser: argparse.ArgumentParser) -> None:
    """Add ``--out FILE`` of a verb whose answer is a table."""
    parser.add_argument(
        "--out", metavar="FILE", default="-", help="table to write (default: -, standard output)"
    )


def writing_alone(out: Path | None) -> contextlib.AbstractContextManager[None]:
    """Return the context in which a verb writes into ``--out``, as its only writer.

    See `locks.sole_writer_in`; without ``--out`` nothing is written and nothing locked.
    """
    if out is None:
        return contextlib.nullcontext()
    from speechssl.locks import sole_writer_in

    return sole_writer_in(out)


def add_remote(parser: argparse.ArgumentParser) -> None:
    """Add ``--remote``, the addresses that data directories may name."""
    parser.add_argument(
        "--remote",
        action="append",
        default=[],
        metavar="PREFIX",
        help="read addresses that begin with this, such as s3://bucket/ (may be repeated; default:"
        " none is read)",
    )


def add_vad(parser: argparse.ArgumentParser, what: str, default: str | None = None) -> None:
    """Add ``--vad``; `what` begins its help."""
    parser.add_argument(
        "--vad",
        default=default,
        metavar="NAME",
        help=f"{what}, found by its level (energy) or a network (silero, extra vad) (default:"
        f" {default or 'everything counts'})",
    )


def add_channels(parser: argparse.ArgumentParser) -> None:
    """Add ``--channels``."""
    parser.add_argument(
        "--channels",
        default="mix",
        metavar="WHICH",
        help="mix, each (every channel for itself, as in a stereo call), first, or a number from 1"
        " (default: mix)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1 ...; auto: a GPU if any (default: auto)"
    )


def add_precision(parser: argparse.ArgumentParser, *, int8: bool = False) -> None:
    """Add ``--precision``, with a choice of 8 bits if asked."""
    choices = ["auto", "float32", "bfloat16"]
    if int8:
        choices.append("int8")
    parser.add_argument(
        "--precision",
        choices=choices,
        default="float32",
        help="precision of the encoder's matrix products; auto: bfloat16 where the hardware has"
        " instructions for it; int8 (embed alone): large products in 8 bits, on a CPU with VNNI or"
        " AMX (default: float32)",
    )


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add ``--seed``."""
    parser.add_argument(
        "--seed",
        type=whole_number,
        default=0,
        metavar="N",
        help="seed of all random draws (default: 0)",
    )


def add_jobs(parser: argparse.ArgumentParser, help: str, default: int | None = None) -> None:
    """Add ``--jobs``; without a default, as many as there are usable cores."""
    shown = "all cores" if default is None else default
    parser.add_argument(
        "--jobs", type=count, default=default, metavar="N", help=f"{help} (default: {shown})"
    )


def add_replicates(parser: argparse.ArgumentParser) -> None:
    """Add ``--replicates``."""
    parser.add_argument(
        "--replicates",
        type=whole_number,
        default=1000,
        metavar="N",
        help="bootstrap resamples for the intervals; 0: no intervals (default: 1000)",
    )


def add_beside(parser: argparse.ArgumentParser, metavar: str, text: str) -> None:
    """Add ``--beside``, others that a system is compared with; `named_paths` reads it."""
    parser.add_argument(
        "--beside", "--against", nargs="+", default=(), metavar=metavar, help=text, dest="beside"
    )


def named_paths(words: Sequence[str]) -> list[tuple[str, Path]]:
    """Return name and path of each ``NAME=PATH`` of ``--beside``.

    Raises:
        UserError: a word is not of that form, or a name occurs twice.
    """
    from speechssl.errors import UserError

    found: dict[str, Path] = {}
    for word in words:
        name, _, file = word.partition("=")
        if not name or not file:
            raise UserError(f"--beside {word}: give NAME=FILE, such as untrained=untrained.npz")
        if name in found:
            raise UserError(f"--beside {word}: {name} is named twice; give each another name")
        found[name] = Path(file)
    return list(found.items())


def add_labels(parser: argparse.ArgumentParser) -> None:
    """Add ``--labels`` and ``--groups``, the tables of a classification."""
    parser.add_argument(
        "--labels",
        required=True,
        type=Path,
        metavar="UTT2LABEL",
        help="lines `utterance label`, such as DIR/utt2emotion",
    )
    parser.add_argument(
        "--groups",
        required=True,
        type=Path,
        metavar="UTT2SPK",
        help="lines `utterance group`; no group (speaker) is in two folds",
    )


def add_folds(parser: argparse.ArgumentParser) -> None:
    """Add ``--folds`` and ``--test-folds``."""
    parser.add_argument(
        "--folds",
        type=folds,
        default=5,
        metavar="N|FILE",
        help="how many folds; 0: one per group; FILE: lines `utterance fold` (default: 5)",
    )
    parser.add_argument(
        "--test-folds",
        nargs="+",
        default=(),
        metavar="FOLD",
        help="test on these folds, trained on the others (default: each fold in turn)",
    )


def add_subjects(parser: argparse.ArgumentParser) -> None:
    """Add ``--subjects``."""
    parser.add_argument(
        "--subjects",
        type=Path,
        metavar="FILE",
        help=(
            "utt2subject: also count subjects, each by the vote of its utterances, with intervals"
            " over subjects (a diagnosis)"
        ),
    )


def read_folds(value: int | Path) -> int | dict[str, str]:
    """Return what ``--folds`` stands for: a number, or utterance -> fold from its file."""
    if isinstance(value, int):
        return value
    from speechssl.data.kaldi import read_values

    return read_values(value, "fold")


def add_class_weight(parser: argparse.ArgumentParser) -> None:
    """Add ``--class-weight``."""
    parser.add_argument(
        "--class-weight",
        choices=("balanced", "none"),
        default="balanced",
        help="balanced: all classes weigh alike in training; none: all utterances do"
        " (default: balanced)",
    )
