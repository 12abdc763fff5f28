"""Find who speaks when in recordings: RTTM and a picture.

`--out calls.rttm` writes one file of all turns; `--out DIR` writes RECORDING.rttm and RECORDING.png
into a folder. Recordings that cannot be used are counted, listed and left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from speechssl.cli import flags

if TYPE_CHECKING:
    from speechssl.data.manifest import Utterance
    from speechssl.diarize.pipeline import Diarization
    from speechssl.embed.embedder import Embedder

EACH = "each"


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
        "--voices",
        type=Path,
        metavar="VOICES",
        help="file that `speechssl register` wrote: speakers get the names of voices that are known"
        " well enough, by the threshold of the model's calibration or of the voices themselves",
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
        "--max-speakers", type=flags.count, metavar="N", help="at most (default: 8)"
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
        "--channel",
        type=_channel,
        metavar="N",
        help="which channel, from 1; each: every channel alone, for calls with one side on each"
        " (default: the mix)",
    )
    parser.add_argument(
        "--change-penalty",
        type=flags.number,
        default=2.0,
        metavar="X",
        help="what a change of speakers costs: higher gives fewer, longer turns (default: 2)",
    )


def _channel(text: str) -> int | str:
    """Return the number of a channel, or `EACH`."""
    if text == EACH:
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be {EACH}, or a number from 1, not {text!r}")
    return flags.count(text)


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
        channel=None if args.channel == EACH else args.channel,
        each_channel=args.channel == EACH,
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
        named=None if args.voices is None else _names_of(args.voices, args.model, embedder),
    )
    print(summary, file=sys.stderr)


def _names_of(
    path: Path, model: str, embedder: Embedder
) -> Callable[[Diarization, Utterance], Diarization]:
    """Return what gives speakers the names of known voices.

    Args:
        path: the file of voices.
        model: as the user named it; its calibration lies beside it.
        embedder: that model.

    Raises:
        UserError: the file is of another model, or no threshold is known.
    """
    from speechssl.diarize.turns import seconds_of
    from speechssl.errors import UserError
    from speechssl.speakers import calibration, voices
    from speechssl.speakers.model_digest import digest
    from speechssl.speakers.quality import are_narrow

    known = voices.read_for(path, digest(embedder.model, embedder.layer), embedder.dim)
    threshold = calibration.of_model(model, embedder.model) or known.self_calibration()
    if threshold is None:
        raise UserError(
            f"diarize: --voices {path}: no threshold is known; calibrate the model (speechssl"
            " calibrate), or register more recordings of each voice"
        )

    def named(found: Diarization, recording: Utterance) -> Diarization:
        heard = seconds_of(found.turns)
        seconds = [heard[speaker] for speaker in found.speakers]
        narrow = None
        if threshold.knows_bands:
            channels = [found.channel_of.get(name, recording.channel) for name in found.speakers]
            used = list(dict.fromkeys(channels))
            sides = [replace(recording, channel=channel) for channel in used]
            is_narrow = dict(zip(used, are_narrow(sides), strict=True))
            narrow = [is_narrow[channel] for channel in channels]
        answers = known.identify(found.vectors, threshold, seconds=seconds, narrow=narrow)
        names = {}
        for speaker, answer in zip(found.speakers, answers, strict=True):
            if answer.voice != voices.UNKNOWN:
                names[speaker] = answer.voice
            elif speaker in known.names:  # a voice that somebody called `speaker1`
                names[speaker] = f"{voices.UNKNOWN}-{speaker}"
        return found.renamed(names)

    return named
