"""Verification: scores against plain loops, invariances, what is refused, and the results file."""

import json
import time
import warnings

import numpy as np
import pytest

from speechssl import metrics
from speechssl.data.trials import Trials
from speechssl.data.vectors.files import write_vectors
from speechssl.errors import UserError
from speechssl.evaluation.verification import scoring
from speechssl.evaluation.verification.verify import evaluate, verify, write_results

DIM = 16


def _world(seed=0, speakers=12, each=6, noise=1.0):
    """Embeddings of speakers as points plus noise, and all pairs as trials."""
    generator = np.random.default_rng(seed)
    who = np.repeat(np.arange(speakers), each)
    matrix = (
        generator.normal(size=(speakers, DIM))[who] + noise * generator.normal(size=(len(who), DIM))
    ).astype("f4")
    ids = np.array([f"world{seed}/s{speaker}/u{number}" for number, speaker in enumerate(who)])
    left, right = np.triu_indices(len(who), 1)
    speaker_of = {name: f"s{speaker}" for name, speaker in zip(ids.tolist(), who, strict=True)}
    return ids, matrix, Trials(ids[left], ids[right], who[left] == who[right]), speaker_of


@pytest.fixture
def world():
    return _world()


def test_scores_are_cosines(world):
    ids, matrix, trials, _ = world
    run = verify((ids, matrix), trials, replicates=0)
    rows = {name: vector.astype(float) for name, vector in zip(ids, matrix, strict=True)}
    expected = [
        rows[a] @ rows[b] / np.sqrt((rows[a] @ rows[a]) * (rows[b] @ rows[b]))
        for a, b in zip(trials.enrol, trials.test, strict=True)
    ]
    np.testing.assert_allclose(run.scores, expected, atol=1e-6)
    assert run.results["eer"] == pytest.approx(metrics.eer(expected, trials.target), abs=0.2)


def test_blocks_do_not_show(world, monkeypatch):
    ids, matrix, trials, _ = world
    cohort = _world(1)[:2]
    whole = verify((ids, matrix), trials, cohort=cohort, top=20, replicates=0).scores
    monkeypatch.setattr("speechssl.evaluation.verification.scoring.BLOCK", 500)
    blocks = verify((ids, matrix), trials, cohort=cohort, top=20, replicates=0).scores
    np.testing.assert_allclose(blocks, whole, atol=1e-5)


def test_as_norm_agrees_with_a_loop_over_trials(world):
    ids, matrix, trials, _ = world
    cohort_ids, cohort = _world(1)[:2]
    train = _world(2)[:2]
    top = 17
    got = verify(
        (ids, matrix), trials, mean=train, cohort=(cohort_ids, cohort), top=top, replicates=0
    ).scores

    def unit(vector):
        return vector / np.sqrt(sum(float(x) ** 2 for x in vector))

    centre = train[1].astype(float).mean(0)
    rows = {
        name: unit(vector - centre) for name, vector in zip(ids, matrix.astype(float), strict=True)
    }
    others = [unit(vector - centre) for vector in cohort.astype(float)]
    for at in range(0, len(got), 97):
        a, b = rows[trials.enrol[at]], rows[trials.test[at]]
        terms = []
        for side in (a, b):
            nearest = sorted((float(side @ other) for other in others), reverse=True)[:top]
            middle = sum(nearest) / top
            deviation = (sum((x - middle) ** 2 for x in nearest) / top) ** 0.5
            terms.append((float(a @ b) - middle) / deviation)
        assert got[at] == pytest.approx(sum(terms) / 2, abs=2e-3)


def test_scale_of_the_embeddings_does_not_matter(world):
    ids, matrix, trials, _ = world
    others = {"mean": _world(2)[:2], "cohort": _world(1)[:2], "top": 20, "replicates": 0}
    scaled = {
        key: (value[0], 7 * value[1]) if isinstance(value, tuple) else value
        for key, value in others.items()
    }
    np.testing.assert_allclose(
        verify((ids, 7 * matrix), trials, **scaled).scores,
        verify((ids, matrix), trials, **others).scores,
        atol=1e-3,
    )
    lengths = np.linspace(0.1, 9, len(ids))[:, None]
    np.testing.assert_allclose(
        verify((ids, lengths * matrix), trials, replicates=0).scores,
        verify((ids, matrix), trials, replicates=0).scores,
        atol=1e-6,
    )


