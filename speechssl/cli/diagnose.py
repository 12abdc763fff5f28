"""Tell without labels whether a model has collapsed, and which of several is best.

Give an embeddings file, or a model and audio, or several models and audio with --rank. With audio,
several crops of each utterance are embedded, so that figures of confusion are computed, too; a run
folder is shown beside its untrained encoder. The last line of the output is the verdict.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechssl.cli import flags
from speechssl.errors import UserError, writing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from speechssl.data.manifest import Utterance
    from speechssl.report.diagnosis import Finding

    Plan = list[list[Utterance]]
    """Crops of each utterance (`embed.random_crops.plan_crops`)."""


MOST_ROWS = 100_000
"""Embeddings of a folder that are looked at, drawn by lot."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl diagnose`."""
    parser.add_argument(
        "subjects",
        nargs="+",
        metavar="SUBJECT",
        help=(
            "embeddings, a file or folder; or model or run folders, and last the audio (a file, folder,"
            " wav.scp or Kaldi directory)"
        ),
    )
    parser.add_argument(
        "--rank", action="store_true", help="order several models by their figures, best first"
    )
    _add_crops(parser)
    flags.add_remote(parser)
    flags.add_seed(parser)
    flags.add_device(parser)
    flags.add_precision(parser)
    flags.add_allow_code(parser)
    flags.add_out(parser, "folder for diagnostics.json and spectrum.png, or ranking.json")


def _add_crops(parser: argparse.ArgumentParser) -> None:
    """Add what is drawn of the audio."""
    parser.add_argument(
        "--utterances",
        type=flags.count,
        default=1000,
        metavar="N",
        help="draw at most N utterances of the audio (default: 1000)",
    )
    parser.add_argument(
        "--views",
        type=flags.count,
        default=4,
        metavar="N",
        help="random crops of each utterance (default: 4)",
    )
    parser.add_argument(
        "--seconds",
        type=flags.positive,
        default=2.0,
        metavar="SECONDS",
        help="length of a crop (default: 2)",
    )


def run(args: argparse.Namespace) -> None:
    """Print the figures and the verdict.

    Raises:
        UserError: the subjects are neither of the three combinations.
    """
    with flags.writing_alone(args.out):
        if args.rank:
            _rank_models(args)
        elif len(args.subjects) == 1 and _are_embeddings(args.subjects[0]):
            _diagnose_file(args)
        elif len(args.subjects) == 2:
            _diagnose_model(args)
        else:
            raise UserError(
                "diagnose: give an embeddings file, or a model folder and audio; several models"
                " need --rank"
            )


def _are_embeddings(subject: str) -> bool:
    """True for a file, and for a folder of embeddings or its address."""
    from speechssl.audio.remotes import is_address
    from speechssl.data.vectors.folder import holds_embeddings

    return Path(subject).is_file() or is_address(subject) or holds_embeddings(subject)


def _diagnose_file(args: argparse.Namespace) -> None:
    from speechssl.data.vectors.files import read_sample
    from speechssl.report import diagnosis

    path = Path(args.subjects[0])
    _, embeddings = read_sample(args.subjects[0], MOST_ROWS, args.seed)
    findings = diagnosis.diagnose(embeddings)
    _print_findings(findings)
    if args.out:
        diagnosis.write(findings, embeddings, args.out, path.stem)


def _diagnose_model(args: argparse.Namespace) -> None:
    from speechssl.report import diagnosis

    folder = Path(args.subjects[0])
    plan = _plan_crops(args)
    views = _embed(args, folder, plan)
    untrained_views = None
    others = {}
    untrained = _untrained_model(folder)
    if untrained is not None:
        untrained_views = _embed(args, untrained, plan)
        others["untrained"] = untrained_views[0]
    findings = diagnosis.diagnose(views[0], views, untrained_views)
    _print_findings(findings)
    if args.out:
        diagnosis.write(findings, views[0], args.out, folder.name, others)


def _rank_models(args: argparse.Namespace) -> None:
    from speechssl.report import diagnosis

    models = args.subjects[:-1]
    if len(models) < 2:
        raise UserError("diagnose: --rank orders two or more models; give them, and the audio last")
    plan = _plan_crops(args)
    figures = {}
    for model in models:
        views = _embed(args, Path(model), plan)
        findings = diagnosis.diagnose(views[0], views)
        figures[model] = {finding.name: finding.value for finding in findings}
    order = diagnosis.rank_models(figures)
    _print_ranking(order, figures)
    if args.out:
        _write_ranking(order, figures, args.out)


def _print_findings(findings: list[Finding]) -> None:
    from speechssl.report import diagnosis

    print(diagnosis.table(findings))
    print(diagnosis.RULE)
    print(f"verdict: {diagnosis.verdict(findings)}")


def _plan_crops(args: argparse.Namespace) -> Plan:
    """Draw the crops; they are the same for every model."""
    from speechssl.audio.remotes import Remotes
    from speechssl.embed.random_crops import plan_crops
    from speechssl.embed.sources import collect

    if args.utterances < 3 or args.views < 2:
        raise UserError("diagnose: --utterances must be at least 3, --views at least 2")
    utterances, _ = collect([args.subjects[-1]], remotes=Remotes(args.remote))
    return plan_crops(utterances, args.utterances, args.views, args.seconds, args.seed)


def _embed(args: argparse.Namespace, folder: Path, plan: Plan) -> NDArray[np.float32]:
    """Return embeddings (V, N, D) of the crops."""
    from speechssl.embed import load
    from speechssl.embed.random_crops import embed_crops

    return embed_crops(load(folder, args.device, args.precision, allow_code=args.allow_code), plan)


def _untrained_model(folder: Path) -> Path | None:
    """Return the untrained model of the run that ``folder`` is, or is a part of; None if there is
    none.
    """
    from speechssl.files import RunFolder

    for run_folder in (folder, folder.parent):
        untrained = RunFolder(run_folder).untrained.path
        if untrained.is_dir() and untrained.resolve() != folder.resolve():
            return untrained
    return None


def _print_ranking(
    order: Sequence[tuple[str, float]], figures: Mapping[str, Mapping[str, float]]
) -> None:
    from speechssl.diagnostics.ranks import diagnostics

    judged = [name for name, diagnostic in diagnostics().items() if diagnostic.better]
    width = max(len(model) for model, _ in order)
    head = "  ".join(f"{name[:14]:>14}" for name in judged)
    print(f"{'':<{width}}  {'mean rank':>9}  {head}")
    for model, mean_rank in order:
        cells = "  ".join(f"{figures[model].get(name, math.nan):>14.4g}" for name in judged)
        print(f"{model:<{width}}  {mean_rank:>9.2f}  {cells}")


def _write_ranking(
    order: Sequence[tuple[str, float]], figures: Mapping[str, Mapping[str, float]], out: Path
) -> None:
    """Write ``ranking.json``: a row for each model, best first; null where a figure is
    undefined.
    """
    from speechssl.files import write_text

    rows: list[dict[str, Any]] = []
    for model, mean_rank in order:
        row: dict[str, Any] = {"model": model, "mean_rank": mean_rank}
        for name, value in figures[model].items():
            row[name] = value if math.isfinite(value) else None
        rows.append(row)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "ranking.json", json.dumps(rows, indent=2) + "\n")
