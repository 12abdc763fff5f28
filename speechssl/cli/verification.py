"""The verbs of ``speechssl`` that score trial lists: ``score`` and ``evaluate verification``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechssl.cli import classification, flags
from speechssl.errors import UserError, writing

if TYPE_CHECKING:
    from speechssl.evaluation.verification.verify import Verification


_TRIALS: Any = {"type": Path, "help": "`enrol test target|nontarget` or `1|0 enrol test`"}


def _scoring_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "embeddings", metavar="EMB", help="the file that `speechssl embed --out` wrote"
    )
    sub.add_argument(
        "--subtract-mean",
        metavar="TRAIN_EMB",
        help="subtract the mean of these training embeddings",
    )
    sub.add_argument(
        "--whiten",
        metavar="TRAIN_EMB",
        help="whiten with these training embeddings (and subtract their mean)",
    )
    sub.add_argument(
        "--shrinkage",
        type=float,
        default=0.1,
        help="of the whitening, towards none at all (default: 0.1)",
    )
    sub.add_argument(
        "--as-norm", metavar="COHORT_EMB", help="adaptive score normalisation with this cohort"
    )
    sub.add_argument(
        "--top", type=int, default=300, help="nearest cohort embeddings for AS-norm (default: 300)"
    )
    sub.add_argument(
        "--plda", metavar="TRAIN_EMB", help="score by PLDA of these training embeddings ..."
    )
    sub.add_argument(
        "--plda-classes",
        type=Path,
        metavar="UTT2CLUSTER",
        help="... and their pseudo-speakers (`cluster`)",
    )
    sub.add_argument(
        "--plda-dim", type=int, default=0, help="LDA directions before PLDA (default: 0, all)"
    )
    sub.add_argument(
        "--calibrate",
        type=Path,
        metavar="TRIALS",
        help="fit scores to log likelihood ratios on this list",
    )
    sub.add_argument(
        "--calibrate-with", metavar="EMB", help="embeddings of the --calibrate list (default: EMB)"
    )
    sub.add_argument(
        "--keep-going", action="store_true", help="leave out trials that name an unknown id"
    )


def _verify(arguments: argparse.Namespace, **options: Any) -> Verification:
    from speechssl.data.kaldi import are_clusters, read_mapping
    from speechssl.data.trials import read_trials
    from speechssl.evaluation.verification.verify import verify

    calibration = None
    if arguments.calibrate:
        calibration = (
            arguments.calibrate_with or arguments.embeddings,
            read_trials(arguments.calibrate),
        )
    plda = None
    if (arguments.plda is None) != (arguments.plda_classes is None):
        raise UserError("--plda and --plda-classes belong together; give both or none")
    if arguments.plda:
        plda = (arguments.plda, read_mapping(arguments.plda_classes))
        if not are_clusters(arguments.plda_classes):
            options["labels_used"] = [
                f"classes of PLDA, of unknown origin ({arguments.plda_classes})"
            ]
    return verify(
        arguments.embeddings,
        read_trials(arguments.trials),
        mean=arguments.subtract_mean,
        whiten=arguments.whiten,
        shrinkage=arguments.shrinkage,
        cohort=arguments.as_norm,
        top=arguments.top,
        plda=plda,
        plda_dim=arguments.plda_dim,
        calibration=calibration,
        keep_going=arguments.keep_going,
        **options,
    )


def score_arguments(sub: argparse.ArgumentParser) -> None:
    """Arguments of ``score``."""
    _scoring_arguments(sub)
    what = sub.add_mutually_exclusive_group(required=True)
    what.add_argument("--trials", **_TRIALS)
    what.add_argument(
        "--nearest", type=int, metavar="K", help="each utterance with the K most alike"
    )
    what.add_argument("--all-pairs", action="store_true", help="every pair (once)")
    sub.add_argument(
        "--against",
        metavar="EMB",
        help="with --nearest or --all-pairs: look there (default: in EMB itself)",
    )
    sub.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="lines of `enrol test score`; - for standard output",
    )


def score(arguments: argparse.Namespace) -> None:
    """``score``: one line `enrol test score` a trial, or a pair."""
    from speechssl.evaluation.verification.verify import score_lines

    if arguments.trials:
        if arguments.against:
            raise UserError(
                "score: --against goes with --nearest or --all-pairs; a trial list names its own"
            )
        lines = score_lines(_verify(arguments, replicates=0))
    else:
        lines = _search(arguments)
    if arguments.out == "-":
        sys.stdout.writelines(lines)
        return
    with writing(arguments.out), open(arguments.out, "w", encoding="utf-8") as file:
        file.writelines(lines)


def _search(arguments: argparse.Namespace) -> Iterator[str]:
    from speechssl.evaluation.verification.search import search

    for name in ("as_norm", "plda", "calibrate"):
        if getattr(arguments, name):
            raise UserError(f"score: --{name.replace('_', '-')} needs --trials; leave it out")
    pairs = search(
        arguments.embeddings,
        arguments.against,
        top=arguments.nearest,
        mean=arguments.subtract_mean,
        whiten=arguments.whiten,
        shrinkage=arguments.shrinkage,
    )
    return (f"{enrol} {test} {score:.7g}\n" for enrol, test, score in pairs)


def evaluate_arguments(sub: argparse.ArgumentParser) -> None:
    """Arguments of ``evaluate TASK``."""
    tasks = sub.add_subparsers(dest="task", required=True, metavar="TASK")
    text = "F1 of a probe on labels, with speaker-disjoint folds"
    other = tasks.add_parser("classification", help=text, description=text)
    other.set_defaults(run=classification.run)
    classification.arguments(other)
    text = "EER and minDCF of a trial list, by cosine scores"
    task = tasks.add_parser("verification", help=text, description=text)
    _scoring_arguments(task)
    task.add_argument("--trials", required=True, **_TRIALS)
    task.add_argument(
        "--speakers", type=Path, metavar="UTT2SPK", help="resample these speakers for the intervals"
    )
    flags.add_replicates(task)
    flags.add_seed(task)
    task.add_argument(
        "--split",
        type=Path,
        metavar="UTT2LABEL",
        help=(
            "EER apart for trials whose sides have the same label and different ones (utt2emotion)"
        ),
    )
    task.add_argument("--model", help="written into the results: whose embeddings these are")
    task.add_argument(
        "--out", type=Path, metavar="DIR", help="for results.json, the scores and the plots"
    )


def evaluate(arguments: argparse.Namespace) -> None:
    """``evaluate verification``: the table on standard output, files and plots into ``--out``."""
    from speechssl.data.kaldi import read_mapping, read_values
    from speechssl.evaluation.verification.verify import write_results

    speakers = read_values(arguments.speakers, "spk") if arguments.speakers else None
    measured = _verify(
        arguments,
        speakers=speakers,
        replicates=arguments.replicates,
        seed=arguments.seed,
        model=arguments.model,
    )
    if arguments.split:
        from speechssl.evaluation.verification.conditions import split_by_label

        rows = split_by_label(
            measured,
            read_mapping(arguments.split),
            speakers,
            replicates=arguments.replicates,
            seed=arguments.seed,
        )
        measured.results["split"] = {"label": arguments.split.name, "rows": rows}
    if arguments.out:
        from speechssl.report import plots

        write_results(arguments.out, measured, scores=True)
        scored = (measured.scores, measured.trials.target)
        whose = "/".join(Path(arguments.model or arguments.embeddings).parts[-2:])
        plots.det_plot({whose: scored}, arguments.out / "det.png")
        plots.score_histogram(*scored, arguments.out / "scores.png")
    print(_table(measured.results))


def _table(results: Mapping[str, Any]) -> str:
    """The figures of a verification run, a line each, with their intervals."""
    units = {"eer": "%", "cllr": " bit"}
    counted = f"{results['targets']} targets, {results['nontargets']} non-targets"
    rows = [("trials", f"{results['trials']} ({counted})"), ("scoring", results["scoring"])]
    for name in ("eer", "min_dcf_0.01", "min_dcf_0.05", "act_dcf_0.01", "act_dcf_0.05", "cllr"):
        if name in results:
            interval = results.get(f"{name}_interval")
            spread = f"   [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else ""
            rows.append((name, f"{results[name]:.3f}{units.get(name, '')}{spread}"))
    for row in results.get("split", {}).get("rows", []):
        interval = row["eer_interval"]
        spread = f"   [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else ""
        counted = f"{row['target_trials']} targets, {row['nontarget_trials']} non-targets"
        sides = f"targets {row['targets']}, non-targets {row['nontargets']}"
        rows.append((f"eer, {sides:<46}", f"{row['eer']:.3f}%{spread}   ({counted})"))
    return "\n".join(f"{name:<14}{value}" for name, value in rows)
