"""Files appear whole or not at all, whatever ends the writer."""

from __future__ import annotations

from pathlib import Path

import pytest
from killing import killed_at_every_rename

from speechssl.files import atomic_write, atomic_write_together, write_skipped, write_text


def test_a_file_is_replaced_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".txt"
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_belong_together_are_never_of_two_versions(tmp_path: Path) -> None:
    names = ("lengths", "index")
    paths = [tmp_path / name for name in names]

    def write(version: str) -> None:
        with atomic_write_together(paths, removed=[tmp_path / "extra"]) as temporary:
            for path in paths:
                temporary[path].write_text(version)

    moments = 0
    write("old")
    (tmp_path / "extra").write_text("old")
    for _ in killed_at_every_rename(lambda: write("new")):
        moments += 1
        if (tmp_path / "index").exists():
            found = {path.read_text() for path in paths}
            assert found == {"old"} or found == {"new"}
            assert (tmp_path / "extra").exists() == (found == {"old"})
        write("old")
        (tmp_path / "extra").write_text("old")
    assert moments >= 4
    assert [path.read_text() for path in paths] == ["new", "new"]
    assert not (tmp_path / "extra").exists()


def test_files_that_belong_together_stay_when_the_writer_fails(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text("old")
    with pytest.raises(OSError, match="full"), atomic_write_together(paths) as temporary:
        temporary[paths[0]].write_text("new")
        raise OSError("full")
    assert [path.read_text() for path in paths] == ["old", "old"]
    assert sorted(tmp_path.iterdir()) == paths


def test_what_was_skipped_is_a_line_each(tmp_path: Path) -> None:
    odd = b"latin-\xe9".decode("utf-8", "surrogateescape")
    write_skipped(tmp_path / "skipped.tsv", [("a\nb\tc", "odd"), (odd, "other")])
    assert (tmp_path / "skipped.tsv").read_bytes() == b"a\\nb\\tc\todd\nlatin-\xe9\tother\n"
