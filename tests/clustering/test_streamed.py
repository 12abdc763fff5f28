"""k-means over a folder: the fixed point of Lloyd's iteration, whatever the blocks and processes."""

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from builders import ROOT
from numpy.typing import NDArray

from speechssl import distributed, metrics
from speechssl.cli.command import main
from speechssl.clustering import streamed as streaming
from speechssl.clustering.kmeans import SphericalKMeans
from speechssl.clustering.kmeans_ahc import KMeansAHC
from speechssl.clustering.steps import prepared
from speechssl.clustering.streamed import Streamed, assign
from speechssl.data.vectors.files import write_vectors
from speechssl.data.vectors.folder import VectorFolder
from speechssl.data.vectors.folder_writer import FolderWriter, part_bytes
from speechssl.data.vectors.places import Place
from speechssl.distributed import World
from speechssl.errors import UserError
from speechssl.evaluation import clusters
from speechssl.evaluation.streamed_clusters import cluster_folder

pytest.importorskip("pyarrow")

ALONE = World(0, 1, torch.device("cpu"))
Rows = NDArray[np.float32]


def blobs(noise: float, count: int = 3000) -> tuple[Rows, NDArray[np.int64]]:
    """Return embeddings (N, 16) and which of 20 directions each is of."""
    rng = np.random.default_rng(0)
    means = rng.standard_normal((20, 16))
    truth = rng.integers(20, size=count)
    rows = means[truth] + noise * rng.standard_normal((count, 16))
    return rows.astype(np.float32), truth


def write(folder: Path, rows: Rows, size: int = 400) -> Path:
    """Write files of `size` embeddings; row n has the id `un`, and the order is that of the rows."""
    folder.mkdir(parents=True)
    for first in range(0, len(rows), size):
        block = rows[first : first + size]
        ids = [f"u{row}" for row in range(first, first + len(block))]
        data = part_bytes(ids, block, [1.0] * len(ids))
        (folder / f"part-{first:06d}.parquet").write_bytes(data)
    return folder


def fit(folder: Path, world: World = ALONE, **settings: Any) -> tuple[Rows, NDArray[np.int64]]:
    """Return centroids and clusters of k-means."""
    streamed = Streamed(VectorFolder(folder), world)
    fitted = SphericalKMeans(**settings).fit_streamed(streamed)
    return fitted.centroids.numpy(), assign(streamed, fitted)[0]


def test_centroids_are_where_lloyd_stays(tmp_path: Path) -> None:
    rows, _ = blobs(noise=1.0)
    centroids, labels = fit(
        write(tmp_path / "e", rows), n_clusters=20, max_iter=200, tol=0.0, n_init=1
    )
    unit = prepared(rows).astype(np.float64)
    np.testing.assert_array_equal(labels, (unit @ centroids.T.astype(np.float64)).argmax(1))
    for number in range(20):
        mean = unit[labels == number].sum(0)
        np.testing.assert_allclose(centroids[number], mean / np.linalg.norm(mean), atol=1e-5)


def test_it_is_as_good_as_in_memory(tmp_path: Path) -> None:
    rows, truth = blobs(noise=0.6)
    folder = write(tmp_path / "e", rows)
    in_memory = SphericalKMeans(n_clusters=20)
    in_memory.fit_predict(prepared(rows))
    part = SphericalKMeans(n_clusters=20)
    streamed = Streamed(VectorFolder(folder), ALONE)
    labels, cosines = assign(streamed, part.fit_streamed(streamed))
    assert part.objective == pytest.approx(in_memory.objective, rel=2e-3)
    assert metrics.nmi(truth, labels) > 0.9
    tree = KMeansAHC(n_centroids=200, n_clusters=20).fit_streamed(streamed)
    labels, cosines = assign(streamed, tree)
    assert metrics.nmi(truth, labels) > 0.9
    unit = prepared(rows)
    for number in range(20):  # cosines with the mean of the merged cluster, not of one centroid
        of_cluster = unit[labels == number]
        mean = of_cluster.sum(0) / np.linalg.norm(of_cluster.sum(0))
        np.testing.assert_allclose(cosines[labels == number], of_cluster @ mean, atol=1e-5)


@pytest.mark.parametrize("rows_of_a_block", [64, 1000])
def test_blocks_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_of_a_block: int
) -> None:
    folder = write(tmp_path / "e", blobs(noise=0.8)[0])
    expected = fit(folder, n_clusters=20)[0]
    monkeypatch.setattr(streaming, "BLOCK_ROWS", rows_of_a_block)
    np.testing.assert_allclose(fit(folder, n_clusters=20)[0], expected, atol=1e-5)


