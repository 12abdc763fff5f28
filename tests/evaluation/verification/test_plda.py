"""PLDA: scores are ratios of Gaussian densities, EM finds the model that made the data, and it
serves.
"""

import warnings

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from speechssl import metrics
from speechssl.data.trials import Trials
from speechssl.errors import UserError
from speechssl.evaluation.verification.plda import (
    PLDA,
    Statistics,
    em_step,
    initial_covariances,
    shrunk,
)
from speechssl.evaluation.verification.verify import evaluate


def voices(speakers, each, between, within, seed=0):
    """Rows (speakers * each, D) and their speakers."""
    rng = np.random.default_rng(seed)
    y = rng.multivariate_normal(np.zeros(len(between)), between, speakers)
    x = np.repeat(y, each, 0) + rng.multivariate_normal(
        np.zeros(len(within)), within, speakers * each
    )
    return x.astype(np.float32), np.repeat(np.arange(speakers), each)


def test_scores_are_log_likelihood_ratios_of_gaussians():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3, 3))
    x, who = voices(200, 5, a @ a.T, b @ b.T)
    model = PLDA(x, who)
    test = rng.standard_normal((6, 3)).astype(np.float32)
    enrol, other = np.array([0, 1, 2]), np.array([3, 4, 5])
    got = model(test, enrol, other)
    z = (model.scale(test) - model.centre) @ model.basis
    d = np.diag(model.between)
    total = d + np.eye(3)
    joint = np.block([[total, d], [d, total]])
    for k, (i, j) in enumerate(zip(enrol, other)):
        same = multivariate_normal.logpdf(np.r_[z[i], z[j]], np.zeros(6), joint)
        apart = sum(multivariate_normal.logpdf(z[n], np.zeros(3), total) for n in (i, j))
        assert got[k] == pytest.approx(same - apart, abs=1e-4)


def test_expectation_maximisation_finds_both_covariances():
    between = np.array([[2.0, 0.6], [0.6, 0.5]])
    within = np.array([[0.7, -0.2], [-0.2, 1.1]])
    x, who = voices(4000, 4, between, within)
    rows = x.astype(np.float64)
    sums = np.add.reduceat(rows, np.arange(0, len(rows), 4))
    statistics = Statistics(rows.T @ rows, sums, np.full(4000, 4))
    w, b = initial_covariances(statistics)
    assert abs(b - between).max() > 0.15  # class means also hold a quarter of W
    for _ in range(30):
        w, b = em_step(statistics, w, b)
    np.testing.assert_allclose(b, between, atol=0.12)
    np.testing.assert_allclose(w, within, atol=0.04)


