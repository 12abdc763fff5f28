"""``speechssl finetune``: train a classifier on labels, the last affine layers first, then
everything.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from speechssl.cli.classification import folds_of
from speechssl.cli.flags import add_precision


def arguments(sub: argparse.ArgumentParser) -> None:
    """Arguments of ``finetune``."""
    sub.add_argument("model", metavar="MODEL", help="a model or run folder")
    sub.add_argument("data", nargs="+", metavar="DIR", help="a Kaldi directory")
    sub.add_argument(
        "--labels", required=True, type=Path, metavar="UTT2LABEL", help="such as DIR/utt2emotion"
    )
    sub.add_argument(
        "--groups",
        required=True,
        type=Path,
        metavar="UTT2SPK",
        help="no group is in two folds (speakers)",
    )
    sub.add_argument(
        "--folds",
        default="5",
        metavar="N|FILE",
        help="as for `evaluate classification` (its utt2fold)",
    )
    sub.add_argument(
        "--test-folds", nargs="+", default=(), metavar="FOLD", help="test on these only"
    )
    sub.add_argument(
        "--fractions",
        nargs="+",
        type=float,
        default=(0.01, 0.05, 0.1, 1.0),
        metavar="SHARE",
        help="shares of the training labels (default: 0.01 0.05 0.1 1)",
    )
    sub.add_argument(
        "--affine-steps", type=int, default=300, help="batches of the first step (default: 300)"
    )
    sub.add_argument("--affine-lr", type=float, default=1e-3, help="default: 1e-3")
    sub.add_argument(
        "--epochs", type=int, default=5, help="of the second step; 0 leaves it out (default: 5)"
    )
    sub.add_argument("--lr", type=float, default=2e-4, help="of the second step (default: 2e-4)")
    sub.add_argument("--batch-size", type=int, default=32, help="default: 32")
    sub.add_argument("--seconds", type=float, default=3.0, help="length of the crops (default: 3)")
    sub.add_argument("--class-weight", choices=("balanced", "none"), default="balanced")
    add_precision(sub)
    sub.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: auto)")
    sub.add_argument("--replicates", type=int, default=1000, help="bootstrap resamples of groups")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--name", help="written into the results: which model this is")
    sub.add_argument(
        "--out", type=Path, metavar="DIR", help="for results.json, predictions and the plot"
    )


def run(args: argparse.Namespace) -> None:
    """A line a fold on standard error, the curve on standard output, files into ``--out``."""
    from speechssl import finetune
    from speechssl.data.kaldi import read_values
    from speechssl.data.manifest import read_manifest
    from speechssl.embed.networks import load_model
    from speechssl.evaluation.classification.classify import write_results

    names = ("affine_steps", "affine_lr", "epochs", "lr", "batch_size", "seconds", "class_weight")
    settings = {name: getattr(args, name) for name in (*names, "precision", "seed")}
    measured = finetune.finetune(
        load_model(args.model),
        [utterance for folder in args.data for utterance in read_manifest(folder)],
        read_values(args.labels, "label"),
        read_values(args.groups, "spk"),
        folds=folds_of(args.folds),
        test_folds=args.test_folds,
        fractions=args.fractions,
        settings=finetune.FinetuneSettings(**settings),
        device=args.device,
        replicates=args.replicates,
        say=lambda line: print(line, file=sys.stderr, flush=True),
        name=args.name or args.model,
    )
    if args.out:
        from speechssl.report import plots

        write_results(args.out, measured)
        results = measured.results
        plots.confusion_plot(results["labels"], results["confusion"], args.out / "confusion.png")
    print("labels   trained   micro_f1   macro_f1   uar")
    for row in measured.results["curve"]:
        interval = row["macro_f1_interval"]
        spread = f"   [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
        figures = f"{row['micro_f1']:.3f}      {row['macro_f1']:.3f}      {row['uar']:.3f}"
        print(f"{row['labels']:6.0f}   {row['step']:<8}  {figures}{spread}")
