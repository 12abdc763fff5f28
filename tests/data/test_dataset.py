"""Crops: lengths, purity over workers and ranks, what is read, and broken files."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from speechssl.audio import reading
from speechssl.augment.augment import Augment
from speechssl.data.crops import CropSpec, parse_plan
from speechssl.data.dataset import CropBatches
from speechssl.data.epochs import EpochOrder
from speechssl.data.loader import ReadErrors, make_loader
from speechssl.data.manifest import Utterance
from speechssl.errors import UserError

RATE = 16000
PLAN = [CropSpec(2, 0.5), CropSpec(3, 0.2, "mild", "student")]


def utterance(number, seconds=2.0, start=0.0):
    return Utterance(f"u{number:03d}", f"/nowhere/{number}", start, None, seconds)


@pytest.fixture
def ramps(monkeypatch):
    """Files whose sample n of file f is f + n / 2**20, exactly; returns the list of reads."""
    reads = []

    def read(path, rate, start=0.0, stop=None, channel=None):
        first, last = round(start * rate), round(stop * rate)
        reads.append((path, first, last))
        return (
            (int(path.rsplit("/")[-1]) + np.arange(first, last) / 2**20)
            .astype(np.float64)
            .astype(np.float32)
        )

    monkeypatch.setattr(reading, "read", read)
    return reads


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    out = []
    for number in range(17):
        seconds = 0.3 + 0.2 * number
        path = tmp_path / f"{number}.flac"
        soundfile.write(path, 0.1 * rng.standard_normal(int(seconds * RATE)), RATE)
        out.append(Utterance(f"u{number}", str(path), 0.0, None, int(seconds * RATE) / RATE))
    return out


def test_crops_have_the_planned_lengths(ramps):
    for plan in (
        PLAN,
        [CropSpec(1, 1.0)],
        [CropSpec(2, 3.0), CropSpec(4, 0.123), CropSpec(1, 2.0)],
    ):
        batch = CropBatches([utterance(i) for i in range(4)], plan, batch_size=3)[0]
        want = [(group.count, 3, round(group.seconds * RATE)) for group in plan]
        assert [tuple(group.shape) for group in batch.groups] == want


def test_crops_are_pieces_of_their_utterance(ramps):
    batch = CropBatches([utterance(i) for i in range(8)], PLAN, batch_size=8)[0]
    for group in batch.groups:
        assert torch.equal(group[0, :, 0].long(), batch.indices)
        steps = torch.diff(group.double(), dim=-1)
        assert steps.min() >= 0 and steps.max() < 2e-6  # contiguous, ascending


def test_short_utterances_are_repeated_cyclically(ramps):
    batch = CropBatches([utterance(0, 0.1)], [CropSpec(2, 0.25)], batch_size=1)[0]
    once = torch.arange(1600) / 2**20
    assert torch.equal(batch.groups[0][0, 0], once.repeat(3)[:4000])


def test_an_epoch_covers_every_utterance_once(ramps):
    data = CropBatches([utterance(i) for i in range(12)], PLAN, batch_size=3)
    epochs = [
        torch.cat([data[4 * epoch + i].indices for i in range(4)]).tolist() for epoch in (0, 1)
    ]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs) and epochs[0] != epochs[1]


def test_remainder_is_dropped_and_never_doubled(ramps):
    data = CropBatches([utterance(i) for i in range(11)], PLAN, batch_size=3)
    assert len(data) == 3
    seen = torch.cat([data[i].indices for i in range(3)]).tolist()
    assert len(set(seen)) == 9


def test_long_files_are_read_only_where_the_crops_are(ramps):
    data = CropBatches([utterance(i, 3600.0, start=7.0) for i in range(4)], PLAN, batch_size=4)
    data[0]
    assert len(ramps) == 4 * 5  # five crops each, far apart
    assert sum(last - first for _, first, last in ramps) == 4 * (2 * 8000 + 3 * 3200)
    assert min(first for _, first, _ in ramps) >= 7 * RATE


def test_short_files_are_read_once(ramps):
    CropBatches([utterance(i, 1.5) for i in range(4)], PLAN, batch_size=4)[0]
    assert len(ramps) == 4


def test_context_is_what_precedes_the_crop(ramps):
    augment = Augment(RATE, rir_prob=1.0, context=0.1)
    data = CropBatches(
        [utterance(i, 2.0) for i in range(30)],
        PLAN,
        batch_size=30,
        augment=augment,
        augment_here=False,
    )
    batch = data[0]
    assert batch.context == 1600 and batch.groups[0].shape == (2, 30, 1600 + 8000)
    steps = torch.diff(batch.groups[0].double(), dim=-1)
    first = batch.groups[0][..., 0]
    whole = (first > 0) | (batch.indices == 0)  # offset 0.1 s or more: the context is complete
    assert whole.sum() > 40 and steps[whole].max() < 2e-6
    finished = batch.on("cpu", augment)
    assert finished[0].shape == (2, 30, 8000)


def same(a, b, tolerance=0.0):
    assert torch.equal(a.indices, b.indices) and a.skipped == b.skipped
    for x, y in zip(a.groups, b.groups, strict=True):
        torch.testing.assert_close(x, y, atol=tolerance, rtol=0)


def full_augment():
    return Augment(RATE, rir_prob=0.6, filter_prob=0.5, babble_prob=0.5, speed=[0.9, 1.0, 1.1])


def test_workers_and_resume_change_nothing(files):
    def batches(workers, first):
        data = CropBatches(files, PLAN, batch_size=8, augment=full_augment(), seed=3)
        return list(make_loader(data, first, 6, workers=workers, timeout=60))

    alone = batches(0, 0)
    for a, b in zip(alone, batches(2, 0), strict=True):
        same(a, b)
    for a, b in zip(alone[4:], batches(1, 4), strict=True):
        same(a, b)
    assert [batch.step for batch in alone] == list(range(6))


def test_two_ranks_see_the_batch_of_one(files):
    whole = CropBatches(files, PLAN, batch_size=16, augment=full_augment())[2]
    halves = [
        CropBatches(files, PLAN, batch_size=8, augment=full_augment(), rank=rank, world=2)[2]
        for rank in (0, 1)
    ]
    assert torch.equal(torch.cat([half.indices for half in halves]), whole.indices)
    for number, group in enumerate(whole.groups):
        together = torch.cat([half.groups[number] for half in halves], dim=1)
        torch.testing.assert_close(together, group, atol=1e-6, rtol=0)


def test_crops_far_apart_are_the_extremes_of_five(ramps):
    def spread(far_apart_prob):
        plan = [CropSpec(2, 0.1), CropSpec(1, 0.1)]
        data = CropBatches(
            [utterance(0, 10.1)] * 300, plan, batch_size=300, far_apart_prob=far_apart_prob
        )
        starts = data[0].groups[0][:, :, 0].double()
        return ((starts[1] - starts[0]).abs() * 2**20 / RATE / 10).mean().item()

    # Mean distance of two uniforms: 1/3; mean range of five: 4/6.
    assert spread(0.0) == pytest.approx(1 / 3, abs=0.05) and spread(1.0) == pytest.approx(
        2 / 3, abs=0.05
    )


def test_disjoint_crops_of_teacher_and_student_do_not_overlap(ramps):
    plan = [CropSpec(2, 1.0, to="teacher"), CropSpec(3, 0.5, to="student")]
    data = CropBatches([utterance(0, 4.0)] * 200, plan, batch_size=200, disjoint=True)
    teacher, student = (group[:, :, 0].double() * 2**20 / RATE for group in data[0].groups)
    apart = (teacher[:, None] + 1.0 <= student[None] + 1e-3) | (
        student[None] + 0.5 <= teacher[:, None] + 1e-3
    )
    assert apart.all()
    first = (teacher.amin(0) < student.amin(0)).float().mean().item()
    assert first == pytest.approx(0.5, abs=0.12)  # either may come first
    short = CropBatches([utterance(0, 1.2)] * 8, plan, batch_size=8, disjoint=True)[0]
    assert [tuple(group.shape[:2]) for group in short.groups] == [(2, 8), (3, 8)]


def test_disjoint_needs_both_roles():
    with pytest.raises(UserError, match="disjoint"):
        CropBatches([utterance(0)], [CropSpec(2, 0.5)], batch_size=1, disjoint=True)


def test_speed_moves_the_pitch(tmp_path):
    path = tmp_path / "sine.wav"
    soundfile.write(path, np.sin(2 * np.pi * 500 * np.arange(RATE * 2) / RATE), RATE)
    one = Utterance("a", str(path), 0.0, None, 2.0)
    augment = Augment(RATE, rir_prob=0.0, noise_prob=0.0, speed=[1.1])
    crop = CropBatches([one], [CropSpec(1, 1.0)], batch_size=1, augment=augment)[0].groups[0][0, 0]
    assert torch.fft.rfft(crop * torch.hann_window(RATE)).abs().argmax().item() == pytest.approx(
        550, abs=1
    )


def test_duration_weights(ramps):
    utterances = [utterance(i, 1.0 if i < 9 else 9.0) for i in range(10)]
    data = CropBatches(utterances, [CropSpec(1, 0.1)], batch_size=10, weight_by_duration=True)
    share = torch.cat([data[i].indices for i in range(20)]).eq(9).float().mean()
    assert share == pytest.approx(0.5, abs=0.06)


def test_drawing_with_replacement_leaves_a_share_of_1_over_e_out(ramps):
    seconds = np.r_[np.full(2000, 1.0), np.full(2000, 3.0)]
    order = EpochOrder(4000, 5, replacement=True)
    rows = order.rows(0)
    assert len(rows) == 4000 and rows.min() >= 0 and rows.max() < 4000
    assert len(np.unique(rows)) / 4000 == pytest.approx(1 - np.exp(-1), abs=0.03)
    counts = np.bincount(rows, minlength=4000)
    assert counts.mean() == 1 and counts.var() == pytest.approx(1, abs=0.1)  # Poisson's
    assert np.array_equal(rows, EpochOrder(4000, 5, replacement=True).rows(0))
    assert not np.array_equal(rows, order.rows(1))
    weighted = EpochOrder(4000, 5, replacement=True, weights=seconds).rows(0)
    assert (weighted >= 2000).mean() == pytest.approx(0.75, abs=0.03)
    assert len(np.unique(weighted)) < 0.7 * 4000


def test_workers_and_resume_change_nothing_with_replacement(files):
    def batches(workers, first):
        data = CropBatches(files, PLAN, batch_size=8, seed=3, replacement=True)
        return list(make_loader(data, first, 6, workers=workers, timeout=60))

    alone = batches(0, 0)
    for a, b in zip(alone[3:], batches(1, 3), strict=True):
        same(a, b)


@pytest.mark.parametrize(
    "settings, want",
    [
        ({"source_shares": [3.0, 1.0]}, [75, 25]),
        ({"source_temperature": 1.0}, [90, 10]),
        ({"source_temperature": 2.0}, [75, 25]),  # sqrt(90) : sqrt(10) = 3 : 1
        ({"source_temperature": 1e9}, [50, 50]),
        ({"source_shares": [0.0, 2.0]}, [0, 100]),
        # 90 utterances of 1 s and 10 of 9 s are as many seconds
        ({"source_temperature": 1e9, "weight_by_duration": True}, [50, 50]),
        ({"source_shares": [1.0, 3.0], "weight_by_duration": True}, [25, 75]),
    ],
)
def test_an_epoch_visits_sources_by_their_shares(settings, want):
    """Systematic sampling: each source has its share of the 100 visits, give or take one."""
    utterances = [replace(utterance(i, 1.0), source=0) for i in range(90)]
    utterances += [replace(utterance(i, 9.0), source=1) for i in range(90, 100)]
    data = CropBatches(utterances, [CropSpec(1, 0.1)], batch_size=10, seed=3, **settings)
    for epoch in range(3):
        rows = data.order.rows(epoch)
        of_source = [(rows < 90).sum(), (rows >= 90).sum()]
        assert np.abs(np.subtract(of_source, want)).max() <= 1
        visits = np.bincount(rows, minlength=100)
        assert np.ptp(visits[:90]) <= 1 and np.ptp(visits[90:]) <= 1  # alike within a source
    again = CropBatches(utterances, [CropSpec(1, 0.1)], batch_size=10, seed=3, **settings)
    assert np.array_equal(again.order.rows(1), data.order.rows(1))


def test_unreadable_files_are_replaced_and_reported(files, tmp_path):
    broken = tmp_path / "broken.flac"
    broken.write_bytes(b"fLaC no more")
    utterances = [Utterance("bad", str(broken), 0.0, None, 1.0), *files]
    data = CropBatches(utterances, PLAN, batch_size=18)
    batch = data[0]
    assert [name for name, _ in batch.skipped] == ["bad"] and "broken.flac" in batch.skipped[0][1]
    assert 0 not in batch.indices and len(batch.indices) == 18
    same(batch, CropBatches(utterances, PLAN, batch_size=18)[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_readable_is_one_line(workers):
    data = CropBatches([utterance(i) for i in range(4)], PLAN, batch_size=2)
    with pytest.raises(UserError, match="cannot be read") as caught:
        list(make_loader(data, 0, 2, workers=workers, timeout=60))
    assert "\n" not in str(caught.value) and str(caught.value).startswith("data: ")


def test_many_failures_stop_the_run(ramps):
    batch = CropBatches([utterance(i) for i in range(100)], [CropSpec(1, 0.1)], batch_size=100)[0]
    errors = ReadErrors()
    batch.skipped = [("u1", "gone")] * 5
    for _ in range(5):
        errors.add(batch)
    batch.skipped = [("u1", "gone")] * 9
    with pytest.raises(UserError, match="34 of 600.*validate"):
        errors.add(batch)


def test_the_data_set_does_not_grow(ramps):
    import pickle

    data = CropBatches([utterance(i) for i in range(50)], PLAN, batch_size=5)
    data[0]
    before = len(pickle.dumps(data))
    for step in range(30):
        data[step]
    assert len(pickle.dumps(data)) <= before + 16


@pytest.mark.parametrize(
    "make,words",
    [
        (
            lambda: CropBatches([utterance(0)] * 30, PLAN, batch_size=64),
            r"batch_size 64 is larger than the 30 utterances; lower it \(train.batch_size=16\)",
        ),
        (
            lambda: CropBatches([utterance(i, 600.0) for i in range(19)], PLAN, batch_size=64),
            r"19 utterances, of 600 s on average; cut them.*--max-seconds 8 makes about 1425",
        ),
        (lambda: CropBatches([utterance(0)], [], batch_size=1), "plan is empty"),
        (lambda: CropBatches([utterance(0, 0.0)], PLAN, batch_size=1), "utt2dur"),
        (
            lambda: CropBatches(
                [utterance(0)], [CropSpec(3, 1.0)], batch_size=1, far_apart_prob=0.5
            ),
            "far_apart_prob",
        ),
        (lambda: parse_plan([]), "plan is empty"),
        (lambda: parse_plan([{"count": 2}]), "needs count and seconds"),
        (lambda: parse_plan([{"count": 2, "seconds": 1.0, "lenght": 3}]), "lenght"),
        (lambda: CropSpec(0, 1.0), "count=0"),
        (lambda: CropSpec(1, 1.0, "loud"), "loud"),
    ],
)
def test_nonsense_is_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()


def test_plan_from_configuration():
    groups = [
        {"count": 2, "seconds": 3, "augment": "none", "to": "teacher"},
        {"count": 4, "seconds": 2.0},
    ]
    assert parse_plan(groups) == [CropSpec(2, 3, "none", "teacher"), CropSpec(4, 2.0)]
