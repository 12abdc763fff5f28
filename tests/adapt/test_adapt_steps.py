"""The steps of adaptation one by one: cutting, parting, the closed form, and the judgement."""

import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from builders import ENCODERS, make_model, noises, read_json
from sklearn.metrics import roc_auc_score

from speechssl.adapt import judging, last_layer, recordings
from speechssl.adapt.adapt import _figures, best
from speechssl.adapt.folders import AdaptFolder
from speechssl.adapt.judging import Judgement
from speechssl.adapt.pairs import Pairs
from speechssl.adapt.settings import AdaptSettings, plan_for, write_settings
from speechssl.data.manifest import Utterance
from speechssl.errors import UserError


def pieces(files, each=1, seconds=4.0):
    return [
        Utterance(f"u{file:03d}-{number}", f"f{file:03d}.wav", 0.0, seconds, seconds)
        for file in range(files)
        for number in range(each)
    ]


@pytest.mark.parametrize(
    ("changes", "key", "why"),
    [
        ({"gain": (float("-inf"), float("inf"))}, "gain", "too few held-out recordings"),
        ({"apart": float("nan")}, "apart", "diverged"),
        ({"rank": float("nan"), "apart": float("nan")}, "rank", "diverged"),
    ],
)
def test_results_are_json_where_a_figure_is_not_a_number(changes, key, why):
    fine = Judgement(10.0, 12.0, None, None, (0.5, 3.0), 20.0, 21.0)
    assert "not_measured" not in _figures(fine) and _figures(fine)["gain"] == (0.5, 3.0)
    written = json.loads(json.dumps(_figures(replace(fine, **changes)), allow_nan=False))
    assert written[key] is None and why in written["not_measured"][key]
    assert written["apart_before"] == 12.0


def test_pieces_join_short_pauses_and_are_at_most_eight_seconds():
    spans = [(0.5, 3.0), (3.5, 10.5), (20.0, 20.5), (30.0, 32.0)]
    found = recordings.cut(Utterance("a", "a.wav"), spans)
    assert [(one.start, one.stop) for one in found] == [(0.5, 5.5), (5.5, 10.5), (30.0, 32.0)]
    assert [one.id for one in found][0] == "a-00000500-00005500"
    assert all(one.seconds == pytest.approx(one.stop - one.start) for one in found)


def test_no_recording_has_pieces_on_both_sides_and_a_seed_decides_the_sides(tmp_path):
    folder = AdaptFolder(tmp_path)
    train, held = recordings.part(pieces(40, each=3), 0, folder)
    assert {one.path for one in train} | {one.path for one in held} == {
        one.path for one in pieces(40)
    }
    assert not {one.path for one in train} & {one.path for one in held}
    assert len({one.path for one in held}) == 10 and len(held) == 30
    assert recordings.part(pieces(40, each=3), 0, folder) == (train, held)
    assert recordings.part(pieces(40, each=3), 1, folder) != (train, held)
    with pytest.raises(UserError, match="7 recordings can be used and at least 8"):
        recordings.part(pieces(7), 0, folder)


def test_the_plan_follows_from_the_amount_of_audio():
    asked = AdaptSettings(start="small", audio=("x",))
    few = plan_for(asked, [5.0] * 19)
    some = plan_for(asked, [5.0] * 150)
    many = plan_for(asked, [5.0] * 19_000)
    assert few.ways == () and some.ways == ("last-layer", "contrastive")
    assert many.ways == ("last-layer", "rounds", "contrastive")
    assert few.batch_size < some.batch_size < many.batch_size == 64
    assert few.steps < some.steps < many.steps == round(5 * 19_000 / 64)
    assert few.window == some.window == 2.0
    assert plan_for(asked, [1.3] * 100).window == 0.6
    centroids = 2 * max(plan_for(asked, [5.0] * 1_000_000).cluster_counts)
    assert 16 * centroids * (centroids - 1) / 2 < 1e9  # bytes that kmeans_ahc needs
    wanted = AdaptSettings(start="small", audio=("x",), ways=("dino",), steps=7)
    assert plan_for(wanted, [5.0] * 19).ways == ("dino",)
    assert plan_for(wanted, [5.0] * 19).steps == 7


