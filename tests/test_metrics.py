"""Metrics against closed forms, hand computations and scikit-learn."""

import time
import warnings

import numpy as np
import pytest
import sklearn.metrics
from scipy.stats import norm

from speechssl import metrics
from speechssl.errors import UserError


@pytest.fixture
def gaussian():
    """Scores of two unit Gaussians 2 apart, as log likelihood ratios would be after calibration."""
    generator = np.random.default_rng(0)
    target = generator.random(200_000) < 0.3
    return generator.normal(size=len(target)) + 2.0 * target, target


def test_eer_of_two_gaussians_is_the_closed_form(gaussian):
    scores, target = gaussian
    rate, threshold = metrics.eer_point(scores, target)
    assert rate == pytest.approx(100 * norm.cdf(-1.0), abs=0.3)
    assert threshold == pytest.approx(1.0, abs=0.02)


def test_eer_by_hand():
    # sorted: n0 n1 t2 n3 t4 t5; accepting >= 3 misses 1 of 3 and lets 1 of 3 pass
    assert metrics.eer([0, 1, 2, 3, 4, 5], [0, 0, 1, 0, 1, 1]) == pytest.approx(100 / 3)
    assert metrics.eer([0, 1, 2, 3], [0, 0, 1, 1]) == 0.0
    assert metrics.eer([3, 2, 1, 0], [0, 0, 1, 1]) == 100.0
    # one target above, one tied with one of two non-targets: the tie moves (fpr, fnr) (1/2, 0) to
    # (0, 1/2)
    assert metrics.eer([2, 1, 1, 0], [1, 1, 0, 0]) == pytest.approx(25.0)


@pytest.mark.parametrize("order", ["targets first", "targets last", "mixed"])
def test_all_scores_equal_is_fifty_percent_with_a_warning(order):
    target = {
        "targets first": [1] * 10 + [0] * 90,
        "targets last": [0] * 90 + [1] * 10,
        "mixed": [0] * 9 + [1],
    }[order]
    with pytest.warns(RuntimeWarning, match="all scores are equal"):
        assert metrics.eer(np.full(len(target), 0.7), target) == 50.0
    assert metrics.min_dcf(np.full(len(target), 0.7), target, 0.01) == 1.0


def test_ties_do_not_depend_on_the_order_of_the_list():
    generator = np.random.default_rng(1)
    scores, target = generator.integers(0, 6, 500), generator.random(500) < 0.4
    expected = metrics.eer(scores, target), metrics.min_dcf(scores, target, 0.05)
    for _ in range(5):
        order = generator.permutation(500)
        assert (
            metrics.eer(scores[order], target[order]),
            metrics.min_dcf(scores[order], target[order], 0.05),
        ) == expected


def test_errors_are_invariant_under_increasing_maps(gaussian):
    scores, target = gaussian[0][:5000], gaussian[1][:5000]
    for mapped in (3 * scores - 7, np.exp(scores), scores**3):
        assert metrics.eer(mapped, target) == pytest.approx(metrics.eer(scores, target), abs=1e-9)
        assert metrics.min_dcf(mapped, target, 0.01) == pytest.approx(
            metrics.min_dcf(scores, target, 0.01), abs=1e-9
        )


@pytest.mark.parametrize("levels", [5, 50, 10_000_000])
def test_det_curve_agrees_with_sklearn(levels):
    generator = np.random.default_rng(levels)
    target = generator.random(1000) < 0.3
    scores = np.round((generator.normal(size=1000) + target) * levels) / levels
    ours = {
        (round(a, 12), round(b, 12))
        for a, b in zip(*metrics.det_curve(scores, target)[:2], strict=True)
    }
    fpr, fnr, _ = sklearn.metrics.det_curve(target, scores)
    assert {(round(a, 12), round(b, 12)) for a, b in zip(fpr, fnr, strict=True)} <= ours


def test_det_curve_says_what_each_threshold_does():
    scores, target = np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, True, False, True])
    fpr, fnr, thresholds = metrics.det_curve(scores, target)
    np.testing.assert_array_equal(thresholds, [0.1, 0.4, 0.9, np.inf])
    np.testing.assert_allclose(fpr, [np.mean(scores[~target] >= at) for at in thresholds])
    np.testing.assert_allclose(fnr, [np.mean(scores[target] < at) for at in thresholds])


