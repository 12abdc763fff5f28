"""Flags of the verbs that score trial lists, and the settings that they stand for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from speechssl.cli import flags
from speechssl.errors import UserError

if TYPE_CHECKING:
    from speechssl.data.trials import Trials
    from speechssl.evaluation.verification.settings import VerificationSettings
    from speechssl.evaluation.verification.sources import Embeddings


def add_trials(
    parser: argparse._ActionsContainer, required: bool = False, answers: bool = True
) -> None:
    """Add ``--trials``; without `answers` a list may hold pairs alone."""
    pairs_too = "" if answers else ", or of `enrol test`"
    parser.add_argument(
        "--trials",
        required=required,
        type=Path,
        metavar="TRIALS",
        help=f"list of `enrol test target|nontarget`, or of `1|0 enrol test`{pairs_too}",
    )


def add_scoring(parser: argparse.ArgumentParser) -> None:
    """Add ``EMB`` and the flags of mean, whitening, AS-norm, PLDA and calibration."""
    flags.add_embeddings(parser)
    _add_whitening(parser)
    _add_as_norm(parser)
    _add_plda(parser)
    _add_calibration(parser)
    parser.add_argument(
        "--enrol",
        type=Path,
        metavar="SPK2UTT",
        help="lines `model utterance ...`: trials name models, each the mean of its utterances",
    )
    parser.add_argument(
        "--keep-going",
        action="store_true",
        help="leave out trials that name an id without an embedding, and count them",
    )


def _add_whitening(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--subtract-mean",
        metavar="TRAIN_EMB",
        help="subtract the mean of these training embeddings",
    )
    parser.add_argument(
        "--whiten",
        metavar="TRAIN_EMB",
        help="whiten with these training embeddings (and subtract their mean)",
    )
    parser.add_argument(
        "--shrinkage",
        type=flags.not_negative,
        default=0.1,
        metavar="S",
        help="shrinkage of the whitening: 0 whitens fully, 10 hardly at all (default: 0.1)",
    )


def _add_as_norm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--as-norm", metavar="COHORT_EMB", help="adaptive score normalisation with this cohort"
    )
    parser.add_argument(
        "--top",
        type=flags.count,
        default=300,
        metavar="N",
        help="nearest cohort embeddings that AS-norm uses (default: 300)",
    )


def _add_plda(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plda",
        metavar="TRAIN_EMB",
        help="score by PLDA of these training embeddings, with --plda-classes",
    )
    parser.add_argument(
        "--plda-classes",
        type=Path,
        metavar="UTT2CLUSTER",
        help="pseudo-speakers of the training embeddings of --plda (from `speechssl cluster`)",
    )
    parser.add_argument(
        "--plda-dim",
        type=flags.whole_number,
        default=0,
        metavar="N",
        help="directions of LDA before PLDA (default: 0, no LDA)",
    )
    parser.add_argument(
        "--plda-pca",
        type=flags.whole_number,
        default=0,
        metavar="N",
        help="principal directions kept before LDA and PLDA (default: 0, all)",
    )
    parser.add_argument(
        "--plda-shrinkage",
        type=flags.not_negative,
        default=0.1,
        metavar="S",
        help="weight of a spherical covariance within the classes of PLDA, in embeddings a"
        " dimension (default: 0.1)",
    )


def _add_calibration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="TRIALS",
        help="fit scores to log likelihood ratios on this list, which shares no trial with the test",
    )
    parser.add_argument(
        "--calibrate-with",
        metavar="EMB",
        help="embeddings of the --calibrate list (default: EMB of the test)",
    )


def scoring_settings(args: argparse.Namespace) -> VerificationSettings:
    """Return the settings that the flags of `add_scoring` stand for.

    Raises:
        UserError: flags that do not go together, or a file that cannot be read.
    """
    from speechssl.data.kaldi import are_clusters, read_mapping
    from speechssl.data.trials import read_enrolment
    from speechssl.evaluation.verification.settings import VerificationSettings

    if (args.plda is None) != (args.plda_classes is None):
        raise UserError("--plda and --plda-classes belong together; give both or none")
    if args.plda is None and (args.plda_dim or args.plda_pca):
        raise UserError("--plda-dim and --plda-pca go with --plda; leave them out")
    plda = None
    labels_used = []
    if args.plda:
        plda = (args.plda, read_mapping(args.plda_classes))
        if not are_clusters(args.plda_classes):
            labels_used.append(f"classes of PLDA, of unknown origin ({args.plda_classes})")
    return VerificationSettings(
        mean=args.subtract_mean,
        whiten=args.whiten,
        shrinkage=args.shrinkage,
        cohort=args.as_norm,
        top=args.top,
        plda=plda,
        plda_dim=args.plda_dim,
        plda_pca=args.plda_pca,
        plda_shrinkage=args.plda_shrinkage,
        enrol=read_enrolment(args.enrol) if args.enrol else None,
        calibration=_calibration(args),
        keep_going=args.keep_going,
        labels_used=labels_used,
    )


def _calibration(args: argparse.Namespace) -> tuple[Embeddings, Trials] | None:
    from speechssl.data.trials import read_trials

    if args.calibrate is None:
        if args.calibrate_with is not None:
            raise UserError("--calibrate-with goes with --calibrate; leave it out")
        return None
    return args.calibrate_with or args.embeddings, read_trials(args.calibrate)