def test_the_closed_form_is_the_generalised_eigenproblem():
    rng = np.random.default_rng(0)
    count, dim = 400, 6
    voices = rng.standard_normal((count, dim)) @ rng.standard_normal((dim, dim))
    wiggle = rng.standard_normal((dim, dim))
    one, two = (voices + rng.standard_normal((count, dim)) @ wiggle for _ in range(2))
    both = np.concatenate([one, two])
    classes = np.tile(np.arange(count), 2)  # a cluster for each piece
    matrix, mean = last_layer.fit(both.astype(np.float32), classes)
    within = (one - two).T @ (one - two) / (2 * count)
    share = dim / (dim + 2 * count)
    shrunk = (1 - share) * within + share * np.trace(within) / dim * np.eye(dim)
    ratios = scipy.linalg.eigh(np.cov(both.T), shrunk, eigvals_only=True)
    mapped_within = matrix @ shrunk @ matrix.T
    mapped_total = matrix @ np.cov(both.T) @ matrix.T
    for square in (mapped_within, mapped_total):  # both become diagonal
        assert np.abs(square - np.diag(np.diag(square))).max() < 1e-4 * square.max()
    np.testing.assert_allclose(np.diag(mapped_total) / np.diag(mapped_within), ratios, rtol=1e-4)
    scale = np.diag(mapped_within) * np.sqrt(ratios)  # S is d ** (-1/4)
    np.testing.assert_allclose(scale, scale[0], rtol=1e-4)
    np.testing.assert_allclose(mean, both.mean(0), atol=1e-5)
    lengths = [np.square(rows).sum(1).mean() for rows in (both - mean, (both - mean) @ matrix.T)]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-4)


@pytest.mark.parametrize("name", ENCODERS)
def test_folding_changes_the_embedding_by_the_map_and_nothing_else(name):
    model = make_model(name)
    assert last_layer.can_be_folded(model.encoder)
    waves = noises(3, 16000)
    with torch.no_grad():
        before = model(waves).double()
        rng = np.random.default_rng(1)
        matrix = rng.standard_normal((model.dim, model.dim))
        mean = rng.standard_normal(model.dim)
        last_layer.fold(model.encoder, matrix, mean)
        want = (before - torch.from_numpy(mean)) @ torch.from_numpy(matrix).T
        torch.testing.assert_close(model(waves).double(), want, atol=2e-4, rtol=1e-4)


def test_the_covariance_within_clusters_is_that_of_their_members():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((60, 3)).astype(np.float32)
    classes = np.repeat([4, 9, 2], 20)
    rows[classes == 9] += 5
    matrix, _ = last_layer.fit(rows, classes)
    within = sum(np.cov(rows[classes == c].T, ddof=1) for c in (4, 9, 2)) / 3
    share = 3 / 63
    shrunk = (1 - share) * within + share * np.trace(within) / 3 * np.eye(3)
    mapped = matrix @ shrunk @ matrix.T
    assert np.abs(mapped - np.diag(np.diag(mapped))).max() < 1e-4 * mapped.max()


def held_out(noise, seed=0, voices=12, sessions=4, dim=12, session_noise=0.3, drift=0.0):
    """Windows of recordings of some voices.

    Args:
        noise: how far the windows of a recording are apart.
        seed: of the noise; voices and sessions are always the same.
        voices: people.
        sessions: recordings of each.
        dim: of an embedding.
        session_noise: how far the recordings of a voice are apart.
        drift: how far more, in directions that only recordings differ in.
    """
    fixed = np.random.default_rng(100)
    people = np.repeat(fixed.standard_normal((voices, dim)), sessions, 0)
    occasions = fixed.standard_normal(people.shape)
    rng = np.random.default_rng(seed)
    windows = []
    for _ in range(2):
        rows = people + session_noise * occasions + noise * rng.standard_normal(people.shape)
        windows.append(np.concatenate([rows, drift * occasions], 1).astype(np.float32))
    numbers = np.arange(len(people))
    return Pairs(*windows, numbers, numbers)


def test_a_better_a_worse_and_the_same_model_are_told_apart():
    good, bad = held_out(0.2), held_out(2.0, seed=1)
    better = judging.compare(bad, good, models=1, seed=0)
    worse = judging.compare(good, bad, models=1, seed=0)
    same = judging.compare(bad, bad, models=1, seed=0)
    assert better.is_better and better.apart < better.apart_before - 5
    assert better.together < better.together_before - 5
    assert not worse.is_better and worse.loses and worse.gain[1] < 0
    assert not same.is_better and same.gain == (0.0, 0.0)
    assert best({"worse": worse, "same": same}) == "before"
    assert best({"worse": worse, "good": better}) == "good"
    wider = judging.compare(bad, good, models=20, seed=0)
    assert wider.gain[0] <= better.gain[0] and wider.gain[1] >= better.gain[1]


