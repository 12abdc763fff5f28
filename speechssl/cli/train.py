"""The verbs of `speechssl` that make models: `train`, `average` and `pseudolabel`."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechssl.errors import UserError


def train_arguments(sub: argparse.ArgumentParser) -> None:
    """The arguments of `speechssl train`."""
    sub.add_argument("config", help="a YAML file")
    sub.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that replace the file's"
    )
    sub.add_argument(
        "--out", type=Path, metavar="DIR", help="the run folder (not needed with --dry-run)"
    )
    sub.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint in --out"
    )
    sub.add_argument(
        "--dry-run", action="store_true", help="check config, data and one step, then stop"
    )
    sub.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: auto)")
    sub.add_argument(
        "--minutes", type=float, help="choose train.steps so that it takes about this long"
    )


def train(arguments: argparse.Namespace) -> None:
    """Run `speechssl train`."""
    from speechssl.train import loop

    if arguments.out is None and not arguments.dry_run:
        raise UserError(
            "train: --out is missing; give a run folder, or --dry-run to check without one"
        )
    loop.train(
        arguments.config,
        arguments.overrides,
        out=arguments.out or Path("."),
        resume=arguments.resume,
        dry_run=arguments.dry_run,
        device=arguments.device,
        minutes=arguments.minutes,
    )


def average_arguments(sub: argparse.ArgumentParser) -> None:
    """The arguments of `speechssl average`."""
    sub.add_argument("run_folder", type=Path, metavar="RUN", help="the --out of `speechssl train`")
    sub.add_argument(
        "--last", type=int, default=10, metavar="N", help="how many snapshots (default: 10)"
    )
    sub.add_argument(
        "--until", type=int, metavar="STEP", help="none after this step (default: to the end)"
    )
    sub.add_argument(
        "--out", type=Path, metavar="DIR", help="the model folder (default: RUN/model-averageN)"
    )


def average(arguments: argparse.Namespace) -> None:
    """Run `speechssl average`."""
    from speechssl.train.average import average as write

    print(write(arguments.run_folder, arguments.last, arguments.out, arguments.until))


def pseudolabel_arguments(sub: argparse.ArgumentParser) -> None:
    """The arguments of `speechssl pseudolabel`."""
    sub.add_argument("config", help="a YAML file; see `speechssl.pseudolabel.PseudoLabelSettings`")
    sub.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that replace the file's"
    )
    sub.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="goes on from what is there"
    )
    sub.add_argument("--device", default="auto", help="cpu, cuda ... (default: auto)")


def pseudolabel(arguments: argparse.Namespace) -> None:
    """Run `speechssl pseudolabel`."""
    from speechssl import pseudolabel as rounds

    done = rounds.pseudolabel(
        arguments.config, arguments.overrides, out=arguments.out, device=arguments.device
    )
    print(f"round {done['chosen']} of {len(done['rounds']) - 1} chosen; model: {done['model']}")
