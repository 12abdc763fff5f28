"""Find who speaks when in recordings: RTTM and a picture.

`--out calls.rttm` writes one file of all turns; `--out DIR` writes RECORDING.rttm and RECORDING.png
into a folder. Recordings that cannot be used are counted, listed and left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from speechssl.cli import flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl diarize`."""
    flags.add_model_or_name(parser)
    flags.add_recordings(parser, stdin=True)
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="OUT",
        help="a file that ends in .rttm, or a folder",
    )
    _add_speakers(parser)
    _add_windows(parser)
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="RTTM",
        help="true turns: print the diarization error rate, and draw them in the pictures",
    )
    parser.add_argument(
        "--tables", action="store_true", help="also write RECORDING.csv and RECORDING.json"
    )
    flags.add_device(parser)
    flags.add_precision(parser)
    flags.add_allow_code(parser)


def _add_speakers(parser: argparse.ArgumentParser) -> None:
    """Add what is known of the number of speakers."""
    parser.add_argument(
        "--speakers", type=flags.count, metavar="N", help="how many there are (default: found)"
    )
    parser.add_argument(
        "--min-speakers", type=flags.count, default=1, metavar="N", help="at least (default: 1)"
    )
    parser.add_argument(
        "--max-speakers", type=flags.count, default=8, metavar="N", help="at most (default: 8)"
    )
    parser.add_argument(
        "--threshold",
        type=flags.number,
        default=0.0,
        metavar="COSINE",
        help="two groups of windows whose mean cosine is below this are two speakers; higher finds"
        " more (default: 0)",
    )


def _add_windows(parser: argparse.ArgumentParser) -> None:
    """Add what is embedded, and how turns are made of it."""
    flags.add_windows(
        parser, "length of the windows that are embedded (default: 1.5)", window=1.5, hop=0.75
    )
    flags.add_vad(parser, "speech", default="energy")
    parser.add_argument(
        "--channel", type=flags.count, metavar="N", help="which channel, from 1 (default: the mix)"
    )
    parser.add_argument(
        "--change-penalty",
        type=flags.number,
        default=2.0,
        metavar="X",
        help="what a change of speakers costs: higher gives fewer, longer turns (default: 2)",
    )


def run(args: argparse.Namespace) -> None:
    """Write the turns; say on standard error what was found and what was left out."""
    from speechssl.diarize.files import diarize_to_files
    from speechssl.diarize.settings import DiarizeSettings
    from speechssl.embed.embedder import Embedder

    settings = DiarizeSettings(
        vad=args.vad,
        window=args.window,
        hop=args.hop,
        speakers=args.speakers,
        min_speakers=args.min_speakers,
        max_speakers=args.max_speakers,
        threshold=args.threshold,
        change_penalty=args.change_penalty,
        channel=args.channel,
    )
    settings.check()
    embedder = Embedder.from_pretrained(
        args.model, args.device, args.precision, allow_code=tuple(args.allow_code)
    )
    summary = diarize_to_files(
        embedder,
        args.inputs,
        args.out,
        settings,
        reference=args.reference,
        tables=args.tables,
    )
    print(summary, file=sys.stderr)
