"""Learn what a model's scores mean, from trials whose answers are known.

Writes calibration.json into the model's folder, where `speechssl verify` and `speechssl identify`
find it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from speechssl.cli import flags, scoring

if TYPE_CHECKING:
    from speechssl.data.trials import Trials
    from speechssl.speakers.quality import Quality


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl calibrate`."""
    flags.add_model_or_name(parser)
    flags.add_embeddings(parser)
    scoring.add_trials(parser, required=True)
    parser.add_argument(
        "--durations",
        type=Path,
        metavar="UTT2DUR",
        help="seconds of the utterances, as utt2dur of a Kaldi directory: the threshold then falls with"
        " the length of the shorter side; give trials of short and of long ones",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="DIRECTORY",
        help="where the trials' utterances are (Kaldi directories): the threshold then also depends on"
        " whether recordings are by telephone (of a narrow band), which is heard; give trials of both"
        " kinds and between them",
    )
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
    from speechssl.speakers.quality import ASSUMED, Quality

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
    seconds = None if args.durations is None else _shorter_sides(measured.trials, args.durations)
    narrow = None if args.data is None else _narrow_sides(measured.trials, args.data)
    quality = Quality(seconds, narrow)
    if narrow is not None:
        _refuse_missing_kinds(quality, measured.trials)
    found = calibration.fit(
        measured.scores, measured.trials.target, source, args.prior, quality=quality
    )
    found = replace(found, model=digest(model))
    out = args.out or folder.path / calibration.FILE
    found.write(out)
    told = f"threshold {found.threshold(0.5):.4f} at equal priors"
    if seconds is not None:
        others = ", ".join(
            f"{found.threshold(0.5, Quality(s)):.4f} for {s:g} s" for s in (0.5, 1, 10)
        )
        told += f" for {ASSUMED:g} s on the shorter side ({others})"
    if narrow is not None:
        one, both = (found.threshold(0.5, Quality(None, sides)) for sides in ((1, 0), (1, 1)))
        told += f"; {one:.4f} where one side is by telephone, {both:.4f} where both are"
        kinds = quality.one_narrow(), quality.both_narrow()
        counts = ", ".join(str(round(float(kind.sum()))) for kind in kinds)
        told += f" ({counts} such trials)"
    print(f"{told}; {found.describe()}")
    print(f"written to {out}")


def _shorter_sides(trials: Trials, durations: Path) -> list[float]:
    """Return the seconds of the shorter side of each trial.

    Raises:
        UserError: the table is missing or cannot be read, has no line of an utterance, two of one, or one
            that is no duration.
    """
    from speechssl.audio.tables import refuse
    from speechssl.data.kaldi import read_durations
    from speechssl.errors import UserError

    remedy = "give the utt2dur of the utterances that the trials name"
    if not durations.exists():
        raise UserError(f"{durations}: no such file; {remedy}")
    seconds = read_durations(durations, refuse)
    missing = trials.unknown(seconds)
    if missing:
        raise UserError(f"{durations}: has no duration of {missing[0]!r}; {remedy}")
    pairs = zip(trials.enrol.tolist(), trials.test.tolist(), strict=True)
    return [min(seconds[enrol], seconds[test]) for enrol, test in pairs]


def _narrow_sides(trials: Trials, directories: Sequence[str]) -> tuple[list[bool], list[bool]]:
    """Return of the enrolled side and of the other, whether each trial's recording is of a narrow band.

    Raises:
        UserError: a directory or a recording cannot be read, or no directory has an utterance.
    """
    from speechssl.data.manifest import read_manifest
    from speechssl.errors import UserError
    from speechssl.speakers.quality import are_narrow

    used = {*trials.enrol.tolist(), *trials.test.tolist()}
    utterances = []
    for directory in directories:
        utterances += [one for one in read_manifest(directory).utterances if one.id in used]
    is_narrow = dict(zip([one.id for one in utterances], are_narrow(utterances), strict=True))
    missing = trials.unknown(is_narrow)
    if missing:
        raise UserError(
            f"calibrate: no directory of --data has the utterance {missing[0]!r}; give those that were"
            " embedded"
        )
    enrolled = [is_narrow[name] for name in trials.enrol.tolist()]
    return enrolled, [is_narrow[name] for name in trials.test.tolist()]


def _refuse_missing_kinds(quality: Quality, trials: Trials) -> None:
    """Refuse trials from which the threshold of a kind of pair cannot be learnt.

    Raises:
        UserError: of one speaker, or of two, there is no trial between two wide-band recordings, two by
            telephone, or one of each.
    """
    from speechssl.errors import UserError

    one, both = quality.one_narrow(), quality.both_narrow()
    kinds = {
        "where neither side is by telephone": 1 - one - both,
        "where one side is by telephone": one,
        "where both sides are by telephone": both,
    }
    for kind, share in kinds.items():
        for answer, wanted in (("one speaker", trials.target), ("two speakers", ~trials.target)):
            if not share[wanted].any():
                raise UserError(
                    f"calibrate: --data: no trial of {answer} {kind}, so that its threshold cannot be"
                    " known; give trials of all kinds, or leave --data out"
                )
