"""Cluster, train on the clusters, and repeat; no label is read.

CONFIG names the model to start from, the data, the clusterer and the configuration of each
training. Settings: `speechssl.pseudolabel.PseudoLabelSettings`.
"""

from __future__ import annotations

import argparse

from speechssl.cli import flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl pseudolabel`."""
    flags.add_config(parser)
    flags.add_overrides(parser, "settings that replace the file's, such as rounds=3")
    flags.add_out(
        parser, "the folder to write; what is there already is not done again", required=True
    )
    flags.add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Run the rounds and print which one was chosen."""
    from speechssl.pseudolabel import pseudolabel

    done = pseudolabel(args.config, args.overrides, out=args.out, device=args.device)
    last_round = len(done["rounds"]) - 1
    print(f"round {done['chosen']} of {last_round} chosen; model: {done['model']}")