def test_a_common_shift_goes_with_the_mean(world):
    ids, matrix, trials, _ = world
    train_ids, train = _world(2)[:2]
    plain = verify((ids, matrix), trials, mean=(train_ids, train), replicates=0)
    shifted = verify((ids, matrix + 3), trials, mean=(train_ids, train + 3), replicates=0)
    np.testing.assert_allclose(shifted.scores, plain.scores, atol=1e-5)
    assert plain.results["scoring"] == "cosine, training mean subtracted"


def test_score_is_symmetric_and_ids_may_come_in_any_order(world):
    ids, matrix, trials, _ = world
    order = np.random.default_rng(3).permutation(len(ids))
    swapped = Trials(trials.test, trials.enrol, trials.target)
    options = {"cohort": _world(1)[:2], "top": 20, "replicates": 0}
    np.testing.assert_allclose(
        verify((ids[order], matrix[order]), swapped, **options).scores,
        verify((ids, matrix), trials, **options).scores,
        atol=1e-4,
    )


def test_results_have_the_documented_names(world):
    ids, matrix, trials, speakers = world
    results = evaluate(
        (ids, matrix),
        trials,
        speakers=speakers,
        replicates=100,
        model="exp/x",
        labels_used=["emotion"],
    )
    for key in ("eer", "min_dcf_0.01", "min_dcf_0.05"):
        low, high = results[f"{key}_interval"]
        assert low <= results[key] <= high
    assert results["trials"] == results["targets"] + results["nontargets"] == len(trials.target)
    assert (results["scoring"], results["model"], results["labels_used"]) == (
        "cosine",
        "exp/x",
        ["emotion"],
    )
    assert results["trials_skipped"] == 0
    assert not any("act_dcf" in key or "cllr" in key for key in results)
    json.dumps(results, allow_nan=False)


def test_speakers_are_implied_by_target_trials(world):
    ids, matrix, trials, speakers = world
    given = evaluate((ids, matrix), trials, speakers=speakers, replicates=1000)
    implied = evaluate((ids, matrix), trials, replicates=1000)
    assert (given["interval_over"], implied["interval_over"]) == (
        "speakers",
        "speakers implied by the target trials",
    )
    np.testing.assert_allclose(given["eer_interval"], implied["eer_interval"], rtol=0.1)
    with pytest.warns(UserWarning, match="1 utterances have no speaker"):
        partial = evaluate(
            (ids, matrix), trials, speakers=dict(list(speakers.items())[1:]), replicates=1000
        )
    assert partial["eer_interval"] == implied["eer_interval"]


def test_calibration_gives_actual_costs_near_the_minimum():
    ids, matrix, trials, _ = _world(0, speakers=30)
    other_ids, other, other_trials, _ = _world(5, speakers=30)
    results = evaluate(
        (ids, matrix), trials, calibration=((other_ids, other), other_trials), replicates=0
    )
    plain = evaluate((ids, matrix), trials, replicates=0)
    assert results["eer"] == pytest.approx(plain["eer"])
    assert (
        results["min_dcf_0.05"] <= results["act_dcf_0.05"] <= 1.3 * results["min_dcf_0.05"] + 0.05
    )
    assert 0 < results["cllr"] < 1
    assert results["labels_used"] == ["calibration trials"]
    backwards = Trials(trials.test[:50], trials.enrol[:50], trials.target[:50])
    with pytest.raises(UserError, match="50 calibration trials are trials of the test"):
        evaluate((ids, matrix), trials, calibration=((ids, matrix), backwards))