def test_weights_are_repetitions():
    generator = np.random.default_rng(2)
    scores, target, weights = (
        generator.normal(size=60),
        np.arange(60) % 3 == 0,
        generator.integers(0, 4, 60),
    )
    weighted = metrics.det_curve(scores, target, weights)
    repeated = metrics.det_curve(np.repeat(scores, weights), np.repeat(target, weights))
    kept = np.isin(weighted[2], repeated[2])
    np.testing.assert_allclose(weighted[0][kept], repeated[0])
    np.testing.assert_allclose(weighted[1][kept], repeated[1])


def test_min_dcf_by_exhaustion_and_never_above_one():
    generator = np.random.default_rng(3)
    scores, target = generator.normal(size=300), generator.random(300) < 0.2
    for p in (0.01, 0.05, 0.5, 0.9):
        costs = [
            (p * np.mean(scores[target] < at) + (1 - p) * np.mean(scores[~target] >= at))
            / min(p, 1 - p)
            for at in [*scores, np.inf]
        ]
        assert metrics.min_dcf(scores, target, p) == pytest.approx(min(costs))
        assert metrics.min_dcf(-scores, target, p) <= 1.0


def test_calibrated_gaussian_scores(gaussian):
    # log likelihood ratio of N(2, 1) against N(0, 1) is 2 s - 2; Cllr is then the integral below
    scores, target = gaussian
    llr = 2 * scores - 2
    grid = np.linspace(-12, 14, 200_001)
    ratio, step = 2 * grid - 2, grid[1] - grid[0]
    bits = np.logaddexp(0, -ratio) @ norm.pdf(grid - 2) + np.logaddexp(0, ratio) @ norm.pdf(grid)
    assert metrics.cllr(llr, target) == pytest.approx(bits * step / 2 / np.log(2), abs=5e-3)
    for p in (0.01, 0.05):
        assert metrics.act_dcf(llr, target, p) == pytest.approx(
            metrics.min_dcf(llr, target, p), abs=0.03
        )
        assert metrics.act_dcf(llr, target, p) >= metrics.min_dcf(llr, target, p)
        assert metrics.act_dcf(llr + 9, target, p) > metrics.act_dcf(llr, target, p)


def test_cllr_by_hand():
    assert metrics.cllr(np.zeros(7), [1, 0, 0, 1, 0, 0, 0]) == pytest.approx(1.0)
    assert metrics.cllr([np.log(3), -np.log(3)], [1, 0]) == pytest.approx(np.log2(4 / 3))
    assert metrics.act_dcf([-1.0, 1.0], [1, 0], 0.5) == 2.0


@pytest.mark.parametrize(
    ("scores", "target", "says"),
    [
        ([0.1, np.nan], [1, 0], "NaN"),
        ([0.1, 0.2], [1, 1], "both target and non-target"),
        ([0.1, 0.2], [0, 0], "both target and non-target"),
        ([0.1], [1, 0], "one score a trial"),
        ([], [], "both target and non-target"),
    ],
)
def test_bad_trials_are_one_line(scores, target, says):
    for measure in (metrics.eer, metrics.cllr, metrics.det_curve):
        with pytest.raises(UserError, match=says) as caught:
            measure(scores, target)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="p_target"):
        metrics.min_dcf([0, 1], [0, 1], 1.0)


def test_classification_scores_agree_with_sklearn():
    generator = np.random.default_rng(4)
    truth = generator.choice(["angry", "happy", "neutral", "sad"], 400, p=[0.1, 0.2, 0.6, 0.1])
    predicted = np.where(
        generator.random(400) < 0.6, truth, generator.choice(["happy", "neutral", "calm"], 400)
    )
    weights = generator.integers(0, 3, 400)
    for given in (None, weights):
        kept = {"sample_weight": given}
        f1 = {
            how: sklearn.metrics.f1_score(truth, predicted, average=how, **kept)
            for how in ("micro", "macro")
        }
        recall = sklearn.metrics.recall_score(
            truth, predicted, labels=np.unique(truth), average="macro", sample_weight=given
        )
        assert metrics.micro_f1(truth, predicted, given) == pytest.approx(f1["micro"])
        assert metrics.macro_f1(truth, predicted, given) == pytest.approx(f1["macro"])
        assert metrics.uar(truth, predicted, given) == pytest.approx(recall)


