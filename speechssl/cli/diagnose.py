"""``speechssl diagnose``: has a model collapsed, and which of several is the best, without
labels.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechssl.cli.flags import add_precision
from speechssl.errors import UserError

if TYPE_CHECKING:
    from speechssl.report.diagnosis import Finding


def arguments(sub: argparse.ArgumentParser) -> None:
    """Arguments of ``diagnose``."""
    sub.add_argument(
        "subjects",
        nargs="+",
        metavar="EMB | MODEL... DATA",
        help=(
            "an embeddings file; or model or run folders, and the audio (as for `speechssl embed`)"
            " last"
        ),
    )
    sub.add_argument("--rank", action="store_true", help="order several models, best first")
    sub.add_argument("--utterances", type=int, default=1000, help="at most so many (default: 1000)")
    sub.add_argument("--views", type=int, default=4, help="crops of each (default: 4)")
    sub.add_argument("--seconds", type=float, default=2.0, help="length of a crop (default: 2)")
    sub.add_argument("--seed", type=int, default=0, help="of the choice of crops (default: 0)")
    sub.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: auto)")
    add_precision(sub)
    sub.add_argument(
        "--out", type=Path, metavar="DIR", help="for diagnostics.json (ranking.json) and plots"
    )


def run(args: argparse.Namespace) -> None:
    """``diagnose``: the table on standard output, the verdict in its last line."""
    from speechssl.report import diagnosis

    first = Path(args.subjects[0])
    if args.rank:
        _rank(args)
    elif len(args.subjects) == 1 and first.is_file():
        from speechssl.data.vectors.files import read_vectors

        _, embeddings = read_vectors(first)
        found = diagnosis.diagnose(embeddings)
        _say(found)
        if args.out:
            diagnosis.write(found, embeddings, args.out, first.stem)
    elif len(args.subjects) == 2:
        views, untrained = _views(args, args.subjects[0], _plan(args))
        found = diagnosis.diagnose(views[0], views, untrained)
        _say(found)
        if args.out:
            others = {} if untrained is None else {"untrained": untrained[0]}
            diagnosis.write(found, views[0], args.out, first.name, others)
    else:
        raise UserError(
            "diagnose: give an embeddings file, or a model folder and audio; several models need"
            " --rank"
        )


def _say(found: list[Finding]) -> None:
    from speechssl.report import diagnosis

    print(diagnosis.table(found))
    print(f"verdict: {diagnosis.verdict(found)}")


def _plan(args: argparse.Namespace) -> Any:
    """The crops, the same for every model."""
    from speechssl.embed.sources import collect
    from speechssl.embed.views import plan_views

    if args.utterances < 3 or args.views < 2 or args.seconds <= 0:
        raise UserError(
            "diagnose: --utterances of 3 or more, --views of 2 or more, --seconds above 0"
        )
    utterances, _ = collect([args.subjects[-1]])
    return plan_views(utterances, args.utterances, args.views, args.seconds, args.seed)


def _views(args: argparse.Namespace, folder: str, plan: Any) -> tuple[Any, Any]:
    """(V, N, D) of a model, and of its untrained encoder if the folder is a run's."""
    from speechssl.embed import load
    from speechssl.embed.views import embed_views

    views = embed_views(load(folder, args.device, args.precision), plan)
    for start in (Path(folder) / "untrained", Path(folder).parent / "untrained"):
        if start.is_dir() and start.resolve() != Path(folder).resolve():
            return views, embed_views(load(start, args.device, args.precision), plan)
    return views, None


def _rank(args: argparse.Namespace) -> None:
    import json

    from speechssl.diagnostics.ranks import diagnostics
    from speechssl.report import diagnosis

    models = args.subjects[:-1]
    if len(models) < 2:
        raise UserError("diagnose: --rank orders two or more models; give them, and the audio last")
    plan = _plan(args)
    figures = {}
    for model in models:
        views, _ = _views(args, model, plan)
        figures[model] = {f.name: f.value for f in diagnosis.diagnose(views[0], views)}
    order = diagnosis.rank_models(figures)
    judged = [name for name, part in diagnostics().items() if part.better]
    width = max(len(model) for model in models)
    print(f"{'':<{width}}  {'mean rank':>9}  " + "  ".join(f"{name[:14]:>14}" for name in judged))
    for model, mean in order:
        cells = "  ".join(f"{figures[model].get(name, float('nan')):>14.4g}" for name in judged)
        print(f"{model:<{width}}  {mean:>9.2f}  {cells}")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        rows = [{"model": model, "mean_rank": mean, **figures[model]} for model, mean in order]
        text = json.dumps(rows, indent=2).replace("NaN", "null")
        (args.out / "ranking.json").write_text(text + "\n", encoding="utf-8")