def test_projection_is_that_of_memory(tmp_path: Path) -> None:
    rows, _ = blobs(noise=0.8)
    found = torch.cat(list(Streamed(VectorFolder(write(tmp_path / "e", rows)), ALONE, 5).blocks()))
    expected = prepared(rows, 5)
    np.testing.assert_allclose(np.abs(found.numpy()), np.abs(expected), atol=1e-4)


def test_empty_centroids_move_to_the_worst_rows(tmp_path: Path) -> None:
    """Of 25 centroids from 20 equal rows each, five begin empty: no row is nearest to a copy."""
    rows = np.repeat(np.eye(30, 16, dtype=np.float32)[:16], 40, axis=0)
    rows += 0.01 * np.random.default_rng(0).standard_normal(rows.shape).astype(np.float32)
    folder = write(tmp_path / "e", rows)
    streamed = Streamed(VectorFolder(folder), ALONE)
    start = streamed.sample(1, 0).repeat(16, 1)
    original = streaming._start
    streaming._start = lambda *_: start  # type: ignore[assignment]
    try:
        fitted = SphericalKMeans(n_clusters=16, tol=0.0, max_iter=50).fit_streamed(streamed)
    finally:
        streaming._start = original
    assert (fitted.counts > 0).all()


def _rank(rank: int, world: int, folder: str, store: str, out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world
    )
    here = World(rank, world, torch.device("cpu"))
    centroids, labels = fit(Path(folder), here, n_clusters=20, tol=1e-6)
    np.savez(f"{out}-{rank}.npz", centroids=centroids, labels=labels)
    distributed.stop()


@pytest.mark.slow
def test_four_processes_find_the_centroids_of_one(tmp_path: Path) -> None:
    rows, _ = blobs(noise=0.8)
    folder = write(tmp_path / "e", rows)
    centroids, labels = fit(folder, n_clusters=20, tol=1e-6)
    arguments = (4, str(folder), str(tmp_path / "store"), str(tmp_path / "out"))
    mp.start_processes(_rank, args=arguments, nprocs=4, start_method="spawn")
    found = [np.load(tmp_path / f"out-{rank}.npz") for rank in range(4)]
    for each in found:
        np.testing.assert_allclose(each["centroids"], centroids, atol=1e-5)
    np.testing.assert_array_equal(np.concatenate([each["labels"] for each in found]), labels)


def test_the_command_writes_what_it_writes_for_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, truth = blobs(noise=0.4)
    write(tmp_path / "e", rows)
    ids = [f"u{row}" for row in range(len(rows))]
    write_vectors(tmp_path / "e.npz", ids, rows)
    (tmp_path / "utt2spk").write_text("".join(f"u{n} s{t}\n" for n, t in enumerate(truth)))
    common = ["n_clusters=20", "--reference", str(tmp_path / "utt2spk"), "--min-cluster-size", "5"]
    outputs = {}
    for source in ("e", "e.npz"):
        out = tmp_path / f"out-{source}"
        command = ["cluster", str(tmp_path / source), *common, "--out", str(out)]
        assert main([*command, "--device", "cpu", "--keep-fraction", "0.9"]) == 0
        figures = json.loads((out / "clusters.json").read_text())
        lines = sorted((out / "utt2cluster").read_text().splitlines())
        outputs[source] = (figures, dict(line.split() for line in lines))
    streamed, in_memory = (outputs[source] for source in ("e", "e.npz"))
    assert streamed[0]["nmi"] > 0.98
    for key in ("utterances", "clusters", "classes"):
        assert streamed[0][key] == in_memory[0][key]
    for key in ("cohesion", "silhouette", "nmi", "purity", "kept"):
        assert streamed[0][key] == pytest.approx(in_memory[0][key], rel=0.02)
    assert streamed[0]["iterations"] >= 1 and streamed[0]["processes"] == 1
    both = sorted(streamed[1].keys() & in_memory[1].keys())
    assert len(both) > 0.85 * len(rows)
    codes = [np.unique([o[1][n] for n in both], return_inverse=True)[1] for o in outputs.values()]
    assert metrics.nmi(codes[0], codes[1]) > 0.98
    assert (tmp_path / "out-e/sizes.png").is_file()
    capsys.readouterr()


