"""An index: exact below a million, measured above it, and never trusted where it is another's."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from builders import make_model, noise, write_audio
from numpy.typing import NDArray

from speechssl.cli.command import main
from speechssl.data.vectors.files import write_vectors
from speechssl.data.vectors.folder_writer import part_bytes
from speechssl.embed import Embedder
from speechssl.errors import UserError
from speechssl.evaluation.neighbours import build, layout, quantised
from speechssl.evaluation.neighbours.build import build_index, recall_of
from speechssl.evaluation.neighbours.layout import read_about
from speechssl.evaluation.neighbours.search import Best, Index

ROWS = 4000
Rows = NDArray[np.float32]


@pytest.fixture(scope="module")
def embeddings() -> Rows:
    """Clusters of ten, as of speakers: neighbours that are worth finding."""
    rng = np.random.default_rng(0)
    means = np.repeat(rng.standard_normal((ROWS // 10, 24)), 10, axis=0)
    return (means + 0.5 * rng.standard_normal(means.shape)).astype(np.float32)


def cosines(rows: Rows, queries: Rows) -> Rows:
    """(Q, N), computed in float64."""
    a = queries / np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
    b = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    product: Rows = a @ b.T
    return product


def ids(count: int = ROWS) -> list[str]:
    return [f"utt-ü{row}" for row in range(count)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, embeddings: Rows) -> Path:
    pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("e")
    for first in range(0, ROWS, 700):
        names = ids()[first : first + 700]
        block = embeddings[first : first + 700]
        data = part_bytes(names, block, [1.0] * len(names))
        (folder / f"part-{first:05d}.parquet").write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    """An index with codes, of three shards, the last one shorter."""
    pytest.importorskip("faiss")
    out = tmp_path_factory.mktemp("index")
    build_index(source, out, kind="ivfpq", shard_rows=1500, recall=0.9)
    return out


@pytest.mark.parametrize("shard_rows", [700, 10_000])
def test_a_small_index_is_exact(
    tmp_path: Path, source: Path, embeddings: Rows, shard_rows: int
) -> None:
    about, _ = build_index(source, tmp_path / "i", shard_rows=shard_rows)
    assert (about.kind, about.rows, about.recall) == ("flat", ROWS, 1.0)
    queries = embeddings[:300] + 0.1
    found = list(Index(tmp_path / "i").search([str(n) for n in range(300)], queries, 5))
    true = cosines(embeddings, queries)
    order = np.argsort(-true, axis=1)[:, :5]
    assert [other for _, other, _ in found] == [ids()[row] for row in order.ravel()]
    np.testing.assert_allclose(
        [cosine for *_, cosine in found], np.take_along_axis(true, order, 1).ravel(), atol=1e-6
    )


def test_with_codes_it_finds_what_it_says(index: Path, embeddings: Rows) -> None:
    about = read_about(index)
    assert about.kind == "ivfpq" and about.shards == (1500, 1500, 1000)
    assert about.code_bytes == 6 and about.lists == 128
    assert about.recall >= 0.9
    queries = embeddings[1::7]
    opened = Index(index)
    found_cosines, rows = opened.nearest(
        queries / np.linalg.norm(queries, axis=1, keepdims=True), 11
    )
    true = cosines(embeddings, queries)
    truth = np.argsort(-true, axis=1)[:, :11]
    recall = recall_of(rows, truth, np.arange(1, ROWS, 7))
    # 572 queries here, 200 there: both are of the same search.
    assert abs(recall - about.recall) < 0.05
    np.testing.assert_allclose(found_cosines, np.take_along_axis(true, rows, 1), atol=2e-3)
    assert (np.diff(found_cosines, axis=1) <= 0).all()
    opened.set_probes(1)
    few = recall_of(opened.nearest(queries, 11)[1], truth, np.arange(1, ROWS, 7))
    opened.set_probes(10**9)
    many = recall_of(opened.nearest(queries, 11)[1], truth, np.arange(1, ROWS, 7))
    assert few < recall <= many + 0.02 and many > 0.97


def test_faiss_searches_our_files_as_its_own(index: Path, embeddings: Rows) -> None:
    """The same centroids and codebooks in an index of faiss's own, filled by faiss."""
    faiss = pytest.importorskip("faiss")
    about = read_about(index)
    quantiser = faiss.IndexFlatIP(about.dim)
    quantiser.add(np.load(index / layout.CENTROIDS))
    whole = faiss.IndexIVFPQ(
        quantiser, about.dim, about.lists, about.code_bytes, 8, faiss.METRIC_INNER_PRODUCT
    )
    codebooks = np.load(index / layout.CODEBOOKS)
    faiss.copy_array_to_vector(codebooks.ravel(), whole.pq.centroids)
    whole.is_trained = True
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    whole.add(unit)
    whole.nprobe = about.probes
    expected, _ = whole.search(unit[:50], 20)
    rows = quantised.Quantised(index, about).candidates(unit[:50], 20)
    again, places = whole.search(unit[:50], ROWS)
    for query in range(50):
        cosine_of = dict(zip(places[query].tolist(), again[query].tolist(), strict=True))
        ours = [cosine_of[row] for row in rows[query].tolist()]
        np.testing.assert_allclose(ours, expected[query], atol=1e-5)


