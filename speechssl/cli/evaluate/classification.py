"""Measure the F1 of a probe on labels such as emotions, with speaker-disjoint folds.

Prints the figures; with --out writes results.json, predictions, utt2fold and confusion.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechssl.cli import classified, flags

if TYPE_CHECKING:
    from speechssl.evaluation.classification.classify import Classification


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl evaluate classification`."""
    flags.add_embeddings(parser)
    flags.add_labels(parser)
    flags.add_folds(parser)
    flags.add_subjects(parser)
    flags.add_beside(
        parser,
        "NAME=EMB",
        "others on the same folds (embeddings, or the --out of a run) and the gain over them, such as"
        " untrained=FILE mfcc=DIR",
    )
    parser.add_argument(
        "--classifier",
        default="logistic",
        metavar="NAME",
        help="what the probe is: logistic, svm, knn, lda or mlp (default: logistic)",
    )
    flags.add_class_weight(parser)
    flags.add_replicates(parser)
    flags.add_seed(parser)
    flags.add_model_name(parser)
    flags.add_out(parser, "folder for results.json, predictions, utt2fold and confusion.png")


def run(args: argparse.Namespace) -> None:
    """Probe, write into ``--out`` and print the table."""
    with flags.writing_alone(args.out):
        _measure(args)


def _measure(args: argparse.Namespace) -> None:
    from speechssl.data.kaldi import read_values
    from speechssl.data.vectors.files import read_vectors
    from speechssl.evaluation.classification import classify, subjects

    subject_of = classified.read_subjects(args)
    options = {
        "labels": read_values(args.labels, "label"),
        "groups": read_values(args.groups, "spk"),
        "test_folds": args.test_folds,
        "classifier": args.classifier,
        "balanced": args.class_weight == "balanced",
        "replicates": args.replicates,
        "seed": args.seed,
    }
    others = flags.named_paths(args.beside)
    ids, embeddings = read_vectors(args.embeddings)
    folds = flags.read_folds(args.folds)
    if subject_of is not None:
        labels = options["labels"]
        labelled = {name: labels[name] for name in ids.tolist() if name in labels}
        own_folds = not isinstance(folds, int)
        subjects.check(labelled, options["groups"], subject_of, own_folds=own_folds)
    measured = classify.evaluate(ids, embeddings, folds=folds, model=args.model, **options)
    for name, path in others:
        beside = measured.results.setdefault("beside", {})
        beside[name] = _compare(measured, path, options)
    classified.conclude(args, measured, subject_of, _table(measured.results))


def _compare(measured: Classification, path: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Compare a run with other embeddings, or with the predictions in the folder of another run."""
    from speechssl.data.vectors.files import read_vectors
    from speechssl.data.vectors.folder import holds_embeddings
    from speechssl.evaluation.classification import classify, comparing

    what = f"--beside {path}"
    if path.is_dir() and not holds_embeddings(path):
        return comparing.compare_predictions(
            measured,
            classify.read_predictions(path),
            replicates=options["replicates"],
            seed=options["seed"],
            what=what,
        )
    ids, embeddings = read_vectors(path)
    return comparing.compare_embeddings(measured, ids, embeddings, what=what, **options)


def _table(results: Mapping[str, Any]) -> str:
    """Return the figures of a run, a line each, with their intervals."""
    from speechssl.evaluation.classification.classify import MEASURES
    from speechssl.metrics import format_interval

    lines = [
        f"utterances    {results['utterances']}, {results['groups']} groups,"
        f" {len(results['folds'])} folds"
    ]
    if results["without_label"]:
        lines.append(f"without label {results['without_label']}, left out")
    for name in MEASURES:
        interval = format_interval(results[f"{name}_interval"], ".3f")
        value = f"{results[name]:.3f}  {interval}".rstrip()
        lines.append(f"{name:<14}{value}   majority class {results['majority'][name]:.3f}")
    for name, other in results.get("beside", {}).items():
        interval = format_interval(other["macro_f1_gain_interval"], "+.3f")
        lines.append(
            f"beside {name}: macro_f1 {other['macro_f1']:.3f}, gain"
            f" {other['macro_f1_gain']:+.3f}{interval}"
        )
    weights = "weigh alike" if results["balanced"] else "weigh as often as they occur"
    lines.append(f"classifier    {results['classifier']}; classes {weights} in training")
    width = max(len(name) for name in results["labels"])
    for name, value in results["class_f1"].items():
        lines.append(f"  F1 {name:<{width}}  {value:.3f}")
    return "\n".join(lines)
