"""Decoded utterances: the samples of the files, whoever reads first, and what is done without room."""

import gc
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl import distributed
from speechssl.audio import reading
from speechssl.augment.augment import Augment
from speechssl.data import decoded
from speechssl.data.crops import CropSpec
from speechssl.data.dataset import CropBatches
from speechssl.data.decoded import DecodedAudio, memory_to_spare
from speechssl.data.loader import make_loader
from speechssl.data.manifest import Manifest, Utterance, write_manifest
from speechssl.data.table import UtteranceTable
from speechssl.errors import UserError

RATE = 16000
PLAN = [CropSpec(2, 0.5), CropSpec(3, 0.2, "mild", "student")]
ROOM = 1 << 24


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(decoded, "temporary_folder", lambda: str(folder))
    return folder


@pytest.fixture
def files(tmp_path):
    """17 files of 16 bits, of which 11 are one recording's segments."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(6):
        path = tmp_path / f"{number}.flac"
        soundfile.write(path, 0.1 * rng.standard_normal(RATE * (number + 1)), RATE)
        found.append(Utterance(f"file{number}", str(path), 0.0, None, number + 1.0))
    long = tmp_path / "long.wav"
    soundfile.write(long, 0.1 * rng.standard_normal(30 * RATE), RATE)
    for number in range(11):
        start = 2.5 * number
        found.append(Utterance(f"piece{number}", str(long), start, start + 2.0, 2.0))
    return found


def equal(one, other):
    assert torch.equal(one.indices, other.indices)
    for a, b in zip(one.groups, other.groups, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "options", [{}, {"augment": Augment(RATE, rir_prob=0.5, simulate_prob=1.0)}]
)
def test_crops_of_16_bit_files_are_the_same_to_the_bit(files, temporary, options):
    plain = CropBatches(files, PLAN, batch_size=5, **options)
    kept = CropBatches(files, PLAN, batch_size=5, decoded_bytes=ROOM, **options)
    assert kept.reader.decoded.rows == len(files)
    for step in (0, 1, 2, 7, 0):  # the second time from memory
        equal(kept[step], plain[step])


def test_each_file_is_decoded_once(files, temporary, monkeypatch):
    reads = []
    read = reading.read
    monkeypatch.setattr(reading, "read", lambda *a, **k: reads.append(a) or read(*a, **k))
    batches = CropBatches(files, PLAN, batch_size=len(files), decoded_bytes=ROOM)
    for step in range(5):
        batches[step]
    assert len(reads) == len(files)


def test_a_change_of_speed_reads_from_memory_as_from_the_file(files, temporary):
    augment = Augment(RATE, speed=[0.9, 1.1])
    plain = CropBatches(files, PLAN, batch_size=5, augment=augment)
    kept = CropBatches(files, PLAN, batch_size=5, augment=augment, decoded_bytes=ROOM)
    for step in range(3):
        equal(kept[step], plain[step])


def test_processes_share_what_one_of_them_decoded(files, temporary):
    batches = CropBatches(files, PLAN, batch_size=5, decoded_bytes=ROOM)
    for batch in make_loader(batches, 0, 12, workers=2):
        assert not batch.skipped
    counts = batches.reader.decoded._counts
    assert (counts > 0).all()  # in this process, which has read nothing


def test_a_process_that_is_not_forked_maps_the_same_file(files, temporary):
    batches = CropBatches(files, PLAN, batch_size=5, decoded_bytes=ROOM)
    first = batches[0]
    other = pickle.loads(pickle.dumps(batches))
    equal(other[0], first)
    other.reader.decoded._samples[:] = 0
    assert not batches[0].groups[0].any()


def test_what_is_read_does_not_depend_on_who_read_before(files, temporary):
    table = UtteranceTable(files)
    floats = np.random.default_rng(1).standard_normal(RATE).astype(np.float32)

    def read(path, rate, start, stop, channel):
        return floats

    audio = DecodedAudio(table, RATE, ROOM, read)
    first = audio.read(0, 0.0, 1.0)
    assert np.array_equal(audio.read(0, 0.0, 1.0), first)
    peak = np.abs(floats).max()
    assert peak > 1  # not clipped, but scaled
    assert np.abs(first - floats).max() <= 1.01 * peak / 32768


def test_long_utterances_and_those_without_room_are_read_from_their_files(files, temporary):
    hour = Utterance("hour", files[0].path, 0.0, None, 3600.0)
    table = UtteranceTable([hour, *files])
    audio = DecodedAudio(table, RATE, 2 * (RATE * 6 + 3), reading.read)
    held = [row for row in range(len(table)) if audio.holds(row)]
    assert held == [1, 2, 3]  # 1 + 2 + 3 s; 4 s more are too much
    assert audio.rows == 3


def test_claimed_durations_take_no_more_than_the_limit(files, temporary):
    claims = [Utterance(f"u{n}", files[0].path, 0.0, None, 59.0) for n in range(10_000)]
    audio = DecodedAudio(UtteranceTable(claims), RATE, ROOM, reading.read)
    assert audio.bytes <= ROOM
    assert sum(entry.stat().st_size for entry in temporary.iterdir()) <= ROOM + 8 * 10_000


def test_an_utterance_that_ends_early_is_replaced(files, temporary):
    table = UtteranceTable([Utterance("late", files[0].path, 0.0, None, 30.0)])
    audio = DecodedAudio(table, RATE, ROOM, reading.read)
    assert len(audio.read(0, 0.5, 30.0)) == RATE // 2
    with pytest.raises(UserError, match="0.flac: ends 1.000 s behind the beginning of late"):
        audio.read(0, 1.0, 2.0)


def test_without_room_on_the_disk_everything_is_read_from_files(files, temporary, monkeypatch):
    def full(descriptor, offset, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    kept = CropBatches(files, PLAN, batch_size=5, decoded_bytes=ROOM)
    assert kept.reader.decoded.rows == 0
    assert not list(temporary.iterdir())
    equal(kept[0], CropBatches(files, PLAN, batch_size=5)[0])


def test_the_file_is_removed_with_its_batches_and_after_a_killed_process(files, temporary):
    left = temporary / "speechssl-decoded-999999999-x"
    left.write_bytes(b"0")
    batches = CropBatches(files, PLAN, batch_size=5, decoded_bytes=ROOM)
    (mapped,) = temporary.iterdir()
    assert mapped.name != left.name
    assert Path(mapped).stat().st_mode & 0o077 == 0  # nobody else's business
    del batches
    gc.collect()
    assert not list(temporary.iterdir())


def test_memory_to_spare_is_a_quarter(monkeypatch):
    monkeypatch.setattr(decoded, "memory_bytes", lambda: 4 << 20)
    assert memory_to_spare() == 1 << 20


TOGETHER = """
import sys
import torch.distributed as dist
from speechssl.audio import reading
from speechssl.data.decoded import DecodedAudio
from speechssl.data.manifest import read_manifest
from speechssl.data.table import UtteranceTable

