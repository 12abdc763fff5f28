"""A folder of parquet files: any share of it in any blocks is the same rows, and pyarrow reads it."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from speechssl.audio.remotes import Remotes
from speechssl.data.vectors.files import read_sample, read_vectors
from speechssl.data.vectors.folder import VectorFolder, holds_embeddings
from speechssl.data.vectors.folder_writer import FolderWriter, open_folder, part_bytes
from speechssl.data.vectors.format import Span
from speechssl.data.vectors.places import Place
from speechssl.embed.lists import read_slice, slices
from speechssl.errors import UserError

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

ROWS = 1000


@pytest.fixture
def embeddings() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((ROWS, 7)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, embeddings: NDArray[np.float32]) -> Path:
    """Eight files of 130 rows, the last of 90; row n has the id `un`."""
    writer = FolderWriter(Place(tmp_path / "emb"), rows=130)
    for row, vector in enumerate(embeddings):
        writer.write(f"u{row}", vector, 1.5)
    writer.flush()
    return tmp_path / "emb"


def rows_of(ids: list[str]) -> list[int]:
    return [int(name[1:]) for name in ids]


def test_it_holds_what_was_written(folder: Path, embeddings: NDArray[np.float32]) -> None:
    ids, read = read_vectors(folder)
    assert sorted(rows_of(ids.tolist())) == list(range(ROWS))
    np.testing.assert_array_equal(read, embeddings[rows_of(ids.tolist())])
    found = VectorFolder(folder)
    assert (found.rows, found.dim, len(found.parts)) == (ROWS, 7, 8)
    assert list(found.ids()) == ids.tolist()
    assert holds_embeddings(folder) and not holds_embeddings(folder.parent)


def test_pyarrow_reads_it_as_one_data_set(folder: Path, embeddings: NDArray[np.float32]) -> None:
    (folder / "_made_by.json").write_text("{}")
    table = pytest.importorskip("pyarrow.dataset").dataset(folder).to_table().sort_by("id")
    assert table.schema.field("embedding").type == arrow.list_(arrow.float32(), 7)
    assert table["seconds"].to_pylist() == [1.5] * ROWS
    read = table["embedding"].combine_chunks().flatten().to_numpy().reshape(ROWS, 7)
    np.testing.assert_array_equal(read, embeddings[rows_of(table["id"].to_pylist())])


@pytest.mark.parametrize("world", [1, 2, 3, 7, 1500])
def test_shares_are_all_rows_once_whatever_the_blocks(folder: Path, world: int) -> None:
    found = VectorFolder(folder)
    expected, matrix = found.read()
    for rows in (7, 130, 8192):
        ids: list[str] = []
        vectors = []
        counts = []
        for rank in range(world):
            before = len(ids)
            for block_ids, block in found.blocks(rows, (rank, world)):
                assert len(block_ids) == len(block) <= rows
                ids += block_ids
                vectors.append(block)
            counts.append(len(ids) - before)
        assert ids == expected.tolist()
        np.testing.assert_array_equal(np.concatenate(vectors), matrix)
        assert max(counts) - min(counts) <= 1


def test_files_of_several_row_groups_are_cut_anywhere(
    folder: Path, embeddings: NDArray[np.float32]
) -> None:
    """Other programs write them: files of ours have one row group."""
    ids = [f"u{row}" for row in range(ROWS)]
    table = parquet.read_table(next(folder.glob("*.parquet"))).slice(0, 0)
    lists = arrow.FixedSizeListArray.from_arrays(arrow.array(embeddings.ravel()), 7)
    columns = {"id": arrow.array(ids), "embedding": lists, "seconds": arrow.nulls(ROWS)}
    table = arrow.table(columns)
    other = folder.parent / "other"
    other.mkdir()
    parquet.write_table(table, other / "a.parquet", row_group_size=64)
    found = VectorFolder(other)
    for world in (1, 3, 16):
        read = []
        for rank in range(world):
            read += [block for _, block in found.blocks(50, (rank, world), with_ids=False)]
        np.testing.assert_array_equal(np.concatenate(read), embeddings)


def test_a_sample_is_of_different_rows_and_every_row_comes(folder: Path) -> None:
    found = VectorFolder(folder)
    matrix = found.read()[1]
    counts = np.zeros(ROWS)
    for seed in range(60):
        rows = np.flatnonzero(np.isin(matrix[:, 0], found.sample(100, seed)[1][:, 0]))
        assert len(rows) == 100
        counts[rows] += 1
    # Each count is binomial (60, 0.1): 6 +- 2.3. 11 standard deviations are no accident.
    assert counts.max() < 32
    assert abs(counts[:500].mean() - 6) < 0.5
    np.testing.assert_array_equal(found.sample(5000)[1], matrix)
    ids, drawn = read_sample(folder, 100, 3)
    np.testing.assert_array_equal(found.sample(100, 3, with_ids=False)[1], drawn)
    row_of = {name: row for row, name in enumerate(found.ids())}
    np.testing.assert_array_equal(matrix[[row_of[name] for name in ids.tolist()]], drawn)


def test_only_the_wanted_ids_are_held(folder: Path, embeddings: NDArray[np.float32]) -> None:
    ids, read = read_vectors(folder, {"u5", "u999", "nobody"})
    assert sorted(ids.tolist()) == ["u5", "u999"]
    np.testing.assert_array_equal(read, embeddings[rows_of(ids.tolist())])
    assert read_vectors(folder, {"nobody"})[1].shape == (0, 7)


def test_an_id_that_stands_in_two_files_is_found(
    folder: Path, embeddings: NDArray[np.float32]
) -> None:
    data = part_bytes(["u3"], embeddings[:1], [1.0])
    (folder / "part-again.parquet").write_bytes(data)
    with pytest.raises(UserError, match="'u3'"):
        read_vectors(folder)


def test_windows_keep_their_place_in_the_recording(tmp_path: Path) -> None:
    writer = FolderWriter(Place(tmp_path / "emb"))
    writer.write("r-0-1500", np.ones(3, np.float32), 1.5, Span("r", 0.0, 1.5, 2))
    writer.flush()
    row = parquet.read_table(tmp_path / "emb").to_pylist()[0]
    assert (row["recording"], row["start"], row["stop"], row["channel"]) == ("r", 0.0, 1.5, 2)


def test_going_on_needs_the_same_model_and_to_be_asked_for(tmp_path: Path) -> None:
    place = Place(tmp_path / "emb")
    assert open_folder(place, "one model", resume=False) == set()
    writer = FolderWriter(place)
    writer.write("a", np.ones(3, np.float32), 1.0)
    writer.flush()
    assert open_folder(place, "one model", resume=True) == {"a"}
    with pytest.raises(UserError, match="--resume"):
        open_folder(place, "one model", resume=False)
    with pytest.raises(UserError, match="another model"):
        open_folder(place, "another", resume=True)
    (tmp_path / "emb" / "_made_by.json").unlink()
    with pytest.raises(UserError, match="another model"):
        open_folder(place, "one model", resume=True)


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    with pytest.raises(UserError, match="holds other files, such as 'a.wav'"):
        open_folder(Place(tmp_path), "m", resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_files_are_written_when_full_or_old(tmp_path: Path) -> None:
    writer = FolderWriter(Place(tmp_path), rows=3, seconds=1e9)
    for number in range(7):
        writer.write(str(number), np.ones(2, np.float32), 1.0)
    assert len(list(tmp_path.glob("*.parquet"))) == 2 and writer.written == 6
    writer = FolderWriter(Place(tmp_path), rows=100, seconds=0.0)
    writer.write("old", np.ones(2, np.float32), 1.0)
    assert len(list(tmp_path.glob("*.parquet"))) == 3


def wrong_folders(root: Path) -> Any:
    """Yield folders that are refused, and a word of the message."""
    ones = np.ones((2, 4), np.float32)

    def make(name: str, **files: bytes) -> Path:
        (root / name).mkdir()
        for file, data in files.items():
            (root / name / f"{file}.parquet").write_bytes(data)
        return root / name

    good = bytes(part_bytes(["a", "b"], ones, [1.0, 1.0]))
    yield make("empty"), "no embeddings"
    yield make("hidden", **{".part": good, "_part": good}), "no embeddings"
    yield make("nothing", a=b""), "a.parquet"
    yield make("cut", a=good, b=good[:-40]), "b.parquet"
    yield make("sizes", a=good, b=bytes(part_bytes(["c"], ones[:1, :3], [1.0]))), "equally long"
    empty = arrow.array([[], []], arrow.list_(arrow.float32()))
    parquet.write_table(
        arrow.table({"id": ["a", "b"], "embedding": empty}), make("none") / "a.parquet"
    )
    yield root / "none", "no numbers"
    fifo = make("fifo")
    os.mkfifo(fifo / "a.parquet")
    yield fifo, "no embeddings"
    (make("loop") / "a.parquet").symlink_to("/dev/zero")
    yield root / "loop", "no embeddings"


def test_what_is_wrong_with_a_folder_is_one_line(tmp_path: Path) -> None:
    for folder, word in wrong_folders(tmp_path):
        with pytest.raises(UserError, match=word) as caught:
            read_vectors(folder)
        assert str(folder) in str(caught.value) and "\n" not in str(caught.value), folder
    with pytest.raises(UserError, match="not the address of a store"):
        read_vectors("memory://x")
    with pytest.raises(UserError, match="not the address of a store"):
        read_vectors("s3://a::file:///etc")


def test_a_number_that_the_disk_has_changed_is_found(
    folder: Path, embeddings: NDArray[np.float32], tmp_path: Path
) -> None:
    """The file stays well formed: only its checksums tell. Files without any are read as before."""
    target = embeddings[5].tobytes()
    part = next(path for path in folder.glob("*.parquet") if target in path.read_bytes())
    part.write_bytes(part.read_bytes().replace(target, target[:-1] + bytes([target[-1] ^ 1])))
    with pytest.raises(UserError, match=f"{part.name}: damaged, .* --resume"):
        read_vectors(folder)
    table = arrow.table({"id": ["a"], "embedding": [[1.0, 2.0]]})
    parquet.write_table(table, tmp_path / "other.parquet")
    assert read_vectors(tmp_path / "other.parquet")[1].tolist() == [[1.0, 2.0]]


def test_many_small_bombs_are_one_large_one(tmp_path: Path) -> None:
    """Each file may become 64 MB; a thousand of them may not become 64 GB."""
    zeros = np.zeros((1000, 4000), np.float32)  # 16 MB
    ids = [f"u{row}" for row in range(len(zeros))]
    lists = arrow.FixedSizeListArray.from_arrays(arrow.array(zeros.ravel()), 4000)
    table = arrow.table({"id": ids, "embedding": lists})
    for number in range(6):
        parquet.write_table(table, tmp_path / f"{number}.parquet", compression="zstd")
    with pytest.raises(UserError, match="far more numbers"):
        read_vectors(tmp_path)


def test_one_long_id_for_all_rows_takes_no_memory(tmp_path: Path) -> None:
    """A file of a kilobyte that would be 8 GB: 8192 rows, each with an id of a megabyte."""
    rows = 8192
    places = arrow.array(np.zeros(rows, np.int32))
    ids = arrow.DictionaryArray.from_arrays(places, arrow.array(["x" * (1 << 20)]))
    vectors = arrow.FixedSizeListArray.from_arrays(arrow.array(np.zeros(rows, np.float32)), 1)
    table = arrow.table({"id": ids, "path": ids, "embedding": vectors})
    file = tmp_path / "bomb" / "a.parquet"
    file.parent.mkdir()
    parquet.write_table(table, file, store_schema=False, compression="zstd")
    assert file.stat().st_size < 10_000
    before = arrow.default_memory_pool().max_memory()
    for read in (
        lambda: next(VectorFolder(file.parent).blocks()),
        lambda: list(VectorFolder(file.parent).ids()),
        lambda: read_slice(slices(file, rows)[0], Remotes([])),
    ):
        with pytest.raises(UserError, match="has 1048576 characters"):
            read()
    assert arrow.default_memory_pool().max_memory() < max(before, 100 << 20)
