"""Embedding files: round trips, other programs' files, and mistakes in one line."""

import io
import os
import sys

import numpy as np
import pytest
from builders import readme_code
from killing import killed_at_every_rename

import speechssl.data
import speechssl.data.vectors
from speechssl.data.vectors.files import VectorWriter, formats, read_vectors, write_vectors
from speechssl.errors import UserError

IDS = np.array(["id1/a.wav", "id1/b.wav", "żółw/声.flac"])


@pytest.fixture
def vectors():
    return np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)


@pytest.mark.parametrize("name", ["x.npz", "x.ark", "x.scp", "deep/er/x.parquet", "X.NPZ"])
def test_round_trip_is_exact_and_ordered(tmp_path, vectors, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    with VectorWriter(tmp_path / name) as writer:
        writer.write(IDS[:1], vectors[:1])
        writer.write(IDS[1:], vectors[1:])
    ids, read = read_vectors(tmp_path / name)
    assert ids.tolist() == IDS.tolist()
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, vectors)
    assert not list(tmp_path.rglob(".*"))


def test_text_round_trip_through_the_standard_streams(vectors, capsys, monkeypatch):
    write_vectors("-", IDS, vectors)
    text = capsys.readouterr().out
    assert [line.split()[0] for line in text.splitlines()] == IDS.tolist()
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    ids, read = read_vectors("-")
    assert ids.tolist() == IDS.tolist()
    np.testing.assert_array_equal(read, vectors)


def test_npz_holds_the_documented_arrays(tmp_path, vectors):
    write_vectors(tmp_path / "x.npz", IDS, vectors.astype(np.float64))
    with np.load(tmp_path / "x.npz") as data:
        assert sorted(data.files) == ["embeddings", "ids"]
        assert data["ids"].dtype.kind == "U"
        assert data["embeddings"].dtype == np.float32


def test_kaldi_reads_ours(tmp_path, vectors):
    kaldi = pytest.importorskip("kaldi_native_io")
    write_vectors(tmp_path / "x.ark", IDS, vectors)
    for rspecifier in (f"ark:{tmp_path / 'x.ark'}", f"scp:{tmp_path / 'x.scp'}"):
        with kaldi.SequentialFloatVectorReader(rspecifier) as reader:
            read = {key: np.array(value) for key, value in reader}
        assert list(read) == IDS.tolist()
        np.testing.assert_array_equal(list(read.values()), vectors)


@pytest.mark.parametrize(
    ("kind", "mode"), [("Float", "ark"), ("Double", "ark"), ("Float", "ark,t")]
)
def test_we_read_kaldis(tmp_path, vectors, kind, mode):
    kaldi = pytest.importorskip("kaldi_native_io")
    ark, scp = tmp_path / "k.ark", tmp_path / "k.scp"
    values = vectors.astype({"Float": np.float32, "Double": np.float64}[kind])
    with getattr(kaldi, f"{kind}VectorWriter")(
        f"{mode.replace('ark', 'ark,scp', 1)}:{ark},{scp}"
    ) as writer:
        for name, value in zip(IDS, values, strict=True):
            writer.write(str(name), value)
    ids, read = read_vectors(ark)
    assert ids.tolist() == IDS.tolist()
    np.testing.assert_allclose(read, vectors, rtol=0 if mode == "ark" else 1e-4)
    if mode == "ark":
        np.testing.assert_array_equal(read_vectors(scp)[1], vectors)


def test_scp_in_any_order_over_several_archives(tmp_path, vectors):
    write_vectors(tmp_path / "a.ark", IDS[:2], vectors[:2])
    write_vectors(tmp_path / "b.ark", IDS[2:], vectors[2:])
    a, b = ((tmp_path / f"{name}.scp").read_text(encoding="utf-8").splitlines() for name in "ab")
    (tmp_path / "all.scp").write_text("\n".join([a[1], b[0], a[0]]) + "\n", encoding="utf-8")
    ids, read = read_vectors(tmp_path / "all.scp")
    assert ids.tolist() == [IDS[1], IDS[2], IDS[0]]
    np.testing.assert_array_equal(read, vectors[[1, 2, 0]])


def _one_line(path, says):
    with pytest.raises(UserError, match=says) as caught:
        read_vectors(path)
    assert "\n" not in str(caught.value)


def test_wrong_files_are_one_line(tmp_path, vectors):
    _one_line(tmp_path / "gone.npz", "no such file")
    _one_line(tmp_path / "x.csv", r"must end in .*\.npz")
    for suffix in (".npz", ".ark", ".scp", ".parquet"):
        for number, content in enumerate(
            [b"", b"hello\n", b"hello there\n", b"PK\x03\x04 not a zip", bytes(range(256)) * 20]
        ):
            file = tmp_path / f"bad{number}{suffix}"
            file.write_bytes(content)
            _one_line(file, str(file))
    np.savez(tmp_path / "keys.npz", x=vectors)
    _one_line(tmp_path / "keys.npz", "`ids`")
    np.savez(
        tmp_path / "pickle.npz", ids=np.array(["a", None], dtype=object), embeddings=vectors[:2]
    )
    _one_line(tmp_path / "pickle.npz", "`ids`")
    np.savez(tmp_path / "shape.npz", ids=IDS, embeddings=vectors[:2])
    _one_line(tmp_path / "shape.npz", r"\(3,\) and \(2, 5\)")
    np.savez(tmp_path / "none.npz", ids=np.array([], dtype=str), embeddings=np.zeros((0, 5)))
    _one_line(tmp_path / "none.npz", "no embeddings")


