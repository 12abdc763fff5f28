"""The benchmarks run, in miniature, and print what they promise; their figures are not tests."""

import re
import subprocess
import sys

import pytest
from builders import ROOT


def bench(name, *words):
    command = [sys.executable, "-m", f"egs.bench.{name}", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_encoders_beside_speechbrains_and_a_counterpart_of_the_light_resnet():
    words = ["--batch", "2", "--seconds", "0.5", "--rounds", "1"]
    out = bench("encoder", *words, "--only", "ecapa-512", "resnet34-light")
    assert "speechbrain float32" in out and "ours float32 runs at" in out and "inference" in out
    assert "resnet34-light" in out


def test_a_step_split_into_its_parts(voices):
    words = [
        "--steps",
        "1",
        "--data",
        str(voices / "train"),
        "train.batch_size=4",
        "encoder.width=32",
    ]
    out = bench("step", *words, "data.workers=0")
    for part in (
        "waiting for data",
        "teacher encoder",
        "student encoder",
        "backward",
        "optimiser",
        "besides",
    ):
        assert part in out


def test_the_loader_with_and_without_augmentation(voices):
    out = bench(
        "loader", "--data", str(voices / "train"), "--noise", str(voices / "audio"),
        "--batches", "1",
    )  # fmt: skip
    assert len(_loader_rates(out)) == 3


@pytest.mark.slow
def test_the_loader_on_voices_of_its_own():
    assert len(_loader_rates(bench("loader", "--batches", "1"))) == 3


def _loader_rates(out):
    """Return utterances a second (from the files, decoded before) of each line of the table."""
    title, *lines = out.strip().splitlines()
    assert title.startswith("utterances a second and core")
    rates = [tuple(float(word) for word in line.split()[-2:]) for line in lines]
    assert all(files > 0 and decoded > 0 for files, decoded in rates)
    return rates


def test_embedding_beside_file_by_file():
    assert "file by file" in bench("embedding", "--files", "4", "--width", "64")


def test_scoring_and_clustering():
    out = bench(
        "scoring", "--trials", "2000", "--utterances", "100", "--kmeans", "500", "--clusters", "10"
    )
    assert "MiniBatchKMeans" in out and "AS-norm" in out and "peak memory" in out


def test_clusters_in_processes_of_their_own():
    out = bench(
        "clusters", "--rows", "600", "--speakers", "10", "--clusters", "12", "--centroids", "30"
    )
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()[2:]}
    assert set(rows) == {"kmeans", "kmeans_ahc", "MiniBatchKMeans"}
    assert all(float(row[2]) > 0.5 and int(row[3]) <= 12 for row in rows.values())


def test_a_corpus_at_two_sizes_and_the_exponent():
    pytest.importorskip("pyarrow")
    out = bench("corpus", "--rows", "2000", "4000", "--clusters", "10", "--device", "cpu")
    assert out.count("k-means to 10") == 2 and out.count("recall@10") == 2
    assert out.count("seconds grow as rows to the power of") == 2
    figures = [float(word) for word in re.findall(r"NMI ([\d.]+)", out)]
    memory = [float(word) for word in re.findall(r"largest process ([\d.]+) GB", out)]
    assert min(figures) > 0.5 and min(memory) > 0.1


def test_a_busy_machine():
    out = bench("busy", "--steps", "1", "--width", "16", "--load", "1")
    assert out.count("1 loop") == 3


def test_neighbours_by_faiss_are_those_of_the_tiles():
    pytest.importorskip("faiss")
    out = bench("neighbours", "--rows", "300", "--dim", "8")
    assert "tiles" in out and "100.0000 % of the neighbours are the same" in out


def test_what_a_device_is_worth_on_a_cpu():
    out = bench(
        "device", "--device", "cpu", "--only", "products", "convolutions", "augment", "kmeans"
    )
    assert "products in bfloat16" in out and "conv2d, channels last (ours)" in out
    assert "log-mels" in out and "one iteration" in out and "rror" not in out


def test_the_cost_of_a_command_and_its_exponent():
    out = bench("costs", "--only", "score", "--scale", "0.02")
    (row,) = [line for line in out.splitlines() if line.startswith("| score |")]
    assert "2,000 6,000 20,000 trials" in row and float(row.split("|")[-2]) > -2