def test_clustering_scores_agree_with_sklearn():
    generator = np.random.default_rng(5)
    truth = generator.integers(0, 12, 600)
    clusters = np.where(generator.random(600) < 0.7, truth // 2, generator.integers(100, 130, 600))
    assert metrics.nmi(truth, clusters) == pytest.approx(
        sklearn.metrics.normalized_mutual_info_score(truth, clusters)
    )
    assert metrics.ari(truth, clusters) == pytest.approx(
        sklearn.metrics.adjusted_rand_score(truth, clusters)
    )
    table = sklearn.metrics.cluster.contingency_matrix(truth, clusters)
    assert metrics.purity(truth, clusters) == pytest.approx(table.max(0).sum() / 600)


def test_clustering_extremes():
    names = np.array(["a", "b", "c", "a"])
    for measure in (metrics.nmi, metrics.ari, metrics.purity):
        assert measure(names, [5, 1, 9, 5]) == pytest.approx(1.0)
    assert metrics.nmi(names, [0, 0, 0, 0]) == 0.0
    assert metrics.purity(names, [0, 0, 0, 0]) == 0.5
    assert metrics.nmi(["a", "a"], [1, 1]) == metrics.ari(["a", "a"], [1, 1]) == 1.0
    assert metrics.purity(names, [0, 1, 2, 3]) == 1.0


def test_bootstrap_interval_covers_the_mean_of_clusters():
    # 30 speakers with their own offsets: 95 % intervals of the mean hold the true mean nearly that
    # often
    generator = np.random.default_rng(6)
    covered = items = 0
    for seed in range(100):
        speakers = np.repeat(np.arange(30), 10)
        values = generator.normal(size=30)[speakers] + 0.3 * generator.normal(size=300)
        low, high = metrics.bootstrap_interval(
            lambda w, v=values: float(np.average(v, weights=w)), speakers, replicates=150, seed=seed
        )
        covered += low <= 0.0 <= high
        low, high = metrics.bootstrap_interval(
            lambda w, v=values: float(np.average(v, weights=w)),
            np.arange(300),
            replicates=100,
            seed=seed,
        )
        items += low <= 0.0 <= high
    assert 0.87 <= covered / 100 <= 1.0
    assert items / 100 < 0.7  # resampling utterances as if independent would be far too narrow


def _speaker_trials(speakers, generator, dim=8, noise=0.8):
    centres = generator.normal(size=(speakers, dim))
    who = np.repeat(np.arange(speakers), 6)
    vectors = centres[who] + noise * generator.normal(size=(len(who), dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    left, right = np.triu_indices(len(who), 1)
    return (
        np.einsum("td,td->t", vectors[left], vectors[right]),
        who[left] == who[right],
        who[left],
        who[right],
    )


def test_bootstrap_of_trials_covers_the_true_eer():
    generator = np.random.default_rng(7)
    truth = np.mean([metrics.eer(*_speaker_trials(150, generator)[:2]) for _ in range(3)])
    inside, widths = 0, []
    for seed in range(40):
        intervals = metrics.bootstrap_trials(
            *_speaker_trials(15, generator), replicates=100, seed=seed
        )
        low, high = intervals["eer"]
        inside += low <= truth <= high
        widths.append(high - low)
        assert 0 <= intervals["min_dcf_0.01"][0] <= intervals["min_dcf_0.01"][1] <= 1
    assert inside / 40 >= 0.85
    low, high = metrics.bootstrap_trials(*_speaker_trials(100, generator), replicates=150)["eer"]
    assert high - low < 0.7 * np.mean(widths)  # more speakers, narrower


def test_a_bootstrap_replicate_is_the_metric_of_the_resampled_list():
    scores, target, left, right = _speaker_trials(6, np.random.default_rng(8))
    scores = np.round(scores, 1)  # with ties
    got = metrics.bootstrap_trials(scores, target, left, right, replicates=1, seed=3)
    times = np.bincount(np.random.default_rng(3).integers(0, 6, 6), minlength=6)
    copies = np.where(left == right, times[left], times[left] * times[right])
    again = np.repeat(scores, copies), np.repeat(target, copies)
    assert got["eer"] == pytest.approx((metrics.eer(*again),) * 2)
    assert got["min_dcf_0.05"] == pytest.approx((metrics.min_dcf(*again, 0.05),) * 2)


def test_many_replicates_of_many_trials_are_weighted_curves_one_by_one():
    """More replicates and trials than are computed at once."""
    scores, target, left, right = _speaker_trials(20, np.random.default_rng(5))
    assert len(scores) > 4096
    low, high = metrics.bootstrap_trials(scores, target, left, right, replicates=40, seed=3)["eer"]
    names = np.unique([left, right])
    generator = np.random.default_rng(3)
    errors = []
    for _ in range(40):
        drawn = generator.integers(0, len(names), len(names))
        times = {name: int((names[drawn] == name).sum()) for name in names}
        weights = [times[a] * (times[b] if a != b else 1) for a, b in zip(left, right, strict=True)]
        fpr, fnr, _ = metrics.det_curve(scores, target, weights)
        errors.append(metrics.curve_eer(fpr, fnr))
    assert (low, high) == pytest.approx(np.quantile(errors, [0.025, 0.975]), rel=1e-12)


def test_a_difference_is_that_of_two_systems_on_the_same_resampled_list():
    """Replicate by replicate with copies of trials; systems in the same order differ by nothing."""
    scores, target, left, right = _speaker_trials(6, np.random.default_rng(8))
    other = scores + np.random.default_rng(9).normal(0, 0.3, len(scores))
    measures = {"eer": metrics.curve_eer}
    (found,) = metrics.bootstrap_curve_differences(
        measures, scores, [other], target, left, right, replicates=30, seed=3
    )
    generator = np.random.default_rng(3)
    differences = []
    for _ in range(30):
        times = np.bincount(generator.integers(0, 6, 6), minlength=6)
        copies = np.where(left == right, times[left], times[left] * times[right])
        again = np.repeat(target, copies)
        if again.any() and not again.all():
            one, two = (metrics.eer(np.repeat(s, copies), again) for s in (scores, other))
            differences.append(one - two)
    assert found["eer"] == pytest.approx(np.quantile(differences, [0.025, 0.975]))
    (same,) = metrics.bootstrap_curve_differences(
        measures, scores, [7 * scores - 3], target, left, right, replicates=30
    )
    assert same["eer"] == (0.0, 0.0)
    alone = metrics.bootstrap_curve_differences(
        measures, [0, 1], [[1, 0]], [0, 1], ["a", "a"], ["a", "a"]
    )
    assert alone == [{"eer": None}]


def test_one_system_beside_several_is_resampled_once_and_differs_as_beside_each_alone():
    scores, target, left, right = _speaker_trials(6, np.random.default_rng(8))
    noise = np.random.default_rng(9).normal(0, 0.3, (3, len(scores)))
    curves = []

    def counted_eer(fpr, fnr):
        curves.append(fnr)
        return metrics.curve_eer(fpr, fnr)

    together = metrics.bootstrap_curve_differences(
        {"eer": counted_eer}, scores, scores + noise, target, left, right, replicates=30
    )
    count = len(curves)
    alone = []
    for other in scores + noise:
        alone += metrics.bootstrap_curve_differences(
            {"eer": counted_eer}, scores, [other], target, left, right, replicates=30
        )
    assert together == alone
    of_one_system = (len(curves) - count) // 6
    assert 0 < of_one_system <= 30 and count == 4 * of_one_system


def test_bootstrap_without_enough_speakers_is_none():
    assert metrics.bootstrap_interval(np.mean, ["a", "a"]) is None
    assert metrics.bootstrap_trials([0, 1], [0, 1], ["a", "a"], ["a", "a"])["eer"] is None


def test_bootstrap_is_repeatable():
    trials = _speaker_trials(8, np.random.default_rng(9))
    first, again, other = (
        metrics.bootstrap_trials(*trials, replicates=50, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.slow
def test_speed_of_metrics_and_intervals():
    generator = np.random.default_rng(10)
    speakers = generator.integers(0, 60, (2, 24_000))
    target = speakers[0] == speakers[1]
    scores = generator.normal(size=24_000) + target
    start = time.perf_counter()
    metrics.bootstrap_trials(scores, target, *speakers, replicates=1000)
    assert time.perf_counter() - start < 4.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start = time.perf_counter()
        metrics.eer(np.tile(scores, 40), np.tile(target, 40))
        assert time.perf_counter() - start < 1.0