def test_calibration_recovers_the_likelihood_ratio_of_gaussians():
    generator = np.random.default_rng(0)
    target = generator.random(200_000) < 0.1
    scores = (
        generator.normal(size=len(target)) + 2.0 * target
    ) / 10 + 0.5  # llr = 20 (s - 0.5) - 2
    slope, offset = scoring.fit_calibration(scores, target)
    assert slope == pytest.approx(20, rel=0.03)
    assert offset == pytest.approx(-12, rel=0.03)


def test_test_data_is_refused_as_mean_or_cohort(world, tmp_path):
    ids, matrix, trials, _ = world
    write_vectors(tmp_path / "test.npz", ids, matrix)
    for option in ("mean", "cohort"):
        with pytest.raises(UserError, match="72 test embeddings"):
            evaluate(tmp_path / "test.npz", trials, **{option: tmp_path / "test.npz"})
    other = np.random.default_rng(9).normal(size=matrix.shape).astype("f4")
    evaluate(
        (ids, matrix), trials, mean=(ids, other), replicates=0
    )  # the same names in another corpus are no crime
    with pytest.raises(UserError, match="use one model"):
        evaluate((ids, matrix), trials, mean=(ids, other[:, :4]))


def test_unknown_ids_are_refused_or_counted(world):
    ids, matrix, trials, _ = world
    known = ids != ids[3]
    with pytest.raises(
        UserError, match=r"71 of 2556 trials name .* first '.*u3'; .*--keep-going"
    ) as caught:
        evaluate((ids[known], matrix[known]), trials)
    assert "\n" not in str(caught.value)
    run = verify((ids[known], matrix[known]), trials, keep_going=True, replicates=0)
    assert (run.results["trials_skipped"], run.results["trials"]) == (71, 2485)
    assert len(run.scores) == len(run.trials.enrol) == 2485
    with pytest.raises(UserError, match="is it the right list"):
        evaluate((np.char.add("other/", ids), matrix), trials, keep_going=True)


def test_lists_and_embeddings_that_cannot_be_measured(world):
    ids, matrix, trials, _ = world
    for keep in (trials.target, ~trials.target):
        with pytest.raises(UserError, match="both target and non-target"):
            evaluate(
                (ids, matrix), Trials(trials.enrol[keep], trials.test[keep], trials.target[keep])
            )
    broken = matrix.copy()
    broken[4, 2] = np.nan
    with pytest.raises(UserError, match="1 embeddings are not finite, first '.*u4'"):
        evaluate((ids, broken), trials)
    with pytest.raises(UserError, match="unique ids"):
        evaluate((ids[[0, 0]], matrix[:2]), trials)


def test_zero_vectors_score_zero(world):
    ids, matrix, trials, _ = world
    matrix[0] = 0
    with pytest.warns(RuntimeWarning, match="1 embeddings are all zeros"):
        run = verify((ids, matrix), trials, replicates=0)
    assert (run.scores[trials.enrol == ids[0]] == 0).all()
    assert np.isfinite(run.scores).all()


@pytest.mark.filterwarnings("ignore:AS-norm")
@pytest.mark.parametrize("rounding", [0.0, 1e-7])
@pytest.mark.parametrize("options", [{}, {"cohort": _world(1)[:2]}, {"mean": _world(2)[:2]}])
def test_collapse_is_fifty_percent_with_a_warning(world, rounding, options):
    ids, matrix, trials, _ = world
    noise = rounding * np.random.default_rng(0).normal(size=matrix.shape)
    collapsed = (matrix[:1] * (1 + noise)).astype("f4")
    with pytest.warns(RuntimeWarning, match="all scores are equal"):
        results = evaluate((ids, collapsed), trials, replicates=20, **options)
    assert results["eer"] == 50.0
    assert results["eer_interval"] == [50.0, 50.0]
    assert results["min_dcf_0.01"] == results["min_dcf_0.05"] == 1.0


