"""Write the page: one HTML file that opens from the disk and asks no host for anything."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

import speechssl
from speechssl import files
from speechssl.errors import UserError, writing
from speechssl.report.page.blocks import Block, shortened
from speechssl.report.page.material import Material, PageSettings, collect
from speechssl.report.page.section import sections

MOST_BYTES = 25_000_000
"""Largest page."""

AUDIO_BYTES = 14_000_000
"""Room for audio; Plotly takes 5 MB, figures and spectrograms the rest."""


def write_page(
    experiments: Sequence[Path],
    out: Path,
    *,
    data: Sequence[Path] = (),
    audio: bool = True,
    chosen: PageSettings | None = None,
) -> Material:
    """Write the page of one or more experiments.

    Args:
        experiments: their folders.
        out: the HTML file.
        data: Kaldi directories of the utterances, for labels and audio.
        audio: whether clips of the chosen few utterances are embedded.
        chosen: further choices.

    Returns:
        What the page was made from; `notes` says what was left out.

    Raises:
        UserError: the extra [page] is not installed, an experiment holds nothing, the page would
            be larger than `MOST_BYTES`, or it cannot be written.
    """
    check_installed("report: --html")
    budget = AUDIO_BYTES if audio else 0
    material = collect(experiments, data, chosen or PageSettings(), budget)
    built: list[dict[str, Any]] = []
    for name, section in sections().items():
        blocks = section.build(material)
        if blocks:
            built.append({"name": name, "title": section.title, "blocks": blocks})
    text = render(material, built)
    size = len(text.encode())
    if size > MOST_BYTES:
        raise UserError(
            f"report: the page would have {size / 1e6:.0f} MB, over {MOST_BYTES / 1e6:.0f}; give"
            " --no-audio, fewer --map-points, or fewer experiments"
        )
    with writing(out, "choose another --html"):
        out.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(out, text)
    return material


def check_installed(what: str) -> None:
    """Raise UserError if the extra [page] is not installed; `what` needs it."""
    try:
        import jinja2  # noqa: F401
        import plotly  # noqa: F401
    except ImportError as error:
        raise UserError(f"{what} needs {error.name}; pip install 'speechssl[page]'") from error


def render(material: Material, built: Sequence[Mapping[str, Any]], *, refresh: int = 0) -> str:
    """Return the page as text, everything in it.

    Args:
        material: what it was made from.
        built: name, title and blocks of each section.
        refresh: seconds after which it loads itself anew; 0: never.
    """
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("speechssl.report.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = shortened
    environment.filters["script_json"] = script_json
    template = environment.get_template("page.html")
    folder = resources.files("speechssl.report.page") / "templates"
    plotly = _embeddable(get_plotlyjs())
    script = _embeddable((folder / "page.js").read_text(encoding="utf-8"))
    return template.render(
        title=shortened(", ".join(material.experiments)),
        version=speechssl.__version__,
        refresh=refresh,
        sections=built,
        systems=_systems(built),
        clips=material.clips.addresses,
        plotly=plotly,
        script=script,
        hashes=Markup(f"{_hash(plotly)} {_hash(script)}"),
        style=(folder / "page.css").read_text(encoding="utf-8"),
    )


def _embeddable(script: str) -> str:
    """Return a script as it may stand in a script element, lines ended as browsers count them.

    Raises:
        UserError: it holds what would end the element.
    """
    if "</script" in script.lower() or "<!--" in script:
        raise UserError("report: this version of Plotly cannot be embedded; install another")
    return script.replace("\r\n", "\n").replace("\r", "\n")


def _hash(script: str) -> str:
    """Return the source by which the page's policy lets a script run, and no other."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def _systems(built: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of all runs and systems, in the order in which they come."""
    names: dict[str, None] = {}
    for section in built:
        for block in section["blocks"]:
            for name in _names_in(block):
                names[name] = None
    return list(names)


def _names_in(block: Block) -> Sequence[str]:
    rows = [row.system for row in getattr(block, "rows", ())]
    variants = getattr(block, "variants", {})
    traces = [trace.get("meta", "") for one in variants.values() for trace in one]
    return [name for name in (*rows, *traces) if name]


def script_json(value: Any) -> str:
    r"""Return a value as JSON that may stand in a script element: no `<`, `>`, `&`, nothing but ASCII.

    What is not finite becomes null.
    """
    text = json.dumps(_plain(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    from markupsafe import Markup

    return Markup(text)


def _plain(value: Any) -> Any:
    """Return arrays as lists and what is not finite as None."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
