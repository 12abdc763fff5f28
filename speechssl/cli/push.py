"""Upload a model to the Hugging Face hub, with a card that holds its results.

The login is that of huggingface_hub (hf auth login). Afterwards `hub:OWNER/NAME` is the model's name.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from speechssl.cli import flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl push`."""
    flags.add_model(parser)
    parser.add_argument(
        "repository", metavar="OWNER/NAME", help="the repository; it is made if it does not exist"
    )
    parser.add_argument(
        "--results",
        nargs="+",
        default=[],
        type=Path,
        metavar="FILE",
        help="results.json of `speechssl evaluate verification`, for the card; each is named by its"
        " folder",
    )
    parser.add_argument(
        "--private", action="store_true", help="if the repository is new, make it private"
    )
    flags.add_allow_code(parser)


def run(args: argparse.Namespace) -> None:
    """Upload, and print the name to load it by."""
    from speechssl.embed import hub
    from speechssl.embed.networks import load_model

    model = load_model(args.model, allow_code=tuple(args.allow_code))
    print(hub.push(model, args.repository, results=args.results, private=args.private))
