"""Train once for every combination of settings and seeds, and compare the runs in one table.

    speechssl sweep dino-small 'data.train=[DIR]' method=dino,simclr optimizer.lr=1e-3,3e-4 seed=0..4 \
        --evaluate DIR --out OUT

One folder a run, OUT/runs/NAME, named by its differences. What is done is not repeated: start the same
command again after a kill, and half runs are resumed. Settings with one value go to every run. The table
(OUT/sweep.md, sweep.tsv) has mean and spread over seeds, and paired differences with 95 % intervals.
With --optuna, Optuna chooses the settings, `key=LOW..HIGH`, `key=LOW..HIGH:log` or `key=a,b,c`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from speechssl import conf
from speechssl.cli import flags
from speechssl.errors import UserError
from speechssl.text import plural


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl sweep`."""
    flags.add_config(parser)
    flags.add_overrides(parser, "settings, such as method=dino,byol seed=0..4 train.steps=500")
    flags.add_out(parser, "the folder of the sweep", required=True)
    parser.add_argument(
        "--jobs",
        type=flags.count,
        metavar="N",
        help="runs at once (default: one a GPU; on a CPU one a usable core, with one thread each, or"
        " with OMP_NUM_THREADS)",
    )
    flags.add_device(parser)
    _add_measuring(parser)
    _add_arms(parser)
    _add_search(parser)


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    """Add what each run is measured by, and what the table compares it with."""
    parser.add_argument(
        "--evaluate",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a Kaldi directory with trials that every run is evaluated on (may be repeated)",
    )
    parser.add_argument(
        "--after",
        metavar="COMMAND",
        help="a command to run after each training; {run}, {name}, {eval}, {out} and {device} are"
        " filled in, and results.json in {eval}/LIST come into the table",
    )
    parser.add_argument(
        "--reference",
        metavar="SETTING",
        help="the setting that the others are compared with (default: the first)",
    )


def _add_arms(parser: argparse.ArgumentParser) -> None:
    """Add the table of settings that change together."""
    parser.add_argument(
        "--arms",
        type=Path,
        metavar="FILE",
        help="a table of settings that change together: a name, a tab, key=value words",
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="ARM", help="of --arms, those with these names"
    )


def _add_search(parser: argparse.ArgumentParser) -> None:
    """Add the search in place of all combinations."""
    parser.add_argument(
        "--optuna",
        type=flags.count,
        default=0,
        metavar="N",
        help="let Optuna choose N settings in place of all combinations",
    )
    parser.add_argument(
        "--objective",
        default="uniformity",
        metavar="MEASURE",
        help="what --optuna goes by: a figure of the log, or with labels LIST/eer of --evaluate"
        " (default: uniformity, which needs no label)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the tables; the exit code is 1 if a run failed."""
    from speechssl.sweep import sweep
    from speechssl.sweep.tasks import SweepSettings

    if args.only and args.arms is None:
        raise UserError("sweep: --only goes with --arms; give both")
    settings = SweepSettings(
        config=str(conf.locate(args.config)),
        words=args.overrides,
        out=args.out,
        jobs=args.jobs,
        device=args.device,
        evaluate=args.evaluate,
        after=args.after,
        arms=args.arms,
        only=args.only,
        optuna=args.optuna,
        objective=args.objective,
        reference=args.reference,
    )
    text, failed = sweep.sweep(settings)
    print(text)
    if failed:
        runs = plural(failed, "run")
        print(f"sweep: {runs} failed; the output is in {args.out}/logs", file=sys.stderr)
    return 1 if failed else 0
