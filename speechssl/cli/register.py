"""Enrol known voices from recordings, for `speechssl identify`.

Each folder in INPUT is a voice, and a file that lies in no folder is one, too; of a Kaldi directory,
utt2spk says it. `--name` makes all recordings one voice. A voice is the mean of its recordings.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from speechssl.cli import flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl register`."""
    flags.add_model_or_name(parser)
    flags.add_recordings(parser, "recordings; of several voices, a folder with a folder for each")
    flags.add_vad(
        parser, "listen to speech only, as of one side of a call, which is silent for half of it"
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="VOICES",
        help="file of voices, which ends in .safetensors",
    )
    voices = parser.add_mutually_exclusive_group()
    voices.add_argument("--name", metavar="TEXT", help="whose voice all recordings are")
    voices.add_argument(
        "--speakers", type=Path, metavar="UTT2SPK", help="lines `recording voice`, by id"
    )
    parser.add_argument(
        "--add",
        action="store_true",
        help="keep the voices that are in VOICES already; one with the same name is replaced",
    )
    flags.add_device(parser)
    flags.add_precision(parser)
    flags.add_allow_code(parser)


def run(args: argparse.Namespace) -> None:
    """Write the voices; say on standard error who was enrolled and what was left out."""
    from speechssl.embed.embedder import Embedder
    from speechssl.errors import UserError, writing
    from speechssl.locks import sole_writer
    from speechssl.speakers import voices
    from speechssl.speakers.enrolment import register
    from speechssl.text import plural, printable

    if args.out.suffix != ".safetensors":
        raise UserError(f"register: {args.out}: the name of a file of voices ends in .safetensors")
    with writing(args.out):
        args.out.parent.mkdir(parents=True, exist_ok=True)
    with sole_writer(args.out):
        before = voices.read(args.out) if args.add and args.out.exists() else None
        embedder = Embedder.from_pretrained(
            args.model, args.device, args.precision, allow_code=tuple(args.allow_code)
        )
        found, failed = register(
            embedder, args.inputs, name=args.name, speakers=args.speakers, vad=args.vad
        )
        if before is not None:
            found = before.with_others(found)
        found.write(args.out)
    for failure in failed:
        print(printable(f"left out {failure.path}: {failure.reason}"), file=sys.stderr)
    recordings = plural(len(found.ids), "recording")
    count = plural(len(found.names), "voice")
    print(f"{count} of {recordings} in {args.out}; {len(failed)} left out", file=sys.stderr)
