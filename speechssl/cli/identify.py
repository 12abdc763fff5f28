"""Name the voices of recordings, or say that they are unknown.

Writes a table: recording, answer, nearest voice, its score, and the probability of the answer. The
threshold is, in this order, `--threshold`; that of `--calibration`; that of the model's
calibration.json; that of the pairs of the registered recordings, if they are enough (10 of one
voice). Without any, the answer is `undecided` and only the nearest voice is named.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from speechssl.cli import flags
from speechssl.cli.tables import cell_text, write_lines

if TYPE_CHECKING:
    from speechssl.data.manifest import Utterance
    from speechssl.speakers.voices import Answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl identify`."""
    flags.add_model_or_name(parser)
    parser.add_argument(
        "voices",
        type=Path,
        metavar="VOICES",
        help="the voices to choose from, which `speechssl register` wrote",
    )
    flags.add_recordings(parser, "recordings to name")
    flags.add_vad(parser, "listen to speech only: one side of a call is silent for half of it")
    flags.add_table_out(parser)
    parser.add_argument(
        "--threshold",
        type=flags.number,
        metavar="SCORE",
        help="score from which the nearest voice is the answer (default: of a calibration)",
    )
    flags.add_calibration(parser)
    flags.add_prior(parser, "probability, before listening, that a recording is of a known voice")
    flags.add_device(parser)
    flags.add_precision(parser)
    flags.add_allow_code(parser)


def run(args: argparse.Namespace) -> None:
    """Write a line for each recording; say on standard error where the threshold is from."""
    from speechssl.embed.batches import none_usable
    from speechssl.embed.cutting import warn_of_mixing
    from speechssl.embed.embedder import Embedder
    from speechssl.embed.sources import collect
    from speechssl.embed.speech import gather_speech
    from speechssl.speakers import voices
    from speechssl.speakers.comparison import SHORT
    from speechssl.speakers.model_digest import digest
    from speechssl.speakers.quality import are_narrow
    from speechssl.text import plural, printable

    embedder = Embedder.from_pretrained(
        args.model, args.device, args.precision, allow_code=tuple(args.allow_code)
    )
    model = digest(embedder.model, embedder.layer)
    known = voices.read_for(args.voices, model, embedder.dim)
    calibration = flags.read_calibration(args, embedder.model) or known.self_calibration()
    utterances, failed = collect(args.inputs)
    warn_of_mixing(utterances)
    kept, matrix, unreadable = gather_speech(embedder, utterances, args.vad)
    failed += unreadable
    if not kept:
        raise none_usable("identify", failed)
    asks_for_bands = args.threshold is None and calibration and calibration.knows_bands
    answers = known.identify(
        matrix,
        calibration,
        prior=args.prior,
        threshold=args.threshold,
        seconds=[utterance.counted_seconds for utterance in kept],
        narrow=are_narrow(kept) if asks_for_bands else None,
    )
    write_lines(args.out, lambda: _lines(kept, answers, cell_text(args.out)))
    for failure in failed:
        print(printable(f"left out {failure.path}: {failure.reason}"), file=sys.stderr)
    if args.threshold is not None:
        origin = f"threshold {args.threshold:g}, as given"
    elif calibration is not None:
        origin = f"threshold known from {calibration.describe()}"
    else:
        origin = "no threshold is known: calibrate the model, or give --threshold"
    told = f"{plural(len(kept), 'recording')}, {plural(len(known.names), 'voice')};"
    told += f" {len(failed)} left out; {origin}"
    short = sum(utterance.counted_seconds < SHORT for utterance in kept)
    is_length_known = args.threshold is None and calibration and calibration.duration_slope
    if short and not is_length_known:
        told += (
            f"; {short} shorter than {SHORT:g} s, whose scores are lower, so that `unknown` means"
            " little"
        )
    print(printable(told), file=sys.stderr)


def _lines(
    utterances: Sequence[Utterance], answers: Sequence[Answer], text: Callable[[str], str]
) -> Iterator[str]:
    """Yield the lines of the table; `text` makes names cells of it."""
    yield "recording\tvoice\tnearest\tscore\tprobability\n"
    for utterance, answer in zip(utterances, answers, strict=True):
        probability = "" if answer.probability is None else f"{answer.probability:.4f}"
        cells = [text(utterance.id), text(answer.voice), text(answer.nearest)]
        yield "\t".join([*cells, f"{answer.score:.4f}", probability]) + "\n"