def test_a_model_that_drives_the_recordings_of_a_voice_apart_is_not_kept():
    before = held_out(0.4, voices=8, sessions=6)
    split = held_out(0.4, voices=8, sessions=6, drift=1.2)
    judged = judging.compare(before, split, models=1, seed=0)
    assert judged.apart < judged.apart_before - 1  # which alone would praise it
    assert judged.together > judged.together_before + 3
    assert judged.loses and not judged.is_better


def test_a_model_that_takes_voices_for_one_is_not_kept():
    before = held_out(0.3)
    merged = held_out(0.3)
    for rows in (merged.plain, merged.changed):
        rows[:, 2:] = 0
    judged = judging.compare(before, merged, models=1, seed=0)
    assert judged.apart > judged.apart_before and judged.loses and not judged.is_better


def test_a_model_that_wins_with_a_few_directions_is_not_kept():
    before = held_out(2.0, dim=24)
    flat = held_out(0.01, seed=2, dim=24)
    for rows in (flat.plain, flat.changed):
        rows[:, 3:] = 0
    judged = judging.compare(before, flat, models=1, seed=0)
    assert judged.gain[0] > 0 and judged.collapsed and not judged.is_better


def test_confusion_counts_the_rivals_that_are_nearer():
    scores = np.array([[0.5, 0.9, 0.5, 0.1], [0.0, 0.7, 0.2, 0.8], [0, 0, 1, 0], [0, 0, 0, 1]])
    own = np.eye(4, dtype=bool)
    rival = ~own
    rival[1, 3] = False
    got = judging.confusions(scores.astype(np.float32), own, rival)
    in_rows = [(1 + 0.5) / 3, 0 / 2, 0, 0]
    in_columns = [0, 1 / 3, 0, 0 / 2]
    np.testing.assert_allclose(got, 50 * np.add(in_rows, in_columns))
    # one minus the area under the curve, of each row and column
    pairs = held_out(1.0)
    scores = pairs.plain @ pairs.changed.T
    partner = np.random.default_rng(0).random(scores.shape) < 0.2
    found = judging.confusions(scores, partner, ~partner)
    for row in (0, 7):
        areas = [
            roc_auc_score(side[row], cosines[row])
            for side, cosines in ((partner, scores), (partner.T, scores.T))
        ]
        assert found[row] == pytest.approx(100 * (1 - np.mean(areas)))
    assert np.isnan(judging.confusions(scores, np.zeros_like(partner), ~partner)).all()


def test_recordings_of_unknown_people_have_no_partner_and_are_judged_apart():
    rng = np.random.default_rng(0)
    rows = [np.eye(6, dtype=np.float32) + 0.01 * rng.random((6, 6), np.float32) for _ in range(4)]
    numbers = np.arange(6)
    judged = judging.compare(
        Pairs(rows[0], rows[1], numbers, numbers),
        Pairs(rows[2], rows[3], numbers, numbers),
        models=1,
        seed=0,
    )
    assert judged.apart == judged.apart_before == 0 and not judged.is_better


def test_the_interval_covers_recordings_not_windows():
    one, other = held_out(1.5, voices=4), held_out(0.9, seed=3, voices=4)
    low, high = judging.compare(one, other, models=1, seed=0).gain
    copies = []
    for pairs in (one, other):
        fields = (pairs.plain, pairs.changed, pairs.pieces, pairs.recordings)
        copies.append(Pairs(*(np.repeat(rows, 10, 0) for rows in fields)))
    low_many, high_many = judging.compare(*copies, models=1, seed=0).gain
    assert high_many - low_many > 0.5 * (high - low)  # ten copies are no new evidence


def test_a_judgement_without_partners_counts_apart_alone():
    judged = Judgement(
        apart=1,
        apart_before=2,
        together=None,
        together_before=None,
        gain=(0.1, 1),
        rank=9,
        rank_before=10,
    )
    assert judged.is_better and not judged.collapsed and judged.total == 1


def test_a_mistake_in_the_first_command_can_be_corrected(tmp_path):
    folder = AdaptFolder(tmp_path)
    write_settings(folder, AdaptSettings(start="smal", audio=("wrong",)))
    right = AdaptSettings(start="small", audio=("right",))
    write_settings(folder, right)  # nothing was made of the first one
    folder.heldout.mkdir(parents=True)
    (folder.heldout / "wav.scp").touch()
    with pytest.raises(UserError, match="audio was \\['right'\\]"):
        write_settings(folder, AdaptSettings(start="small", audio=("other",)))
    write_settings(folder, replace(right, steps=5))
    assert read_json(folder.settings)["steps"] == 5
    folder.candidate("before").path.mkdir()
    folder.candidate("before").pairs.touch()
    with pytest.raises(UserError, match="steps was 5"):
        write_settings(folder, right)
