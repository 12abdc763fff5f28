"""Lines go to standard output, into a pipe or into a file, which is whole or not there."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from speechssl.cli.tables import cell_text, write_lines
from speechssl.errors import UserError
from speechssl.locks import sole_writer

LINES = ["a\tb\n", "c\td\n"]


def test_dash_is_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    write_lines("-", lambda: LINES)
    assert capsys.readouterr().out == "a\tb\nc\td\n"


def test_folder_of_a_file_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new/table.tsv"
    write_lines(str(path), lambda: LINES)
    assert path.read_text() == "a\tb\nc\td\n"
    assert list(path.parent.iterdir()) == [path]


def test_old_file_stays_if_the_lines_end_in_an_error(tmp_path: Path) -> None:
    def broken() -> Iterator[str]:
        yield "a\n"
        raise UserError("no more")

    path = tmp_path / "table.tsv"
    path.write_text("old\n")
    with pytest.raises(UserError, match="no more"):
        write_lines(str(path), broken)
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


def test_second_writer_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv"
    with sole_writer(path), pytest.raises(UserError, match="another process"):
        write_lines(str(path), lambda: pytest.fail("computed"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs")
def test_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    heard: list[str] = []
    listener = threading.Thread(target=lambda: heard.append(path.read_text()))
    listener.start()
    write_lines(str(path), lambda: LINES)
    listener.join(10)
    assert heard == ["a\tb\nc\td\n"]
    assert path.is_fifo()


def test_what_a_killed_writer_has_left_is_swept(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    left = tmp_path / f".table.{int(ended.stdout)}.partial.tsv"
    left.write_text("a\n")
    alive = tmp_path / f".table.{os.getppid()}.partial.tsv"
    alive.write_text("a\n")
    write_lines(str(tmp_path / "table.tsv"), lambda: LINES)
    assert not left.exists()
    assert alive.exists()


def test_names_are_themselves_for_a_program_and_no_formula_in_a_file(tmp_path: Path) -> None:
    name = "=cmd()"
    assert cell_text("-")(name) == name
    assert cell_text(os.devnull)(name) == name
    (tmp_path / "old.tsv").touch()
    for file in ("old.tsv", "new.tsv"):
        assert cell_text(str(tmp_path / file))(name) == f"'{name}"
    assert cell_text("-")("a\tb\n") == r"a\tb\n"
