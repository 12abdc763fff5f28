"""The notebooks: every cell runs in a real kernel, and what is kept beside the code is its own."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from builders import ENVIRONMENT, ROOT

nbformat = pytest.importorskip("nbformat", reason="the extra [notebooks] is not installed")
pytest.importorskip("PIL", reason="the extra [page] is not installed")
pytest.importorskip("nbclient", reason="the extra [notebooks] is not installed")
pytest.importorskip("ipykernel", reason="the extra [notebooks] is not installed")

FOLDER = ROOT / "egs" / "notebooks"
SCRIPT = FOLDER / "execute.py"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SHOWN = {"your_own_audio": 4, "watch_it_collapse": 8, "from_nothing": 4}
"""Notebook -> pictures that it shows, or more."""


@pytest.fixture(scope="module")
def execute() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("notebooks_execute", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def outputs(notebook: Any) -> Iterator[Any]:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            yield from cell.outputs


def pictures(notebook: Any) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def test_there_are_three() -> None:
    assert {path.stem for path in NOTEBOOKS} == SHOWN.keys()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_kept_is_what_its_code_has_shown(path: Path, execute: ModuleType) -> None:
    """Nobody has changed the code since `python egs/notebooks/execute.py` ran all of it."""
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.speechssl.digest == execute.digest(notebook), "run execute.py again"
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert not any(output.output_type == "error" for output in outputs(notebook))
    assert pictures(notebook) >= SHOWN[path.stem]
    assert execute.unfit(notebook) == "" and path.stat().st_size <= execute.MOST_BYTES
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(?:home|root|work|tmp|Users)/[\w.-]+/(?!interviews|recordings)", text)
    assert "Traceback" not in text and "Warning:" not in text


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[] if path.stem == "your_own_audio" else pytest.mark.slow)
        for path in NOTEBOOKS
    ],
    ids=lambda path: path.stem,
)
def test_every_cell_runs(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(path), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    made = read(tmp_path / path.name)
    assert pictures(made) >= SHOWN[path.stem]
    assert not any(output.output_type == "error" for output in outputs(made))
    assert [cell.source for cell in made.cells if cell.id != "quick"] == [
        cell.source for cell in read(path).cells
    ]


def test_a_path_of_this_machine_is_not_kept(execute: ModuleType) -> None:
    cell = nbformat.v4.new_code_cell("")
    notebook = nbformat.v4.new_notebook(cells=[cell])
    assert execute.unfit(notebook) == ""
    said = nbformat.v4.new_output("stream", name="stderr", text=f"{sys.prefix}/lib/x.py: warning")
    cell.outputs = [said]
    assert "a path of this machine" in execute.unfit(notebook)
    said.text = "x" * execute.MOST_BYTES
    cell.outputs = [said]
    assert "bytes, over" in execute.unfit(notebook)


def test_a_mistake_in_a_notebook_is_one_line(tmp_path: Path) -> None:
    code = """
import speechssl
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell()
shell.history_manager.enabled = False
shell.run_cell("import speechssl; speechssl.load('nowhere')")
"""
    environment = {**ENVIRONMENT, "IPYTHONDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    (line,) = done.stdout.strip().splitlines()
    assert line.startswith("UserError: ") and "nowhere" in line
