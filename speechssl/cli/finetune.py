"""Train a classifier on labels, fold by fold.

The classifier and the layers after pooling are trained first, then everything. Both stages are
repeated for every share of the training labels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechssl.cli import classified, flags

if TYPE_CHECKING:
    from speechssl.data.manifest import Utterance
    from speechssl.finetune import FinetuneSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl finetune`."""
    flags.add_model(parser)
    parser.add_argument("data", nargs="+", type=Path, metavar="DIR", help="a Kaldi directory")
    flags.add_remote(parser)
    flags.add_labels(parser)
    flags.add_folds(parser)
    flags.add_subjects(parser)
    parser.add_argument(
        "--fractions",
        nargs="+",
        type=flags.share,
        default=(0.01, 0.05, 0.1, 1.0),
        metavar="SHARE",
        help="shares of the training labels (default: 0.01 0.05 0.1 1)",
    )
    _add_training(parser)
    flags.add_class_weight(parser)
    flags.add_precision(parser)
    flags.add_device(parser)
    flags.add_allow_code(parser)
    flags.add_replicates(parser)
    flags.add_seed(parser)
    parser.add_argument(
        "--name", metavar="TEXT", help="which model this is, for results.json (default: MODEL)"
    )
    flags.add_out(parser, "folder for results.json, the predictions and confusion.png")
    parser.add_argument(
        "--save",
        type=Path,
        metavar="DIR",
        help="folder for a classifier, trained on all labels (but those of --test-folds), for"
        " `speechssl predict`",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    """Add the settings of the two training steps."""
    _add_first_stage(parser)
    _add_second_stage(parser)
    parser.add_argument(
        "--batch-size",
        type=flags.count,
        default=32,
        metavar="N",
        help="utterances in a batch, in both stages (default: 32)",
    )


def _add_first_stage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--affine-steps",
        type=flags.whole_number,
        default=300,
        metavar="N",
        help="batches of the first stage, which trains the layers after pooling (default: 300)",
    )
    parser.add_argument(
        "--affine-lr",
        type=flags.positive,
        default=1e-3,
        metavar="RATE",
        help="learning rate of the first stage (default: 1e-3)",
    )


def _add_second_stage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--epochs",
        type=flags.whole_number,
        default=5,
        metavar="N",
        help="epochs of the second stage, which trains everything; 0 leaves it out (default: 5)",
    )
    parser.add_argument(
        "--lr",
        type=flags.positive,
        default=2e-4,
        metavar="RATE",
        help="learning rate of the second stage (default: 2e-4)",
    )
    parser.add_argument(
        "--seconds",
        type=flags.positive,
        default=3.0,
        metavar="SECONDS",
        help="length of the training crops of the second stage (default: 3)",
    )


def run(args: argparse.Namespace) -> None:
    """Fine-tune; a line per fold on standard error, the table on standard output."""
    with flags.writing_alone(args.out), flags.writing_alone(_other_folder(args)):
        _finetune(args)


def _other_folder(args: argparse.Namespace) -> Path | None:
    """Return the folder of ``--save`` unless it is that of ``--out``, which is held already."""
    if args.save and args.out and args.save.resolve() == args.out.resolve():
        return None
    save: Path | None = args.save
    return save


def _finetune(args: argparse.Namespace) -> None:
    """Do what `run` does, as the only writer of the folder."""
    from speechssl import finetune
    from speechssl.audio.remotes import Remotes
    from speechssl.data.kaldi import read_values
    from speechssl.data.manifest import read_manifest
    from speechssl.embed.networks import load_model
    from speechssl.evaluation.classification import subjects

    subject_of = classified.read_subjects(args)
    remotes = Remotes(args.remote)
    utterances: list[Utterance] = []
    for directory in args.data:
        utterances.extend(read_manifest(directory, remotes=remotes))
    labels = read_values(args.labels, "label")
    groups = read_values(args.groups, "spk")
    folds = flags.read_folds(args.folds)
    if subject_of is not None:
        own_folds = not isinstance(folds, int)
        labelled = {u.id: labels[u.id] for u in utterances if u.id in labels}
        subjects.check(labelled, groups, subject_of, own_folds=own_folds)
    measured = finetune.finetune(
        load_model(args.model, allow_code=args.allow_code),
        utterances,
        labels,
        groups,
        folds=folds,
        test_folds=args.test_folds,
        fractions=args.fractions,
        settings=_settings(args),
        device=args.device,
        replicates=args.replicates,
        say=lambda line: print(line, file=sys.stderr, flush=True),
        name=args.name or str(Path(args.model)),
        save=args.save,
    )
    classified.conclude(args, measured, subject_of, _curve(measured.results))


def _settings(args: argparse.Namespace) -> FinetuneSettings:
    """Return the settings of both training stages."""
    from speechssl.finetune import FinetuneSettings

    return FinetuneSettings(
        affine_steps=args.affine_steps,
        affine_lr=args.affine_lr,
        epochs=args.epochs,
        lr=args.lr,
        batch_size=args.batch_size,
        seconds=args.seconds,
        class_weight=args.class_weight,
        precision=args.precision,
        seed=args.seed,
    )


def _curve(results: Mapping[str, Any]) -> str:
    """Return a line of figures for each share of labels and stage; macro_f1 has its interval."""
    from speechssl.metrics import format_interval

    lines = ["labels   trained   micro_f1   uar        macro_f1"]
    for row in results["curve"]:
        line = f"{row['labels']:6.0f}   {row['step']:<8}  "
        line += f"{row['micro_f1']:.3f}      {row['uar']:.3f}      {row['macro_f1']:.3f}"
        line += format_interval(row["macro_f1_interval"], ".3f")
        lines.append(line.rstrip())
    return "\n".join(lines)