@pytest.mark.parametrize("at_once", [7, 1 << 20])
def test_examples_are_those_of_the_same_clusters_in_memory(
    tmp_path: Path,
    at_once: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(clusters, "_ROWS_SORTED", at_once)
    rows, _ = blobs(noise=0.4, count=300)
    folder = write(tmp_path / "e", rows)
    words = ["n_clusters=20", "--device", "cpu", "--examples", "3", "--out", str(tmp_path / "out")]
    assert main(["cluster", str(folder), *words]) == 0
    cluster_of = dict(line.split() for line in (tmp_path / "out/utt2cluster").open())
    ids = [f"u{row}" for row in range(len(rows))]
    labels = np.array([int(cluster_of[name][1:]) for name in ids])
    monkeypatch.undo()
    expected = clusters.examples(ids, prepared(rows, 0), labels, 3).splitlines()
    found = (tmp_path / "out/examples.tsv").read_text().splitlines()
    assert len(found) == len(expected) > 40
    for line, other in zip(found, expected, strict=True):
        assert line.split("\t")[:3] == other.split("\t")[:3]
        assert line == expected[0] or float(line.split("\t")[3]) == pytest.approx(
            float(other.split("\t")[3]), abs=2e-4
        )
    capsys.readouterr()


def test_the_clusters_of_a_folder_hold_each_embeddings_cosine_with_its_mean(tmp_path: Path) -> None:
    """Of those that are left out, too."""
    rows, _ = blobs(noise=0.4, count=300)
    folder = VectorFolder(write(tmp_path / "e", rows))
    settings = {"n_clusters": 20, "max_iter": 200, "tol": 0.0, "n_init": 1}
    everything = cluster_folder(folder, SphericalKMeans(**settings), ALONE)
    kept = cluster_folder(folder, SphericalKMeans(**settings), ALONE, keep_fraction=0.5)
    assert everything is not None and kept is not None
    unit = prepared(rows)
    means = np.stack([unit[everything.labels == number].mean(0) for number in range(20)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    expected = (unit * means[everything.labels]).sum(1)
    np.testing.assert_allclose(everything.nearness, expected, atol=1e-4)
    np.testing.assert_array_equal(kept.nearness, everything.nearness)
    assert 0.4 < (kept.labels >= 0).mean() < 0.6
    assert kept.figures["iterations"] == everything.figures["iterations"]
    elsewhere = World(1, 1, torch.device("cpu"))
    assert cluster_folder(folder, SphericalKMeans(**settings), elsewhere) is None


@pytest.mark.slow
def test_the_command_under_torchrun(tmp_path: Path) -> None:
    rows, truth = blobs(noise=0.4)
    folder = write(tmp_path / "e", rows)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, "-m", "speechssl", "cluster", str(folder), "n_clusters=20"]
    command += ["--out", str(tmp_path / "out"), "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("silhouette") == 1
    assert json.loads((tmp_path / "out/clusters.json").read_text())["processes"] == 2
    lines = dict(line.split() for line in (tmp_path / "out/utt2cluster").read_text().splitlines())
    labels = [lines[f"u{row}"] for row in range(len(rows))]
    assert metrics.nmi(truth, np.unique(labels, return_inverse=True)[1]) > 0.98


def test_memory_is_that_of_a_block(tmp_path: Path) -> None:
    """25 MB of embeddings; numpy holds three copies of a block of 3 MB (torch is not traced)."""
    rng = np.random.default_rng(0)
    writer = FolderWriter(Place(tmp_path / "e"), rows=8192)
    for row in range(65_536):
        writer.write(f"u{row}", rng.standard_normal(96).astype(np.float32), 1.0)
    writer.flush()
    streamed = Streamed(VectorFolder(tmp_path / "e"), ALONE)
    tracemalloc.start()
    for _ in streamed.blocks():
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6


def test_what_cannot_be_is_one_line(tmp_path: Path) -> None:
    rows, _ = blobs(noise=0.4, count=50)
    rows[7, 3] = np.nan
    folder = VectorFolder(write(tmp_path / "nan", rows))
    with pytest.raises(UserError, match="not finite"):
        Streamed(folder, ALONE)
    rows[7, 3] = 0
    streamed = Streamed(VectorFolder(write(tmp_path / "e", rows)), ALONE)
    with pytest.raises(UserError, match="50 embeddings cannot make 51 clusters"):
        SphericalKMeans(n_clusters=51).fit_streamed(streamed)
    with pytest.raises(UserError, match="sample_size"):
        SphericalKMeans(n_clusters=5, sample_size=20).fit_streamed(streamed)
