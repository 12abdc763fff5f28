"""From embeddings to pseudo-labels: preparing, filters, clusterers, the command and its files."""

import json

import numpy as np
import pytest

from speechssl import metrics, parts
from speechssl.cli import main
from speechssl.clustering.kmeans_ahc import KMeansAHC
from speechssl.clustering.steps import confidences, filtered, prepared
from speechssl.errors import UserError
from speechssl.evaluation import clusters

NAMES = parts.names("clustering")


def blobs(count=8, each=25, dim=12, noise=0.1, seed=0):
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(count, dim))
    truth = np.repeat(np.arange(count), each)
    return (means[truth] + noise * rng.normal(size=(len(truth), dim))).astype("f4"), truth


SETTINGS = {
    "kmeans": {"n_clusters": 8, "seed": 1},
    "kmeans_ahc": {"n_centroids": 40, "n_clusters": 8},
}


@pytest.mark.parametrize("name", NAMES)
def test_every_clusterer_finds_what_is_plainly_there(name):
    x, truth = blobs()
    part = parts.build("clustering", {"name": name, **SETTINGS.get(name, {})})
    labels = part.fit_predict(prepared(x))
    assert labels.shape == truth.shape and labels.dtype == np.int64
    kept = labels >= 0
    assert kept.mean() > 0.9 and metrics.nmi(truth[kept], labels[kept]) > 0.9
    assert (part.fit_predict(prepared(x)) == labels).all()


@pytest.mark.parametrize("linkage", ["ward", "average"])
def test_a_tree_is_cut_by_number_or_by_threshold(linkage):
    x, truth = blobs()
    for settings in (
        {"n_clusters": 8},
        {"n_clusters": 0, "distance_threshold": 0.9 if linkage == "ward" else 0.3},
    ):
        labels = KMeansAHC(n_centroids=60, linkage=linkage, **settings).fit_predict(prepared(x))
        assert metrics.nmi(truth, labels) > 0.9


def test_a_tree_that_does_not_fit_is_refused_with_what_would():
    with pytest.raises(UserError, match="take 20.0 GB, more than memory_gb=8; take at most 31622"):
        KMeansAHC(n_centroids=50_000, n_clusters=10).fit_predict(np.zeros((60_000, 2), "f4"))


