"""Let a trained model go on, without labels, on your own recordings; keep it only if it is better.

Cuts the recordings, holds some of them out, changes the model in the ways that the amount of audio
allows (last layer in closed form, rounds of pseudo-labels, contrastive training; DINO if asked for),
and compares each with the model before on the held-out recordings. Says at the end what was done
and what cannot be known. The same command again continues what was interrupted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from speechssl.cli import flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl adapt`."""
    flags.add_model(parser, "where to start from: ")
    flags.add_recordings(parser, "at least 8 recordings")
    flags.add_out(parser, "where the trainings go, and OUT/model", required=True)
    parser.add_argument(
        "--way",
        action="append",
        default=[],
        metavar="WAY",
        help="try this way only (last-layer, rounds, contrastive, dino; may be repeated; default:"
        " all but dino for which there are enough recordings)",
    )
    parser.add_argument(
        "--steps",
        type=flags.count,
        metavar="N",
        help="steps of each training (default: five passes over the recordings, at most 1500)",
    )
    flags.add_seed(parser)
    flags.add_vad(parser, "the speech that is cut out", default="energy")
    flags.add_channels(parser)
    parser.add_argument(
        "--noise",
        type=Path,
        metavar="DIR",
        help="folder of noises for augmentation (default: none)",
    )
    parser.add_argument(
        "--rir",
        type=Path,
        metavar="DIR",
        help="folder of room impulse responses for augmentation (default: simulated rooms)",
    )
    flags.add_device(parser)
    flags.add_allow_code(parser)


def run(args: argparse.Namespace) -> None:
    """Adapt, and print the report."""
    from speechssl.adapt import AdaptSettings, adapt

    settings = AdaptSettings(
        start=args.model,
        audio=tuple(args.inputs),
        ways=tuple(args.way),
        steps=args.steps,
        seed=args.seed,
        vad=args.vad,
        channels=args.channels,
        noise=None if args.noise is None else str(args.noise),
        rir=None if args.rir is None else str(args.rir),
        allow_code=tuple(args.allow_code),
    )
    for line in adapt(settings, args.out, args.device)["report"]:
        print(line)
