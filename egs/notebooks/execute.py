"""Run the notebooks of this folder and keep what they show.

    python egs/notebooks/execute.py [NOTEBOOK ...] [--quick] [--out DIR]

Each runs from the first cell to the last in a kernel and a folder of its own. Without --quick the
result replaces the notebook. With --quick its parameters are those of the notebook's metadata
(`speechssl.quick`): seconds in place of minutes, to see that every cell runs; it is written into
--out, or nowhere. A notebook that shows a path of this machine, or has become too large for a
repository, is not kept.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbclient
import nbformat
from nbformat import NotebookNode
from PIL import Image

FOLDER = Path(__file__).parent
MOST_BYTES = 600_000
"""Largest notebook that is kept with its outputs."""

SECONDS_OF_A_CELL = 1800


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, metavar="DIR")
    args = parser.parse_args()
    for path in _chosen(args.notebooks):
        began = time.monotonic()
        notebook = nbformat.read(path, as_version=4)
        try:
            execute(notebook, notebook.metadata["speechssl"]["quick"] if args.quick else {})
        except nbclient.exceptions.CellExecutionError as error:
            sys.exit(f"{path}: a cell failed\n{error}")
        if problem := unfit(notebook):
            sys.exit(f"{path}: {problem}")
        folder = args.out or (None if args.quick else path.parent)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / path.name).write_text(as_text(notebook), encoding="utf-8")
        size = len(as_text(notebook)) / 1e3
        print(f"{path.name}: {time.monotonic() - began:.0f} s, {size:.0f} KB", flush=True)


def _chosen(names: Sequence[Path]) -> list[Path]:
    """Return the notebooks to run: paths, or names of this folder; all of it where none is given."""
    paths = []
    for name in names:
        path = name if name.is_file() else FOLDER / name
        if not path.is_file():
            known = ", ".join(sorted(one.name for one in FOLDER.glob("*.ipynb")))
            sys.exit(f"{name}: no such notebook; here are {known}")
        paths.append(path)
    return paths or sorted(FOLDER.glob("*.ipynb"))


def execute(notebook: NotebookNode, parameters: Mapping[str, Any]) -> None:
    """Run all cells in a folder that is removed afterwards; their outputs are put into `notebook`.

    Args:
        notebook: that is run.
        parameters: name -> value, set after the cell with the tag `parameters`.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    clear(notebook)
    place = 1 + next(
        number
        for number, cell in enumerate(notebook.cells)
        if "parameters" in cell.metadata.get("tags", ())
    )
    if parameters:
        lines = [f"{name} = {value!r}" for name, value in parameters.items()]
        cell = nbformat.v4.new_code_cell("\n".join(lines), id="quick")
        notebook.cells.insert(place, cell)
    with tempfile.TemporaryDirectory(prefix="notebook-") as folder:
        # Nothing of the user's own is read or written.
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
            os.environ[name] = str(Path(folder, ".jupyter", name.lower()))
            Path(os.environ[name]).mkdir(parents=True)
        client = nbclient.NotebookClient(
            notebook,
            timeout=SECONDS_OF_A_CELL,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            record_timing=False,
            coalesce_streams=True,
            extra_arguments=["--IPKernelApp.log_level=40"],  # errors
        )
        client.execute()
        leave_out(notebook, f"{folder}/")
    shrink_pictures(notebook)
    notebook.metadata.language_info = {"name": "python"}
    notebook.metadata.speechssl["digest"] = digest(notebook)


def leave_out(notebook: NotebookNode, folder: str) -> None:
    """Take the folder that the notebook ran in out of the texts of its outputs."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            text = json.dumps(cell.outputs)
            cell.outputs = nbformat.from_dict(json.loads(text.replace(folder, "")))


def shrink_pictures(notebook: NotebookNode) -> None:
    """Write each PNG with a palette of 128 colours: a third of the bytes, and no difference to see."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            png = output.get("data", {}).get("image/png")
            if png:
                picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
                file = io.BytesIO()
                picture.quantize(128, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
                output["data"]["image/png"] = base64.b64encode(file.getvalue()).decode("ascii")


def clear(notebook: NotebookNode) -> None:
    """Take away the outputs of an earlier run."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
            cell.execution_count = None


def digest(notebook: NotebookNode) -> str:
    """Return a digest of the code: outputs that were kept beside another code are known by it."""
    codes = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(codes).encode()).hexdigest()[:16]


def unfit(notebook: NotebookNode) -> str:
    """Return why a notebook is not to be kept, or nothing."""
    text = as_text(notebook)
    if len(text) > MOST_BYTES:
        return f"{len(text)} bytes, over {MOST_BYTES}; show less"
    for folder in (sys.prefix, Path.home(), FOLDER.resolve().parents[1], tempfile.gettempdir()):
        private = f"{str(folder).rstrip('/')}/"
        if private != "/" and private in text:
            start = text.index(private)
            return f"shows a path of this machine: ...{text[start : start + 200]}"
    return ""


def as_text(notebook: NotebookNode) -> str:
    """Return what a file holds."""
    return nbformat.writes(notebook) + "\n"


if __name__ == "__main__":
    main()
