"""``speechssl evaluate classification``: what else the embedding knows."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechssl.cli import flags
from speechssl.errors import UserError


def arguments(task: argparse.ArgumentParser) -> None:
    """Arguments of ``evaluate classification``."""
    task.add_argument(
        "embeddings", metavar="EMB", help="the file that `speechssl embed --out` wrote"
    )
    flags.add_labels(task)
    flags.add_folds(task)
    task.add_argument(
        "--beside",
        nargs="+",
        default=(),
        metavar="NAME=EMB",
        help=(
            "others on the same folds (embeddings, or the --out of a run) and the gain over"
            " them, such as untrained=FILE mfcc=DIR"
        ),
    )
    task.add_argument(
        "--classifier", default="logistic", help="logistic (default), svm, knn, lda or mlp"
    )
    flags.add_class_weight(task)
    flags.add_replicates(task)
    flags.add_seed(task)
    task.add_argument("--model", help="written into the results: whose embeddings these are")
    task.add_argument(
        "--out", type=Path, metavar="DIR", help="for results.json, predictions and the plot"
    )


def run(args: argparse.Namespace) -> None:
    """The table on standard output, files and the confusion plot into ``--out``."""
    from speechssl.data.kaldi import read_values
    from speechssl.data.vectors.files import read_vectors
    from speechssl.evaluation.classification import classify

    options = {
        "labels": read_values(args.labels, "label"),
        "groups": read_values(args.groups, "spk"),
        "test_folds": args.test_folds,
        "classifier": args.classifier,
        "balanced": args.class_weight == "balanced",
        "replicates": args.replicates,
        "seed": args.seed,
    }
    others = dict(_named(word) for word in args.beside)
    measured = classify.evaluate(
        *read_vectors(args.embeddings),
        folds=flags.read_folds(args.folds),
        model=args.model,
        **options,
    )
    if others:
        measured.results["beside"] = {
            name: classify.compare(
                measured,
                classify.read_predictions(file),
                replicates=args.replicates,
                seed=args.seed,
            )
            if Path(file).is_dir()
            else classify.beside(measured, *read_vectors(file), **options)
            for name, file in others.items()
        }
    if args.out:
        from speechssl.report import plots

        classify.write_results(args.out, measured)
        results = measured.results
        plots.confusion_plot(results["labels"], results["confusion"], args.out / "confusion.png")
    print(_text(measured.results))


def _named(word: str) -> tuple[str, str]:
    """Name and file of ``NAME=FILE``."""
    name, _, file = word.partition("=")
    if not name or not file:
        raise UserError(f"--beside {word}: give NAME=FILE, such as untrained=untrained.npz")
    return name, file


def _text(results: Mapping[str, Any]) -> str:
    classes = "weigh alike" if results["balanced"] else "weigh as often as they occur"
    rows = [
        f"utterances    {results['utterances']}, {results['groups']} groups,"
        f" {len(results['folds'])} folds"
    ]
    if results["without_label"]:
        rows.append(f"without label {results['without_label']}, left out")
    for key in ("micro_f1", "macro_f1", "uar"):
        interval = results[f"{key}_interval"]
        spread = f"   [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
        rows.append(
            f"{key:<14}{results[key]:.3f}{spread}   majority class {results['majority'][key]:.3f}"
        )
    for name, row in results.get("beside", {}).items():
        interval = row["macro_f1_gain_interval"]
        spread = f" [{interval[0]:+.3f}, {interval[1]:+.3f}]" if interval else ""
        rows.append(
            f"beside {name}: macro_f1 {row['macro_f1']:.3f}, gain"
            f" {row['macro_f1_gain']:+.3f}{spread}"
        )
    rows.append(f"classifier    {results['classifier']}; classes {classes} in training")
    width = max(len(name) for name in results["labels"])
    rows += [f"  F1 {name:<{width}}  {value:.3f}" for name, value in results["class_f1"].items()]
    return "\n".join(rows)