def test_preparing_centres_projects_and_scales():
    x, _ = blobs()
    rows = prepared(x + 100)
    np.testing.assert_allclose(rows, prepared(x), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    flat = prepared(x, 3)
    assert flat.shape == (200, 3)
    centred = x - x.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    want = u[:, :3] * s[:3]
    want = want / np.linalg.norm(want, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(flat), np.abs(want), atol=1e-3)
    assert prepared(x, 0.99).shape[1] < 12
    for wrong in (13, -3, float("nan")):
        with pytest.raises(UserError, match=f"--pca {wrong:g} of 12"):
            prepared(x, wrong)


def test_confidence_is_the_cosine_with_the_own_mean():
    rows = np.array([[1, 0], [0, 1], [1, 0], [-1, 0]], "f4")
    got = confidences(rows, np.array([0, 0, 1, -1]))
    np.testing.assert_allclose(got, [0.5**0.5, 0.5**0.5, 1, -1], atol=1e-6)


def test_the_share_that_is_kept_is_exact():
    labels = np.zeros(100, np.int64)
    kept = filtered(labels, np.linspace(0, 1, 100, dtype="f4"), keep_fraction=0.55)
    assert (kept >= 0).sum() == 55  # in floating point .55 times 100 is above 55


def test_filters_by_hand():
    labels = np.array([0, 0, 0, 0, 1, 2, 2, -1, 3, 3, 3])
    confidence = np.array([0.9, 0.1, 0.8, 0.5, 1, 1, 1, -1, 0.3, 0.2, 0.1], "f4")
    assert filtered(labels, confidence).tolist() == labels.tolist()
    assert filtered(labels, confidence, min_cluster_size=3).tolist() == [
        0,
        0,
        0,
        0,
        -1,
        -1,
        -1,
        -1,
        1,
        1,
        1,
    ]
    assert filtered(labels, confidence, min_cluster_size=2, max_cluster_size=3).tolist() == [
        -1
    ] * 5 + [
        0,
        0,
        -1,
        1,
        1,
        1,
    ]
    half = filtered(labels, confidence, keep_fraction=0.5)
    assert half.tolist() == [0, -1, 0, -1, 1, 2, -1, -1, 3, 3, -1]
    with pytest.raises(UserError, match="1 <= min_cluster_size"):
        filtered(labels, confidence, keep_fraction=0.0)


def test_figures_against_scikit_learn():
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score

    x, truth = blobs(noise=0.8)
    rows, ids = prepared(x), [f"u{i}" for i in range(200)]
    labels = parts.build("clustering", {"name": "kmeans", "n_clusters": 8}).fit_predict(rows)
    found = clusters.evaluate(
        ids, rows, labels, {n: f"s{t}" for n, t in zip(ids, truth, strict=True)}
    )
    assert found["nmi"] == pytest.approx(normalized_mutual_info_score(truth, labels))
    assert found["ari"] == pytest.approx(adjusted_rand_score(truth, labels))
    assert found["silhouette"] == pytest.approx(
        silhouette_score(rows, labels, metric="cosine"), abs=1e-4
    )
    assert found["kept"] == 200 and found["classes"] == 8
    with pytest.raises(UserError, match="nothing is left"):
        clusters.evaluate(ids, rows, np.full(200, -1))
    with pytest.raises(UserError, match="the reference lacks 200"):
        clusters.evaluate(ids, rows, labels, {})


@pytest.fixture
def embeddings(tmp_path):
    x, truth = blobs()
    ids = np.array([f"u{i:03d}" for i in range(200)])
    np.savez(tmp_path / "e.npz", ids=ids, embeddings=x)
    (tmp_path / "utt2spk").write_text("".join(f"u{i:03d} s{t}\n" for i, t in enumerate(truth)))
    return tmp_path


def test_the_command_writes_pseudo_labels_and_their_figures(embeddings, capsys):
    out = embeddings / "out"
    words = [
        "cluster",
        str(embeddings / "e.npz"),
        "n_clusters=8",
        "seed=1",
        "--out",
        str(out),
        "--min-cluster-size",
        "2",
    ]
    assert main([*words, "--reference", str(embeddings / "utt2spk")]) == 0
    lines = (out / "utt2cluster").read_text().splitlines()
    assert lines == sorted(lines) and len(lines) == 200 and lines[0].startswith("u000 c")
    found = json.loads((out / "clusters.json").read_text())
    assert (
        found["nmi"] > 0.9
        and found["clusterer"]["n_clusters"] == 8
        and found["labels_used"] == "none"
    )
    assert (out / "sizes.png").exists() and "nmi" in capsys.readouterr().out


def test_any_clusterer_by_its_dotted_path(embeddings):
    words = [
        "cluster",
        str(embeddings / "e.npz"),
        "--with",
        "sklearn.cluster:AgglomerativeClustering",
    ]
    assert main([*words, "n_clusters=8", "--out", str(embeddings / "out")]) == 0
    assert (
        len(
            {
                line.split()[1]
                for line in (embeddings / "out" / "utt2cluster").read_text().splitlines()
            }
        )
        == 8
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--with", "kmeanss"], "did you mean 'kmeans'"),
        (["cluster=8"], "unknown key clusterer.cluster (did you mean 'n_clusters'?)"),
        (["n_clusters=500"], "200 embeddings cannot make 500 clusters"),
        (
            ["--with", "sklearn.cluster:KMeans", "nothing=3"],
            "unexpected keyword argument 'nothing'",
        ),
        (["--with", "collections:OrderedDict"], "has no fit_predict"),
        (["n_clusters=8", "--min-cluster-size", "100"], "nothing is left after filtering"),
    ],
)
def test_mistakes_are_one_line(embeddings, words, said, capsys):
    assert (
        main(["cluster", str(embeddings / "e.npz"), *words, "--out", str(embeddings / "out")]) == 2
    )
    printed = capsys.readouterr().err
    assert said in printed and printed.count("\n") == 1


def test_all_pairs_of_a_million_are_refused_before_they_fill_the_memory():
    from sklearn.cluster import AgglomerativeClustering, Birch

    with pytest.raises(UserError, match=r"9,5\d\d GB for 1,092,009 embeddings.*kmeans_ahc"):
        clusters.check_memory(AgglomerativeClustering(), 1_092_009)
    clusters.check_memory(AgglomerativeClustering(), 1000)
    clusters.check_memory(Birch(), 1_092_009)


def test_examples_are_the_members_nearest_to_the_mean_of_their_cluster(tmp_path):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 8))
    truth = np.repeat([0, 1, 2], [12, 5, 2])
    matrix = (centres[truth] + 0.2 * rng.normal(size=(19, 8))).astype(np.float32)
    rows = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    ids = [f"u{i}" for i in range(19)]
    labels = truth.astype(np.int64)
    labels[0] = -1
    table = [line.split("\t") for line in clusters.examples(ids, rows, labels, 3).splitlines()]
    assert table[0] == ["cluster", "size", "utterance", "cosine"]
    assert [row[:2] for row in table[1:]] == [["c000000", "11"]] * 3 + [["c000001", "5"]] * 3 + [
        ["c000002", "2"]
    ] * 2
    for label, first in ((0, 1), (1, 4), (2, 7)):
        members = np.flatnonzero(labels == label)
        mean = rows[members].mean(0)
        cosines = rows[members] @ mean / np.linalg.norm(mean)
        best = members[np.argsort(-cosines)][:3]
        assert [row[2] for row in table[first : first + len(best)]] == [ids[row] for row in best]
        assert float(table[first][3]) == pytest.approx(cosines.max(), abs=1e-4)
