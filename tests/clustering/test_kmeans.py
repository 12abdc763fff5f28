"""Spherical k-means: fixed points, invariances, and scikit-learn's answer on separated clusters."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch.nn import functional as F

from speechssl import metrics
from speechssl.clustering import nearest as nearest_module
from speechssl.clustering.kmeans import SphericalKMeans, spherical_kmeans, tries
from speechssl.clustering.kmeans_ahc import KMeansAHC
from speechssl.clustering.nearest import nearest
from speechssl.clustering.starts import plus_plus
from speechssl.errors import UserError


def clusters(count=12, each=30, dim=16, noise=0.15, seed=0):
    generator = np.random.default_rng(seed)
    means = generator.normal(size=(count, dim))
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    labels = np.repeat(np.arange(count), each)
    return (means[labels] + noise * generator.normal(size=(len(labels), dim)) / 4).astype(
        "f4"
    ), labels


def test_separated_clusters_are_found_as_scikit_learn_finds_them():
    x, labels = clusters()
    best = max(
        (SphericalKMeans(n_clusters=12, seed=s) for s in range(5)),
        key=lambda m: (m.fit_predict(x), m.objective)[1],
    )
    theirs = KMeans(12, n_init=5, random_state=0).fit_predict(
        x / np.linalg.norm(x, axis=1, keepdims=True)
    )
    assert metrics.nmi(best.fit_predict(x), labels) > 0.95
    assert metrics.nmi(best.fit_predict(x), labels) >= metrics.nmi(theirs, labels) - 0.05


def test_the_end_is_a_fixed_point_and_the_objective_never_falls():
    x = F.normalize(torch.randn(500, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    objectives = []
    for iterations in (0, 1, 2, 5, 100):
        centroids, labels, cosines = spherical_kmeans(
            x, 10, iterations, torch.Generator().manual_seed(1)
        )
        objectives.append(float(cosines.mean()))
        torch.testing.assert_close(centroids.norm(dim=1), torch.ones(10))
    assert objectives == sorted(objectives)
    for k in range(10):
        torch.testing.assert_close(
            centroids[k], F.normalize(x[labels == k].sum(0), dim=0), atol=1e-5, rtol=0
        )
    torch.testing.assert_close(cosines, (x @ centroids.T).max(1).values)


def test_scale_does_not_matter_and_a_seed_decides():
    x, _ = clusters()
    scale = np.random.default_rng(1).uniform(0.1, 10, size=(len(x), 1)).astype("f4")
    one, two = (SphericalKMeans(n_clusters=7, seed=3).fit_predict(m) for m in (x, x * scale))
    assert (one == two).mean() > 0.99
    assert (SphericalKMeans(n_clusters=7, seed=3).fit_predict(x) == one).all()


def test_neither_tiles_nor_faiss_show(monkeypatch):
    x = F.normalize(torch.randn(100, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    centroids = x[:9]
    products = (x @ centroids.T).max(1)
    monkeypatch.setattr(nearest_module, "TILE", 50)
    for faiss in (pytest.importorskip("faiss"), None):
        monkeypatch.setattr(nearest_module, "faiss_if_installed", lambda found=faiss: found)
        labels, cosines = nearest(x, centroids)
        assert labels.tolist() == products.indices.tolist()
        torch.testing.assert_close(cosines, products.values)


def test_no_cluster_is_empty_at_the_end_of_an_iteration_that_met_one():
    x = F.normalize(torch.tensor([[1.0, 0], [1, 0.01], [1, 0.02], [-1, 0], [0, 1.0]]), dim=1)
    start = torch.tensor([[1.0, 0], [1, 0.0001], [1, 0.0002]])
    _, labels, _ = spherical_kmeans(x, 3, 10, start=start)
    assert len(set(labels.tolist())) == 3


def test_a_part_of_the_data_can_fit_and_all_of_it_is_assigned():
    x, labels = clusters(each=100)
    found = SphericalKMeans(n_clusters=12, sample_size=300, seed=1).fit_predict(x)
    assert len(found) == len(x) and metrics.nmi(found, labels) > 0.8


def test_more_clusters_than_embeddings_are_refused():
    with pytest.raises(UserError, match="5 embeddings cannot make 6"):
        SphericalKMeans(n_clusters=6).fit_predict(np.eye(5, dtype="f4"))


def test_k_means_plus_plus_draws_by_the_squared_distance():
    # squared distances 2 - 2 cos from the first row: 0, .2, 1.8, so the second is drawn 1 : 9
    x = torch.tensor([[1.0, 0, 0], [0.9, 0.19**0.5, 0], [0.1, 0, 0.99**0.5]])
    generator = torch.Generator().manual_seed(0)
    seen = {0: 0, 1: 0, 2: 0}
    for _ in range(3000):
        first, second = plus_plus(x, 2, generator, candidates=1)
        if torch.equal(first, x[0]):
            seen[next(row for row in range(3) if torch.equal(second, x[row]))] += 1
    assert seen[0] == 0
    assert seen[1] / (seen[1] + seen[2]) == pytest.approx(0.1, abs=0.03)


def test_k_means_plus_plus_draws_no_row_twice():
    x = F.normalize(torch.randn(200, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    start = plus_plus(x, 200, torch.Generator().manual_seed(1))
    assert len(torch.unique(start, dim=0)) == 200
    equal = x[:1].expand(5, -1)
    assert plus_plus(equal, 3).shape == (3, 4)


def test_k_means_plus_plus_with_restarts_finds_what_random_rows_miss():
    ours = []
    random = []
    theirs = []
    for seed in range(4):
        x, labels = clusters(count=20, each=50, dim=16, noise=0.6, seed=seed)
        good = SphericalKMeans(n_clusters=20, seed=seed)
        plain = SphericalKMeans(n_clusters=20, seed=seed, init="random")
        ours.append(metrics.nmi(good.fit_predict(x), labels))
        random.append(metrics.nmi(plain.fit_predict(x), labels))
        assert good.objective > plain.objective
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        found = KMeans(20, n_init=10, random_state=0).fit_predict(unit)
        theirs.append(metrics.nmi(found, labels))
    # the figures of methods/README.md 15
    assert np.mean(random) == pytest.approx(0.956, abs=0.01)
    assert np.mean(ours) == pytest.approx(0.990, abs=0.01)
    assert np.mean(theirs) == pytest.approx(0.995, abs=0.005)
    assert min(ours) > 0.97


def test_fewer_tries_are_made_where_they_would_take_long():
    assert tries(2000, 2000, 20) == 10
    assert tries(1_000_000, 20_000, 1000) == 10
    assert tries(1_000_000, 100_000, 10_000) == 4  # 4 x 7 passes over a tenth of the rows
    assert tries(50_000, 20_000, 700) == 1


def test_a_tolerance_ends_the_iterations_early():
    x = F.normalize(torch.randn(3000, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    start = x[:30]
    exact = spherical_kmeans(x, 30, 200, start=start)[2].mean()
    early = spherical_kmeans(x, 30, 200, start=start, tol=1e-3)[2].mean()
    assert exact - 0.02 < early < exact
    with pytest.raises(UserError, match="n_init=-1"):
        SphericalKMeans(n_init=-1)


@pytest.mark.parametrize("n_centroids, n_clusters", [(1600, 800), (0, 800), (300, 800)])
def test_more_centroids_than_small_data_has_are_refused_with_numbers_that_fit(
    n_centroids, n_clusters
):
    x, _ = clusters(count=10, each=50)
    with pytest.raises(UserError, match=r"500 embeddings .* n_centroids=0 makes 125 .*=62"):
        KMeansAHC(n_centroids=n_centroids, n_clusters=n_clusters).fit_predict(x)
    assert KMeansAHC(n_centroids=0, n_clusters=62).fit_predict(x).max() == 61
