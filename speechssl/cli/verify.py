"""Say whether two recordings are of one speaker.

The score is the cosine of their embeddings; the verdict is what a calibration makes of it: the one
stored with the model (`speechssl calibrate`), or that of `--calibration`. Without one, the score is
all that is known. Several recordings before the last are one enrolment: their embeddings are
averaged.
"""

from __future__ import annotations

import argparse
import json
import math
from typing import TYPE_CHECKING, Any

from speechssl.cli import flags

if TYPE_CHECKING:
    from speechssl.speakers.calibration import Calibration

_NO_CALIBRATION = (
    "no verdict: nothing says which score of this model is high enough. 1 is the same direction,"
    " strangers are spread around a value that each model has of its own. Calibrate it once on"
    " trials with known answers (speechssl calibrate), or give --calibration"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl verify`."""
    flags.add_model_or_name(parser)
    parser.add_argument(
        "recordings",
        nargs="+",
        metavar="AUDIO",
        help="two audio files, or several of one speaker and then the one to compare",
    )
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
    import numpy as np

    from speechssl.embed.embedder import Embedder
    from speechssl.errors import UserError
    from speechssl.evaluation.verification.scoring import unit

    if len(args.recordings) < 2:
        raise UserError("verify: one recording; give two, or several of one speaker and another")
    embedder = Embedder.from_pretrained(
        args.model, args.device, args.precision, allow_code=tuple(args.allow_code)
    )
    calibration = flags.read_calibration(args, embedder.model)
    rows = unit(embedder.embed(args.recordings))
    enrolled = unit(rows[:-1].mean(axis=0, keepdims=True))[0]
    score = float(np.clip(enrolled @ rows[-1], -1, 1))
    found = describe(score, calibration, args.prior)
    if args.json:
        print(json.dumps(found))
    else:
        _print(found, calibration, args.prior)


def describe(score: float, calibration: Calibration | None, prior: float) -> dict[str, Any]:
    """Return score and verdict under the names of ``--json``."""
    found: dict[str, Any] = {"score": score, "verdict": None}
    if calibration is None:
        return found
    threshold = calibration.threshold(prior)
    return found | {
        "verdict": "same" if score >= threshold else "different",
        "probability_same": calibration.probability(score, prior),
        "log10_likelihood_ratio": float(calibration.log_likelihood_ratio(score)) / math.log(10),
        "threshold": threshold,
        "prior": prior,
        "calibration": calibration.describe(),
    }


def _print(found: dict[str, Any], calibration: Calibration | None, prior: float) -> None:
    from speechssl.text import printable

    print(f"score       {found['score']:.4f}   (cosine of the embeddings)")
    if calibration is None:
        print(_NO_CALIBRATION)
        return
    ratio = found["log10_likelihood_ratio"]
    print(
        f"verdict     {found['verdict']} speaker   (probability {found['probability_same']:.3f} that"
        f" it is the same; likelihood ratio 10^{ratio:.1f})"
    )
    print(f"threshold   {found['threshold']:.4f} at a prior of {prior:g}")
    print(f"known from  {printable(calibration.describe())}")
