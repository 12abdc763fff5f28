"""Learn what a model's scores mean, from trials whose answers are known.

Writes calibration.json into the model's folder, where `speechssl verify` and `speechssl identify`
find it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from speechssl.cli import flags, scoring


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl calibrate`."""
    flags.add_model_or_name(parser)
    flags.add_embeddings(parser)
    scoring.add_trials(parser, required=True)
    parser.add_argument(
        "--prior",
        type=flags.probability,
        default=0.05,
        metavar="P",
        help="share of target trials at which errors of the fit count (default: 0.05)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="where to write it instead (default: calibration.json in MODEL)",
    )
    flags.add_allow_code(parser)


def run(args: argparse.Namespace) -> None:
    """Fit, write, and print the threshold at equal priors."""
    from speechssl.data.trials import read_trials
    from speechssl.embed.networks import load_model
    from speechssl.errors import UserError
    from speechssl.evaluation.verification.verify import verify
    from speechssl.files import SHIPPED_MODELS, model_folder
    from speechssl.speakers import calibration
    from speechssl.speakers.model_digest import digest

    folder = model_folder(args.model)
    if args.out is None and folder.existing() is None:
        raise UserError(f"calibrate: {args.model} holds no model; give its folder, or --out FILE")
    is_shipped = folder.path.parent == SHIPPED_MODELS and not Path(args.model).exists()
    if args.out is None and is_shipped:
        raise UserError(
            f"calibrate: {args.model} comes with the package, whose own calibration would be replaced;"
            " give --out FILE, and FILE to `speechssl verify --calibration`"
        )
    model = load_model(args.model, allow_code=tuple(args.allow_code))
    measured = verify(args.embeddings, read_trials(args.trials), replicates=0)
    source = f"{args.trials} with {args.embeddings}"
    found = calibration.fit(measured.scores, measured.trials.target, source, args.prior)
    found = replace(found, model=digest(model))
    out = args.out or folder.path / calibration.FILE
    found.write(out)
    print(f"threshold {found.threshold(0.5):.4f} at equal priors; {found.describe()}")
    print(f"written to {out}")
