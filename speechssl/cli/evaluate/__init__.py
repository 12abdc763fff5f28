"""Measure embeddings on a task."""

# A task is a module of this folder with `add_arguments` and `run`, as a verb is one of `cli`.

from __future__ import annotations

import argparse
import importlib
import pkgutil

from speechssl.cli.parsers import summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a sub-parser for each task."""
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    for info in pkgutil.iter_modules(__path__):
        task = importlib.import_module(f"{__name__}.{info.name}")
        text = task.__doc__ or ""
        tasks.add_parser(
            info.name,
            help=summary(text),
            description=text,
            add_arguments=task.add_arguments,
        )


def run(args: argparse.Namespace) -> None:
    """Run the task."""
    importlib.import_module(f"{__name__}.{args.task}").run(args)
