"""``speechssl evaluate classification``: what else the embedding knows."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechssl.errors import UserError


def arguments(task: argparse.ArgumentParser) -> None:
    """Arguments of ``evaluate classification``."""
    task.add_argument(
        "embeddings", metavar="EMB", help="the file that `speechssl embed --out` wrote"
    )
    task.add_argument(
        "--labels", required=True, type=Path, metavar="UTT2LABEL", help="such as DIR/utt2emotion"
    )
    task.add_argument(
        "--groups",
        required=True,
        type=Path,
        metavar="UTT2SPK",
        help="no group is in two folds (speakers)",
    )
    task.add_argument(
        "--folds",
        default="5",
        metavar="N|FILE",
        help="how many (default: 5), 0 for a fold each group, or lines `utterance fold`",
    )
    task.add_argument(
        "--test-folds",
        nargs="+",
        default=(),
        metavar="FOLD",
        help="test on these only, trained on the others (default: each fold in turn)",
    )
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
    task.add_argument(
        "--class-weight",
        choices=("balanced", "none"),
        default="balanced",
        help="balanced: classes weigh alike in training (logistic, svm; the others cannot)",
    )
    task.add_argument("--replicates", type=int, default=1000, help="bootstrap resamples of groups")
    task.add_argument("--seed", type=int, default=0)
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
        *read_vectors(args.embeddings), folds=folds_of(args.folds), model=args.model, **options
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


def folds_of(word: str) -> int | dict[str, str]:
    """``--folds``: how many, or the table that a file holds."""
    from speechssl.data.kaldi import read_values

    return int(word) if word.isdigit() else read_values(Path(word), "fold")


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
