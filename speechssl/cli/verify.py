"""Say whether two recordings are of one speaker.

The score is the cosine of their embeddings; the verdict is what a calibration makes of it: the one
stored with the model (`speechssl calibrate`), or that of `--calibration`. Without one, the score is
all that is known. Several recordings before the last are one enrolment: their embeddings are
averaged.
"""

from __future__ import annotations

import argparse
import json

from speechssl.cli import flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl verify`."""
    flags.add_model_or_name(parser)
    parser.add_argument(
        "recordings",
        nargs="+",
        metavar="AUDIO",
        help="two audio files, or several of one speaker and then the one to compare",
    )
    parser.add_argument(
        "--channel",
        type=flags.count,
        metavar="N",
        help="which channel of each recording, from 1 (default: the mean of all)",
    )
    flags.add_vad(parser, "compare speech only")
    flags.add_calibration(parser)
    flags.add_prior(parser, "probability, before listening, that the speaker is the same")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of lines for people"
    )
    flags.add_device(parser)
    flags.add_precision(parser)
    flags.add_allow_code(parser)


def run(args: argparse.Namespace) -> None:
    """Embed, compare, and print score and verdict."""
    from speechssl.data.manifest import Utterance
    from speechssl.embed.cutting import warn_of_mixing
    from speechssl.embed.embedder import Embedder
    from speechssl.speakers.comparison import verify

    embedder = Embedder.from_pretrained(
        args.model, args.device, args.precision, allow_code=tuple(args.allow_code)
    )
    calibration = flags.read_calibration(args, embedder.model)
    utterances = [Utterance(path, path, channel=args.channel) for path in args.recordings]
    warn_of_mixing(utterances, "--channel N compares one")
    found = verify(
        embedder,
        args.recordings,
        prior=args.prior,
        calibration=calibration,
        channel=args.channel,
        vad=args.vad,
    )
    print(json.dumps(found.as_json()) if args.json else found)