def test_a_small_cohort_is_used_whole_and_said_so(world):
    ids, matrix, trials, _ = world
    cohort = _world(1)[:2]
    with pytest.warns(UserWarning, match="whole cohort of 72"):
        results = evaluate((ids, matrix), trials, cohort=cohort, replicates=0)
    assert results["scoring"] == "cosine, AS-norm top 72 of 72"
    with pytest.raises(UserError, match="2 or more"):
        evaluate((ids, matrix), trials, top=1, cohort=(cohort[0][:1], cohort[1][:1]))


def test_written_results_and_scores(world, tmp_path):
    ids, matrix, trials, _ = world
    run = verify((ids, matrix), trials, replicates=20)
    path = write_results(tmp_path / "deep" / "out", run, scores=True)
    assert json.loads(path.read_text(encoding="utf-8")) == run.results
    lines = [
        line.split() for line in (path.parent / "scores").read_text(encoding="utf-8").splitlines()
    ]
    assert [line[0] for line in lines] == trials.enrol.tolist()
    np.testing.assert_allclose([float(line[2]) for line in lines], run.scores, rtol=1e-6)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_results(tmp_path / "file", run)


@pytest.mark.slow
def test_a_million_trials_in_two_seconds():
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(5000, 192)).astype("f4")
    enrol, test = generator.integers(0, 5000, (2, 1_000_000))
    target = generator.random(1_000_000) < 0.1
    start = time.perf_counter()
    scores = scoring.score_trials(matrix, enrol, test)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics.eer(scores, target)
    metrics.min_dcf(scores, target, 0.01)
    assert time.perf_counter() - start < 2.0


def test_whitening_makes_directions_alike_and_is_undone_by_none(world):
    ids, matrix, trials, _ = world
    other = _world(1)
    white = scoring.whitening(other[1], shrinkage=0.0)
    rows = other[1] - other[1].mean(0)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(np.cov((rows @ white).T), np.eye(DIM), atol=1e-3)
    run = verify((ids, matrix), trials, whiten=other[:2], shrinkage=0.0, replicates=0)
    moved = matrix - other[1].mean(0)
    moved = moved / np.linalg.norm(moved, axis=1, keepdims=True) @ white
    place = {name: row for row, name in enumerate(ids.tolist())}
    want = [
        moved[place[a]]
        @ moved[place[b]]
        / np.linalg.norm(moved[place[a]])
        / np.linalg.norm(moved[place[b]])
        for a, b in zip(trials.enrol, trials.test, strict=True)
    ]
    np.testing.assert_allclose(run.scores, want, atol=1e-5)
    assert "whitened (shrinkage 0)" in run.results["scoring"]


def test_much_shrinkage_is_no_whitening(world):
    ids, matrix, trials, _ = world
    other = _world(1)[:2]
    plain = verify((ids, matrix), trials, mean=other, replicates=0).scores
    shrunk = verify((ids, matrix), trials, whiten=other, shrinkage=1e6, replicates=0).scores
    np.testing.assert_allclose(shrunk, plain, atol=1e-4)


def test_whitening_finds_speakers_under_a_loud_nuisance():
    generator = np.random.default_rng(0)
    ids, matrix, trials, _ = _world(noise=0.3)
    loud = generator.normal(size=(DIM,)).astype("f4")
    matrix = matrix + 3 * generator.normal(size=(len(matrix), 1)).astype("f4") * loud
    train_ids, train, _, _ = _world(1, speakers=60, noise=0.3)
    train = train + 3 * generator.normal(size=(len(train), 1)).astype("f4") * loud
    plain = evaluate((ids, matrix), trials, mean=(train_ids, train), replicates=0)["eer"]
    white = evaluate(
        (ids, matrix), trials, whiten=(train_ids, train), shrinkage=0.01, replicates=0
    )["eer"]
    assert plain > 25 and white < plain / 2


def test_whitening_on_the_test_itself_is_refused(world):
    ids, matrix, trials, _ = world
    with pytest.raises(
        UserError, match="the training set of the whitening: holds 72 test embeddings"
    ):
        verify((ids, matrix), trials, whiten=(ids, matrix), replicates=0)