@pytest.mark.parametrize("suffix", [".npz", ".ark", ".parquet"])
def test_a_file_cut_anywhere_is_refused(tmp_path, vectors, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    write_vectors(tmp_path / f"x{suffix}", IDS, vectors)
    whole = (tmp_path / f"x{suffix}").read_bytes()
    starts = {0, 40, 80} if suffix == ".ark" else set()  # between two vectors an archive is whole
    for length in range(1, len(whole), 7):
        if length not in starts:
            (tmp_path / f"cut{suffix}").write_bytes(whole[:length])
            _one_line(tmp_path / f"cut{suffix}", "cut")


def test_kaldi_files_keep_names_that_are_not_utf_8(tmp_path, vectors):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    ids = [os.fsdecode(b"a\xff"), os.fsdecode(b"a\xfe"), "b"]
    write_vectors(folder / "x.ark", np.array(ids), vectors)
    for name in ("x.ark", "x.scp"):
        found, read = read_vectors(folder / name)
        assert found.tolist() == ids
        np.testing.assert_array_equal(read, vectors)


def test_pipes_and_missing_archives_in_an_scp(tmp_path):
    (tmp_path / "pipe.scp").write_text("a copy-vector ark:x ark:- |\n")
    _one_line(tmp_path / "pipe.scp", "pipes are not run")
    (tmp_path / "gone.scp").write_text(f"a {tmp_path / 'gone.ark'}:2\n")
    _one_line(tmp_path / "gone.scp", "gone.ark cannot be read")


def test_duplicated_ids_are_refused(tmp_path, vectors):
    with pytest.raises(UserError, match="'id1/a.wav' occurs twice"):
        write_vectors(tmp_path / "x.npz", IDS[[0, 1, 0]], vectors)
    np.savez(tmp_path / "twice.npz", ids=IDS[[0, 1, 0]], embeddings=vectors)
    _one_line(tmp_path / "twice.npz", "'id1/a.wav'")
    assert not (tmp_path / "x.npz").exists()


@pytest.mark.parametrize("name", ["x.npz", "x.ark", "x.parquet"])
def test_a_broken_run_leaves_the_old_file(tmp_path, vectors, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    write_vectors(tmp_path / name, IDS, vectors)
    before = sorted(file.name for file in tmp_path.iterdir())
    with pytest.raises(RuntimeError), VectorWriter(tmp_path / name) as writer:
        writer.write(IDS[:1], -vectors[:1])
        raise RuntimeError
    np.testing.assert_array_equal(read_vectors(tmp_path / name)[1], vectors)
    assert sorted(file.name for file in tmp_path.iterdir()) == before


def test_writer_mistakes(tmp_path, vectors):
    with pytest.raises(UserError, match="no embeddings to write"), VectorWriter(tmp_path / "x.npz"):
        pass
    with pytest.raises(UserError, match="white space"):
        write_vectors(tmp_path / "x.ark", ["a b"], vectors[:1])
    with pytest.raises(UserError, match="one vector an id"):
        write_vectors(tmp_path / "x.npz", IDS, vectors[:2])
    with (
        pytest.raises(UserError, match="4 numbers where"),
        VectorWriter(tmp_path / "x.npz") as writer,
    ):
        writer.write(IDS[:1], vectors[:1])
        writer.write(IDS[1:2], vectors[1:2, :4])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_vectors(tmp_path / "file" / "x.npz", IDS, vectors)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_parquet_without_pyarrow_names_the_extra(tmp_path, vectors, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"speechssl\[scale\]"):
        write_vectors(tmp_path / "x.parquet", IDS, vectors)


@pytest.mark.parametrize("name", ["x.npz", "x.ark"])
def test_a_full_disk_is_one_line(tmp_path, vectors, name, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    writer = VectorWriter(tmp_path / name)
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="No space left"), writer:
        writer.write(IDS, vectors)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["x.npz", "x.ark", "x.parquet"])
def test_a_killed_writer_leaves_the_old_vectors_the_new_ones_or_none(tmp_path, vectors, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / name
    old = (["one", "two", "three"], vectors)
    new = (["three", "a longer one".replace(" ", "-"), "two"], -vectors)
    write_vectors(path, *old)
    readers = [path, tmp_path / "x.scp"] if name == "x.ark" else [path]
    deaths = 0
    for _ in killed_at_every_rename(lambda: write_vectors(path, *new)):
        deaths += 1
        for reader in readers:
            if reader.suffix == ".scp" and not reader.exists():
                continue
            ids, found = read_vectors(reader)
            expected = old if ids.tolist() == old[0] else new
            assert ids.tolist() == expected[0]
            np.testing.assert_array_equal(found, expected[1])
        write_vectors(path, *old)
    assert deaths
    assert read_vectors(path)[0].tolist() == new[0]


@pytest.fixture
def added_format(tmp_path, monkeypatch):
    """The example of data/README.md, as a file in the folder of formats."""
    (code,) = readme_code("data")
    (tmp_path / "added").mkdir()
    (tmp_path / "added/tsv.py").write_text(code)
    folder = speechssl.data.vectors
    monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(tmp_path / "added")])
    formats.cache_clear()
    yield
    formats.cache_clear()
    sys.modules.pop("speechssl.data.vectors.tsv")


def test_a_format_is_added_by_adding_a_file(tmp_path, vectors, added_format):
    test_round_trip_is_exact_and_ordered(tmp_path, vectors, "x.tsv")
    test_a_broken_run_leaves_the_old_file(tmp_path, vectors, "x.tsv")
    with pytest.raises(UserError, match=r"\.tsv"):
        read_vectors(tmp_path / "x.csv")