def refuse(*_):
    raise AssertionError("decoded again")

dist.init_process_group("gloo")
rank, files = dist.get_rank(), read_manifest(sys.argv[1]).utterances
audio = DecodedAudio(UtteranceTable(files), 16000, 1 << 24, refuse if rank else reading.read)
mine = [audio.read(row, 0.0, 0.5) for row in range(len(files))] if rank == 0 else []
dist.barrier()
theirs = [audio.read(row, 0.0, 0.5) for row in range(len(files))]
assert not mine or all((a == b).all() for a, b in zip(mine, theirs))
dist.barrier()
count = sum(abs(wave).max() > 0.1 for wave in theirs)
sys.stdout.write(f"read {count}" + chr(10))  # in one piece: two ranks write
dist.destroy_process_group()
"""


def test_what_one_rank_decoded_no_other_decodes_again(files, tmp_path):
    write_manifest(Manifest(files), tmp_path / "data")
    (tmp_path / "together.py").write_text(TOGETHER)
    with tempfile.TemporaryDirectory(prefix="d") as folder:
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
            + [str(tmp_path / "together.py"), str(tmp_path / "data")],
            env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": folder},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert not list(Path(folder).glob("speechssl-decoded-*"))
    assert done.stdout.count("read 17") == 2


@pytest.mark.parametrize("rank", range(4))
def test_the_first_process_of_each_machine_makes_what_all_of_it_use(monkeypatch, rank):
    machines = ["one", "two", "one", "two"]
    made = [["file of one"], ["file of two"], [], []]

    def gather(everywhere, mine):
        asked = machines if isinstance(mine, str) else made
        assert mine == asked[rank]
        everywhere[:] = asked

    monkeypatch.setattr(distributed, "world_size", lambda: 4)
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    monkeypatch.setattr(distributed, "_machine", lambda: machines[rank])
    monkeypatch.setattr(distributed.dist, "all_gather_object", gather)
    found = distributed.from_first_here(lambda: f"file of {machines[rank]}")
    assert found == f"file of {machines[rank]}"