def test_best_of_blocks_is_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((50, 8)).astype(np.float32)
    queries = rng.standard_normal((5, 8)).astype(np.float32)
    best = Best(queries, 60)
    for first in range(0, 50, 7):
        best.look_at(rows[first : first + 7], first)
    expected = np.argsort(-(queries @ rows.T), axis=1)
    np.testing.assert_array_equal(best.rows, expected)
    np.testing.assert_allclose(best.cosines, np.sort(queries @ rows.T, axis=1)[:, ::-1], atol=1e-5)


def test_the_recall_is_that_of_queries_which_did_not_choose_the_probes(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    asked = []

    def watched(rows: Rows, truth: Rows, own: NDArray[np.int64]) -> float:
        asked.append(set(own.tolist()))
        return recall_of(rows, truth, own)

    monkeypatch.setattr(build, "recall_of", watched)
    about, _ = build_index(source, tmp_path / "i", kind="ivfpq", recall=0.95)
    *choosing, measuring = asked
    assert about.probes > 1 and len(choosing) > 1
    assert about.recall_queries == len(measuring) == build.QUERIES
    assert all(queries == choosing[0] for queries in choosing)
    assert len(choosing[0]) == build.QUERIES and not choosing[0] & measuring


def test_recall_by_hand() -> None:
    truth = np.array([[0, 3, 4, 5], [1, 7, 8, 9]])
    found = np.array([[0, 4, 3, 2], [1, 9, -1, -1]])
    assert recall_of(found, truth, np.array([0, 1])) == pytest.approx(3 / 6)
    assert recall_of(truth, truth, np.array([0, 1])) == 1.0


def test_the_commands(tmp_path: Path, embeddings: Rows, capsys: pytest.CaptureFixture[str]) -> None:
    write_vectors(tmp_path / "e.npz", ids(200), embeddings[:200])
    write_vectors(tmp_path / "q.npz", ["q"], embeddings[7:8])
    mean = str(tmp_path / "e.npz")
    command = ["index", mean, "--out", str(tmp_path / "i"), "--subtract-mean", mean]
    assert main(command) == 0
    assert "recall@10   1: every search is exact" in capsys.readouterr().out
    assert main(["search", str(tmp_path / "i"), str(tmp_path / "q.npz"), "--top", "3"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    centred = embeddings[:200] - embeddings[:200].mean(0)
    true = cosines(centred, centred[7:8])[0]
    order = np.argsort(-true)[:3]
    assert [line[:2] for line in lines] == [["q", ids()[row]] for row in order]
    np.testing.assert_allclose([float(line[2]) for line in lines], true[order], atol=2e-6)
    out = tmp_path / "found.tsv"
    assert main(["search", str(tmp_path / "i"), str(tmp_path / "q.npz"), "--out", str(out)]) == 0
    assert len(out.read_text().splitlines()) == 10
    write_vectors(tmp_path / "other.npz", ["q"], np.ones((1, 5)))
    assert main(["search", str(tmp_path / "i"), str(tmp_path / "other.npz")]) == 2
    assert "use one model" in capsys.readouterr().err


def test_an_id_is_itself_for_a_program_and_no_formula_in_a_file(
    tmp_path: Path, embeddings: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["=cmd()", "-2"]
    write_vectors(tmp_path / "e.npz", names, embeddings[:2])
    assert main(["index", str(tmp_path / "e.npz"), "--out", str(tmp_path / "i")]) == 0
    capsys.readouterr()
    command = ["search", str(tmp_path / "i"), str(tmp_path / "e.npz"), "--top", "1"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[:2] for line in lines] == [[name, name] for name in names]
    assert main([*command, "--out", str(tmp_path / "found.tsv")]) == 0
    lines = (tmp_path / "found.tsv").read_text().splitlines()
    assert [line.split("\t")[:2] for line in lines] == [[f"'{name}"] * 2 for name in names]


def test_recordings_are_searched_with_their_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embedder = Embedder(make_model("ecapa", n_mels=40), "cpu")
    embedder.save_pretrained(tmp_path / "model")
    paths = [write_audio(tmp_path / f"{n}.wav", noise(0.5, seed=n)) for n in range(4)]
    _, matrix, _ = embedder.embed_files(paths)
    write_vectors(tmp_path / "e.npz", [path.name for path in paths], matrix)
    main(["index", str(tmp_path / "e.npz"), "--out", str(tmp_path / "i")])
    (tmp_path / "bad.wav").write_bytes(b"")
    capsys.readouterr()
    command = ["search", str(tmp_path / "i"), str(paths[2]), str(tmp_path / "bad.wav")]
    assert (
        main([*command, "--model", str(tmp_path / "model"), "--device", "cpu", "--top", "1"]) == 0
    )
    printed = capsys.readouterr()
    assert printed.out.split() == ["2.wav", "2.wav", "1.000000"]
    assert "bad.wav" in printed.err


def edits() -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Yield ways to break an index, with names."""

    def about(**changes: object) -> Callable[[Path], None]:
        def edit(folder: Path) -> None:
            held = json.loads((folder / layout.ABOUT).read_text())
            (folder / layout.ABOUT).write_text(json.dumps({**held, **changes}))

        return edit

    def array(name: str, change: Callable[[NDArray[np.generic]], object]) -> Callable[[Path], None]:
        def edit(folder: Path) -> None:
            np.save(folder / name, change(np.array(np.load(folder / name))), allow_pickle=True)

        return edit

    def cut(name: str) -> Callable[[Path], None]:
        return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)

    yield "no about", lambda folder: (folder / layout.ABOUT).unlink()
    yield "a later layout", about(layout=2)
    yield "a terabyte of rows", about(shards=[10**12])
    yield "rows beyond 64 bits", about(shards=[2**70])
    yield "negative rows", about(shards=[-1, ROWS + 1])
    yield "rows that are words", about(shards=["a"])
    yield "no shards", about(shards=[])
    yield "other rows", about(shards=[1500, 1500, 999])
    yield "another size", about(dim=12)
    yield "a size of billions", about(dim=2**31)
    yield "lists of billions", about(lists=2**31)
    yield "other lists", about(lists=64, probes=1)
    yield "other codes", about(code_bytes=12)
    yield "probes beyond the lists", about(probes=10**6)
    yield "another kind", about(kind="pickle")
    yield "no JSON", lambda folder: (folder / layout.ABOUT).write_text("[" * 100_000)
    for name in (layout.CENTROIDS, layout.CODEBOOKS, layout.ID_ENDS):
        yield f"{name} cut", cut(name)
        yield f"{name} of objects", array(name, lambda a: a.astype(object))
        yield f"{name} of another shape", array(name, lambda a: a[:-1])
        yield f"{name} in Fortran's order", array(name, lambda a: np.asfortranarray(a[::-1]).T)
    for name in (layout.vectors_file(1), layout.lists_file(1), layout.sizes_file(1)):
        yield f"{name} cut", cut(name)
        yield f"{name} missing", lambda folder, name=name: (folder / name).unlink()  # type: ignore[misc]
    sizes = layout.sizes_file(0)
    yield "a negative list", array(sizes, lambda a: np.r_[a[0] + a[1] + 5, -5, a[2:]])
    yield "a list beyond the file", array(sizes, lambda a: a * 1000)
    yield "sizes that overflow", array(sizes, lambda a: np.full(len(a), 2**62))
    yield "rows that are not there", scramble(layout.lists_file(0))
    yield "ids that end before they begin", array(layout.ID_ENDS, lambda a: a[::-1].copy())
    yield "ids that end behind the file", array(layout.ID_ENDS, lambda a: a + 10**12)
    yield "a FIFO for ids", fifo(layout.IDS)


def scramble(name: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        size = (folder / name).stat().st_size
        (folder / name).write_bytes(b"\x7f" * size)

    return edit


def fifo(name: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return edit


@pytest.mark.parametrize(("name", "edit"), list(edits()))
def test_an_index_that_lies_is_refused(
    tmp_path: Path, index: Path, embeddings: Rows, name: str, edit: Callable[[Path], None]
) -> None:
    shutil.copytree(index, tmp_path / "i")
    edit(tmp_path / "i")
    with pytest.raises(UserError) as caught:
        list(Index(tmp_path / "i").search(["q"] * 20, embeddings[:20], 30))
    assert str(tmp_path / "i") in str(caught.value) or "the index names rows" in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_broken_build_leaves_no_index(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_index(source, tmp_path / "i")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("speechssl.evaluation.neighbours.build._write_rows", fail)
    with pytest.raises(UserError, match="No space left"):
        build_index(source, tmp_path / "i")
    with pytest.raises(UserError, match="no index"):
        Index(tmp_path / "i")


def test_ids_of_any_bytes_come_back(tmp_path: Path, embeddings: Rows) -> None:
    names = ["a b", "ü", "\udcff", "=1"]
    write_vectors(tmp_path / "e.npz", names, embeddings[:4])
    build_index(tmp_path / "e.npz", tmp_path / "index")
    opened = Index(tmp_path / "index")
    assert [opened.ids[row] for row in range(4)] == names


def test_more_found_than_asked_for_is_no_better_recall() -> None:
    """Where the query itself is not found there is one other more: it does not count."""
    truth = np.arange(11)[None]
    found = np.array([[1, 2, 3, 4, 5, 6, 7, 8, 9, 20, 10]])
    assert recall_of(found, truth, np.array([0])) == pytest.approx(0.9)


def test_other_files_of_a_folder_stay(tmp_path: Path, embeddings: Rows) -> None:
    write_vectors(tmp_path / "e.npz", ["a", "b"], embeddings[:2])
    kept = tmp_path / "index" / "vectors-of-mine.npy"
    kept.parent.mkdir()
    kept.write_bytes(b"mine")
    build_index(tmp_path / "e.npz", kept.parent)
    assert kept.read_bytes() == b"mine"


def test_too_few_for_codes_is_one_line(tmp_path: Path, embeddings: Rows) -> None:
    names = [f"u{number}" for number in range(300)]
    write_vectors(tmp_path / "few.npz", names[:255], embeddings[:255])
    with pytest.raises(UserError, match="255 embeddings are too few"):
        build_index(tmp_path / "few.npz", tmp_path / "index", kind="ivfpq")
    pytest.importorskip("faiss")
    write_vectors(tmp_path / "enough.npz", names[:256], embeddings[:256])
    about, _ = build_index(tmp_path / "enough.npz", tmp_path / "index", kind="ivfpq")
    assert about.rows == 256


def test_centroids_that_no_index_needs_are_refused_before_they_are_read(index: Path) -> None:
    """A file may be sparse: 16 million rows that take no room on the disk."""
    held = json.loads((index / layout.ABOUT).read_text())
    copy = index.parent / "sparse"
    copy.mkdir()
    (copy / layout.ABOUT).write_text(json.dumps({**held, "lists": 1 << 24}))
    with pytest.raises(UserError, match="are no index"):
        read_about(copy)
    # faiss keeps lists and codebooks for each shard, however small its files are.
    many = {"shards": [1] * 60_000, "lists": 1 << 13}
    (copy / layout.ABOUT).write_text(json.dumps({**held, **many}))
    with pytest.raises(UserError, match="60000 shards of 8192 lists need more than 9 GB"):
        read_about(copy)


def test_shards_share_their_centroids(index: Path) -> None:
    opened = quantised.Quantised(index, read_about(index))
    shared = {int(shard.quantizer.this) for shard, _ in opened._shards}
    assert len(opened._shards) > 1 and len(shared) == 1
