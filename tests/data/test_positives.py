"""Bootstrapped positives: who is a partner, what is replaced, and what is refused."""

import collections

import numpy as np
import pytest

from speechssl.audio import reading
from speechssl.data.crops import CropSpec
from speechssl.data.dataset import CropBatches
from speechssl.data.manifest import Utterance
from speechssl.data.positives import Positives
from speechssl.errors import UserError

RATE = 16000


def utterance(number, path=None):
    return Utterance(f"u{number}", path or f"/nowhere/{number}", 0.0, None, 2.0)


@pytest.fixture
def clusters(tmp_path):
    """u0..u3 in a, of which u0 and u1 are one recording; u4, u5 in b; u6 alone; u7 not named."""
    (tmp_path / "utt2cluster").write_text("u0 a\nu1 a\nu2 a\nu3 a\nu4 b\nu5 b\nu6 c\n")
    return tmp_path / "utt2cluster"


@pytest.fixture
def utterances():
    return [
        utterance(0, "/nowhere/0"),
        utterance(1, "/nowhere/0"),
        *(utterance(i) for i in range(2, 8)),
    ]


@pytest.fixture
def constants(monkeypatch):
    """A file holds its own number in every sample."""

    def read(path, rate, start, stop, channel):
        return np.full(round((stop - start) * rate), float(path[-1]), np.float32)

    monkeypatch.setattr(reading, "read", read)


def test_partners_are_of_the_cluster_and_of_another_recording(clusters, utterances):
    positives, rng = Positives(clusters, utterances, 1.0), np.random.default_rng(0)
    found = {row: {positives.partner(row, rng) for _ in range(60)} for row in range(8)}
    assert found == {
        0: {2, 3},
        1: {2, 3},
        2: {0, 1, 3},
        3: {0, 1, 2},
        4: {5},
        5: {4},
        6: {None},
        7: {None},
    }


def test_the_probability_is_one(clusters, utterances):
    positives, rng = Positives(clusters, utterances, 0.3), np.random.default_rng(0)
    taken = sum(positives.partner(4, rng) is not None for _ in range(2000))
    assert 500 < taken < 700


@pytest.mark.parametrize(
    ("plan", "theirs"),
    [
        ([CropSpec(2, 0.5), CropSpec(3, 0.2, to="student")], {0: [1]}),
        ([CropSpec(4, 0.5)], {0: [2, 3]}),
        ([CropSpec(1, 0.5, to="teacher"), CropSpec(2, 0.2, to="student")], {0: [0]}),
        ([CropSpec(2, 0.6, to="student"), CropSpec(2, 0.5)], {1: [1]}),
    ],
)
def test_the_second_half_of_the_teachers_group_is_the_partners(
    constants, clusters, utterances, plan, theirs
):
    positives = Positives(clusters, utterances, 1.0)
    batch = CropBatches(utterances, plan, batch_size=8, positives=positives)[0]
    for group, crops in enumerate(batch.groups):
        for number, rows in enumerate(crops):
            for row, wave in zip(batch.indices.tolist(), rows, strict=True):
                own = float(utterances[row].path[-1])
                partner = number in theirs.get(group, []) and row < 6
                assert (float(wave[0]) != own) == partner and wave.unique().numel() == 1


def test_without_partners_nothing_changes(constants, clusters, utterances):
    plan = [CropSpec(2, 0.5)]
    plain = CropBatches(utterances, plan, batch_size=8)[0]
    never = CropBatches(
        utterances, plan, batch_size=8, positives=Positives(clusters, utterances, 0.0)
    )[0]
    assert (plain.indices == never.indices).all()


def test_a_partner_that_cannot_be_read_is_counted_and_ones_own_crop_kept(
    monkeypatch, clusters, utterances
):
    def read(path, rate, start, stop, channel):
        if path.endswith("5"):
            raise UserError("broken")
        return np.full(round((stop - start) * rate), float(path[-1]), np.float32)

    monkeypatch.setattr(reading, "read", read)
    positives = Positives(clusters, utterances, 1.0)
    seen = collections.Counter()
    data = CropBatches(utterances, [CropSpec(2, 0.5)], batch_size=8, positives=positives)
    for step in range(3):
        batch = data[step]
        seen.update(name for name, _ in batch.skipped)
        row = batch.indices.tolist().index(4)
        assert float(batch.groups[0][1, row, 0]) == 4.0
    assert seen["u5"] >= 3


def test_mistakes_are_one_line(tmp_path, clusters, utterances):
    with pytest.raises(UserError, match="positives_prob: 1.5; it must be between 0 and 1"):
        Positives(clusters, utterances, 1.5)
    (tmp_path / "other").write_text("x a\ny a\n")
    with pytest.raises(UserError, match="is it of the same data"):
        Positives(tmp_path / "other", utterances, 0.5)
    with pytest.raises(UserError, match="missing"):
        Positives(tmp_path / "missing", utterances, 0.5)
