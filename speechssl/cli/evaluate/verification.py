"""Measure the error rates of a trial list: EER, minDCF and their intervals.

Prints the measures; with --out writes results.json, scores, scored_trials, det.json and plots (.png, .svg).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechssl.cli import flags, scoring

if TYPE_CHECKING:
    from speechssl.evaluation.verification.verify import Verification


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl evaluate verification`."""
    scoring.add_scoring(parser)
    scoring.add_trials(parser, required=True)
    parser.add_argument(
        "--speakers",
        type=Path,
        metavar="UTT2SPK",
        help="speakers that are resampled for the intervals (default: implied by target trials)",
    )
    flags.add_replicates(parser)
    flags.add_seed(parser)
    parser.add_argument(
        "--split",
        type=Path,
        metavar="UTT2LABEL",
        help=(
            "measure apart the trials whose sides have the same label and different ones, such as"
            " DIR/utt2emotion"
        ),
    )
    flags.add_beside(
        parser,
        "NAME=SCORES",
        "other systems on the same list (lines `enrol test score`, or the --out of a run), and what this"
        " one's errors exceed theirs by, with paired intervals; such as before=DIR",
    )
    flags.add_model_name(parser)
    flags.add_out(parser, "folder for results.json, the scores and the plots")


def run(args: argparse.Namespace) -> None:
    """Measure, write into ``--out`` and print the table."""
    with flags.writing_alone(args.out):
        _measure(args)


def _measure(args: argparse.Namespace) -> None:
    from speechssl.data.kaldi import read_mapping, read_values
    from speechssl.data.trials import read_trials
    from speechssl.evaluation.verification.comparing import compare_scores
    from speechssl.evaluation.verification.conditions import split_by_label, with_models
    from speechssl.evaluation.verification.verify import verify

    speakers = None
    if args.speakers:
        speakers = read_values(args.speakers, "spk")
    settings = replace(
        scoring.scoring_settings(args),
        speakers=speakers,
        replicates=args.replicates,
        seed=args.seed,
        model=args.model,
    )
    others = flags.named_paths(args.beside)
    measured = verify(args.embeddings, read_trials(args.trials), settings)
    if others:
        measured.results["beside"] = compare_scores(
            measured, others, replicates=args.replicates, seed=args.seed
        )
    if args.split:
        rows = split_by_label(
            measured,
            with_models(read_mapping(args.split), settings.enrol),
            speakers and with_models(speakers, settings.enrol),
            replicates=args.replicates,
            seed=args.seed,
        )
        measured.results["split"] = {"label": args.split.name, "rows": rows}
    if args.out:
        _write(measured, args.out, args.model or args.embeddings, args.replicates)
    print(_table(measured.results))


def _write(measured: Verification, out: Path, model: str, replicates: int) -> None:
    """Write plots, scores and results; the model is named by the last two parts of its path.

    `results.json` comes last: recipes and sweeps take an evaluation that has it for done.
    """
    from speechssl.evaluation.verification.verify import write_results
    from speechssl.report import det, plots

    target = measured.trials.target
    name = "/".join(Path(model).parts[-2:])
    bands = {}
    if replicates and measured.speakers is not None:
        bands[name] = det.band(
            measured.scores,
            target,
            measured.speakers,
            replicates=min(replicates, det.REPLICATES),
        )
    plots.det_plot({name: (measured.scores, target)}, out / "det.png", bands)
    plots.score_histogram(measured.scores, target, out / "scores.png")
    if bands:
        det.write_band(bands[name], out / "det.json")
    write_results(out, measured, scores=True)


def _table(results: Mapping[str, Any]) -> str:
    """Return the measures of a run, a line each, with their intervals."""
    counts = f"{results['targets']} targets, {results['nontargets']} non-targets"
    rows = [("trials", f"{results['trials']} ({counts})"), ("scoring", results["scoring"])]
    rows += _measure_rows(results)
    for name, other in results.get("beside", {}).items():
        rows += _difference_rows(name, other, results["trials"])
    for part in results.get("split", {}).get("rows", []):
        rows += _split_rows(part)
    return "\n".join(f"{name:<14}{value}" for name, value in rows)


def _measure_rows(results: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """Return name and text of each measure that `results` hold."""
    from speechssl.evaluation.verification.measures import MEASURES
    from speechssl.metrics import format_interval

    rows = []
    for measure in MEASURES:
        if measure.name in results:
            interval = format_interval(results.get(f"{measure.name}_interval"), ".3g")
            text = f"{results[measure.name]:.3f}{measure.unit}  {interval}"
            rows.append((measure.name, text.rstrip()))
    return rows


def _difference_rows(name: str, other: Mapping[str, Any], trials: int) -> Sequence[tuple[str, str]]:
    """Return name and text of each difference from another system."""
    from speechssl.evaluation.verification.measures import MEASURES
    from speechssl.metrics import format_interval
    from speechssl.text import printable

    shared = "" if other["trials"] == trials else f"   (on {other['trials']} trials of both)"
    rows = []
    for measure in MEASURES:
        if f"{measure.name}_difference" in other:
            interval = format_interval(other[f"{measure.name}_difference_interval"], "+.3g")
            text = (
                f"{other[f'{measure.name}_other']:.3f}{measure.unit}, this one"
                f" {other[f'{measure.name}_difference']:+.3f}{interval}{shared}"
            )
            rows.append((f"{measure.name}, {printable(name)}  ", text))
    return rows


def _split_rows(part: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """Return name and text of each measure of one combination of target and non-target trials."""
    sides = f"targets {part['targets']}, non-targets {part['nontargets']}"
    counts = f"{part['target_trials']} targets, {part['nontarget_trials']} non-targets"
    rows = []
    for name, text in _measure_rows(part):
        label = f"{name}, {sides}"
        rows.append((f"{label:<56}", f"{text}   ({counts})"))
    return rows