@pytest.fixture(scope="module")
def noisy():
    """Speakers in a few weak directions, a loud nuisance in others; training and test speakers
    differ.
    """
    dim = 20
    between, within = np.eye(dim) * 0.02, np.eye(dim) * 0.05
    between[:6, :6] += np.eye(6)
    within[10:, 10:] += 4 * np.eye(10)
    train, test = voices(300, 6, between, within, 1), voices(40, 4, between, within, 2)
    rng = np.random.default_rng(3)
    pairs = rng.integers(0, 160, (4000, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    extra = [(i, j) for i in range(160) for j in range(i + 1, 160) if test[1][i] == test[1][j]]
    pairs = np.concatenate([pairs, extra])
    names = np.array([f"t{n}" for n in range(160)])
    trials = Trials(
        names[pairs[:, 0]], names[pairs[:, 1]], test[1][pairs[:, 0]] == test[1][pairs[:, 1]]
    )
    training = (np.array([f"m{n}" for n in range(1800)]), train[0])
    classes = {f"m{n}": f"c{c}" for n, c in enumerate(train[1])}
    return (names, test[0]), trials, training, classes


@pytest.mark.parametrize("dim", [0, 6])
def test_it_finds_speakers_where_cosines_hear_the_nuisance(noisy, dim):
    embeddings, trials, training, classes = noisy
    cosine = evaluate(embeddings, trials, replicates=0)["eer"]
    found = evaluate(embeddings, trials, plda=(training, classes), plda_dim=dim, replicates=0)
    assert found["eer"] < 0.5 * cosine
    assert found["scoring"].startswith("PLDA of 300 classes")


def test_the_ratios_are_nearly_calibrated(noisy):
    embeddings, trials, training, classes = noisy
    names, matrix = embeddings
    rows = {name: n for n, name in enumerate(names.tolist())}
    model = PLDA(training[1], np.array([int(classes[n][1:]) for n in training[0].tolist()]))
    scores = model(
        matrix, *(np.array([rows[n] for n in s.tolist()]) for s in (trials.enrol, trials.test))
    )
    assert metrics.cllr(scores, trials.target) < 0.7  # 1 bit: knows nothing


def test_utterances_without_a_class_are_left_out(noisy):
    embeddings, trials, training, classes = noisy
    some = {name: c for n, (name, c) in enumerate(classes.items()) if n < 600}
    found = evaluate(embeddings, trials, plda=(training, some), replicates=0)
    assert "100 classes" in found["scoring"]


def test_what_cannot_be_is_one_line(noisy):
    embeddings, trials, training, classes = noisy
    with pytest.raises(UserError, match="none of the 1800"):
        evaluate(embeddings, trials, plda=(training, {"x": "c"}), replicates=0)
    with pytest.raises(UserError, match="PLDA cannot be combined"):
        evaluate(embeddings, trials, plda=(training, classes), mean=training, replicates=0)
    with pytest.raises(UserError, match="two classes"):
        PLDA(training[1], np.zeros(1800, np.int64))
    with pytest.raises(UserError, match="two classes"):
        PLDA(training[1], np.arange(1800))
    with pytest.raises(UserError, match="--plda-dim 21"):
        PLDA(training[1], np.arange(1800) // 2, dim=21)
    with pytest.raises(UserError, match="test embeddings"):
        evaluate(
            embeddings, trials, plda=(embeddings, {"t0": "a", "t1": "a", "t2": "b"}), replicates=0
        )


def decaying(count, seed, each=5):
    """Embeddings of 32 dimensions with decaying spectra, and their speakers."""
    spectrum = np.exp(-np.arange(32) / 10.0)
    return voices(count // each, each, np.diag(spectrum**2), np.diag(spectrum**2 * 1.5), seed)


def error_of(model, test, who):
    rows = np.triu_indices(len(who), 1)
    return metrics.eer(model(test, *rows), who[rows[0]] == who[rows[1]])


def test_below_the_dimension_it_is_refused_and_below_ten_times_it_warns():
    few, who = decaying(30, 0)
    with pytest.raises(UserError, match=r"30 training embeddings for 32 dimensions; at least 32"):
        PLDA(few, who)
    some, who = decaying(300, 0)
    with pytest.warns(UserWarning, match="below some 320 cosines may be better"):
        PLDA(some, who)
    enough, who = decaying(320, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PLDA(enough, who)


def test_shrinkage_helps_where_embeddings_are_few():
    test, speakers = decaying(200, 9)
    without = []
    shrunken = []
    for seed in range(4):
        x, who = decaying(45, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            without.append(error_of(PLDA(x, who, shrinkage=0), test, speakers))
            shrunken.append(error_of(PLDA(x, who), test, speakers))
    assert np.mean(shrunken) < np.mean(without) - 2
    assert max(shrunken) < 40  # far from chance


@pytest.mark.filterwarnings("ignore:plda")
def test_no_singular_scatter_ends_in_a_traceback():
    x, who = decaying(40, 0)
    with pytest.raises(UserError, match="vary in at most 32 directions"):
        PLDA(np.pad(x, ((0, 0), (0, 1)))[:, :33], who, shrinkage=0)
    flat = np.repeat(decaying(8, 1, each=1)[0], 5, 0)  # classes of five equal embeddings
    with pytest.raises(UserError, match="raise --plda-shrinkage above 0"):
        PLDA(np.tile(flat, (2, 1)), np.repeat(np.arange(16) % 8, 5), shrinkage=0)
    scores = PLDA(np.pad(x, ((0, 0), (0, 3))), who, dim=5)(x[:, :1] * np.ones(35, "f4"), [0], [1])
    assert np.isfinite(scores).all()


def test_shrinkage_is_the_mean_with_a_sphere_of_so_many_embeddings_a_dimension():
    within = np.array([[3.0, 1.0], [1.0, 1.0]])  # mean variance 2; a weight of 4 against .5 x 2
    np.testing.assert_allclose(shrunk(within, 0.5, 4), np.array([[14, 4], [4, 6]]) / 5)
    np.testing.assert_allclose(shrunk(within, 0.5, 10**9), within, rtol=1e-6)


def test_all_principal_directions_change_nothing_and_some_are_plda_on_them():
    x, who = decaying(2000, 0)
    test, _ = decaying(20, 1)
    rows = np.array([0, 3]), np.array([1, 9])
    np.testing.assert_allclose(
        PLDA(x, who, pca=32)(test, *rows), PLDA(x, who)(test, *rows), rtol=1e-3, atol=1e-3
    )
    model = PLDA(x, who, pca=8)
    assert model.basis.shape == (32, 8) and "PCA 8" in model.name
    centred = model.scale(x) - model.centre
    kept = np.linalg.eigh(np.cov(centred.T))[1][:, -8:]
    # the basis lies in the span of the principal directions
    np.testing.assert_allclose(kept @ (kept.T @ model.basis), model.basis, rtol=1e-2, atol=1e-2)


def test_plda_settings_out_of_range_are_one_line():
    x, who = decaying(400, 0)
    with pytest.raises(UserError, match="--plda-pca 33"):
        PLDA(x, who, pca=33)
    with pytest.raises(UserError, match="--plda-dim 9 .* 8, the directions of --plda-pca"):
        PLDA(x, who, pca=8, dim=9)
    with pytest.raises(UserError, match="--plda-shrinkage -1"):
        PLDA(x, who, shrinkage=-1)
