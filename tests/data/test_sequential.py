"""Shards in sequence: every utterance once, by whoever reads; a batch needs no other before it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from speechssl.audio import members, reading
from speechssl.audio.remotes import Remote
from speechssl.data import shard_cache
from speechssl.data.crops import CropSpec
from speechssl.data.dataset import CropBatches
from speechssl.data.loader import make_loader
from speechssl.data.manifest import Utterance
from speechssl.data.sequential import Reading, SequentialOrder, Shards, find_shards
from speechssl.data.shard_cache import ShardCache
from speechssl.data.shards import ShardWriter
from speechssl.errors import UserError

fsspec = pytest.importorskip("fsspec")

RATE = 16000
PLAN = [CropSpec(2, 0.2), CropSpec(2, 0.1)]
COUNT = 60
PER_SHARD = 6


def rows_in_shards(count: int, per_shard: int) -> Shards:
    """Utterances that lie in their order, so many in a shard."""
    shard = np.arange(count) // per_shard
    offset = np.arange(count) % per_shard * 1000 + 512
    return Shards([f"s{number}.tar" for number in range(shard.max() + 1)], shard, offset)


def order_of(world: int, buffer: int, *, count: int = 1000, batch: int = 10) -> SequentialOrder:
    return SequentialOrder(
        rows_in_shards(count, 25), batch_size=batch, world=world, seed=3, buffer=buffer
    )


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_utterance_comes_once_and_to_one_process(world: int) -> None:
    order = order_of(world, buffer=100)
    left_out: Counter[int] = Counter()
    for epoch in range(20):
        rows = order.rows(epoch)
        assert len(rows) == 1000 // (10 * world) * 10 * world == len(set(rows.tolist()))
        left_out.update(set(range(1000)) - set(rows.tolist()))
    assert max(left_out.values(), default=0) < 10  # not the same ones in every epoch
    assert not np.array_equal(order.rows(0), order.rows(1))
    np.testing.assert_array_equal(order_of(world, buffer=100).rows(7), order.rows(7))


def test_shards_come_one_behind_the_other_as_far_as_the_buffer_allows() -> None:
    """Place i has an utterance that lies at most a buffer behind it in the sequence of shards."""
    for world, buffer in ((1, 1), (1, 60), (2, 100)):
        order = order_of(world, buffer)
        by_rank = order.rows(0).reshape(order.steps, world, 10)
        for rank in range(world):
            rows = by_rank[:, rank].ravel()
            shards = rows // 25
            first = {shard: int(np.argmax(shards == shard)) for shard in shards.tolist()}
            last = {
                shard: int(len(shards) - 1 - np.argmax(shards[::-1] == shard)) for shard in first
            }
            spread = max(last[shard] - first[shard] for shard in first)
            assert spread <= 25 + 2 * buffer
            if buffer == 1:  # without mixing: in the order of the bytes
                assert (np.diff(rows.reshape(-1, 25), axis=1) == 1).all()
    mixed = order_of(1, 100).rows(0)[:500] // 25
    assert np.mean(mixed[1:] == mixed[:-1]) < 0.5  # 0.96 without mixing


def test_the_wanted_shards_are_those_that_come() -> None:
    order = order_of(2, buffer=60, batch=5)
    assert order.steps == 100
    for step in (0, 50, 95):
        for rank in range(2):
            wanted = order.wanted(step, rank)
            needed = []
            for later in range(step, step + 32):
                epoch, place = divmod(later, 100)
                rows = order.rows(epoch).reshape(100, 2, 5)[place, rank]
                needed += [f"s{row // 25}.tar" for row in rows.tolist()]
            assert wanted == list(dict.fromkeys(needed))
            assert len(wanted) < 40


class SlowBucket:
    """A store in memory that answers to s3:// after a while, and counts."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.bytes_of: Counter[str] = Counter()
        self.in_flight = 0
        self.most_in_flight = 0
        self.lock = threading.Lock()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> SlowBucket:
    from fsspec.implementations.memory import MemoryFileSystem

    seen = SlowBucket()

    class Bucket(MemoryFileSystem):
        protocol = "s3"
        cachable = False

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return super()._strip_protocol(path.removeprefix("s3:/"))

        def cat_file(self, path: str, start: Any = None, end: Any = None, **kwargs: Any) -> bytes:
            with seen.lock:
                seen.in_flight += 1
                seen.most_in_flight = max(seen.most_in_flight, seen.in_flight)
            time.sleep(seen.delay)
            data: bytes = super().cat_file(path, start, end, **kwargs)
            with seen.lock:
                seen.in_flight -= 1
                seen.bytes_of[path] += len(data)
            return data

    fsspec.register_implementation("s3", Bucket, clobber=True)
    MemoryFileSystem.store.clear()
    return seen


def write(target: str) -> list[Utterance]:
    """Write shards of `PER_SHARD` utterances of noise, 0.3 to 0.6 s."""
    files, folder = fsspec.core.url_to_fs(target)
    files.makedirs(folder, exist_ok=True)
    shards = ShardWriter(files, folder, target, 10**9)
    rng = np.random.default_rng(0)
    utterances = []
    for number in range(COUNT):
        if number % PER_SHARD == 0:
            shards.close()
        samples = (3000 * rng.standard_normal(round(RATE * (0.3 + 0.005 * number)))).astype(
            np.int16
        )
        data = encoded(samples)
        about = Utterance(f"u{number}", "", seconds=len(samples) / RATE)
        address = shards.add(about, data, "wav")
        utterances.append(Utterance(about.id, address, seconds=about.seconds))
    shards.close()
    return utterances


def encoded(samples: NDArray[np.int16]) -> bytes:
    import io

    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV")
    return file.getvalue()


def crops(utterances: list[Utterance], workers: int = 0, **options: Any) -> list[NDArray[Any]]:
    """The crops of two epochs of seven batches."""
    data = CropBatches(utterances, PLAN, batch_size=8, seed=5, **options)
    loaded = list(make_loader(data, 0, 14, workers=workers))
    assert not [batch.skipped for batch in loaded if batch.skipped]
    return [group.numpy() for batch in loaded for group in batch.groups]


def assert_equal(found: list[NDArray[Any]], expected: list[NDArray[Any]]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_store_gives_the_batches_of_a_disk(tmp_path: Path, store: SlowBucket) -> None:
    here = write(str(tmp_path / "shards"))
    there = write("s3://bucket/shards")
    how = Reading(buffer=20, cache=str(tmp_path / "cache"))
    expected = crops(here, sequential=how)
    assert not (tmp_path / "cache").exists()
    assert_equal(crops(there, sequential=how), expected)
    assert len(list((tmp_path / "cache").iterdir())) == COUNT // PER_SHARD
    sizes = {path: len(file.getvalue()) for path, file in fsspec.filesystem("s3").store.items()}
    assert dict(store.bytes_of) == sizes  # each byte once, for two epochs
    assert_equal(crops(there, sequential=how), expected)
    assert dict(store.bytes_of) == sizes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the store in memory reaches workers by fork")
def test_workers_and_requests_change_nothing(tmp_path: Path, store: SlowBucket) -> None:
    there = write("s3://bucket/shards")
    how = Reading(buffer=20, cache=str(tmp_path / "cache"))
    expected = crops(there, sequential=how, requests=1)
    assert_equal(crops(there, sequential=how, requests=5), expected)
    assert_equal(crops(there, workers=2, sequential=how, requests=3), expected)
    assert_equal(crops(there, requests=7), crops(there, requests=1))  # at random, too


def test_ranks_read_what_one_batch_of_both_has(tmp_path: Path) -> None:
    """No utterance is in two ranks' batches, and each epoch has as many as it can."""
    here = write(str(tmp_path / "shards"))
    rows: list[int] = []
    for rank in range(2):
        data = CropBatches(
            here, PLAN, batch_size=8, seed=5, rank=rank, world=2, sequential=Reading(buffer=20)
        )
        for step in range(len(data)):
            rows += data[step].indices.tolist()
    assert len(rows) == len(set(rows)) == 48


def test_a_later_batch_needs_none_before_it(tmp_path: Path) -> None:
    here = write(str(tmp_path / "shards"))
    whole = CropBatches(here, PLAN, batch_size=8, seed=5, sequential=Reading(buffer=20))
    for step in range(12):
        expected = whole[step]
    found = CropBatches(here, PLAN, batch_size=8, seed=5, sequential=Reading(buffer=20))[11]
    assert found.indices.tolist() == expected.indices.tolist()
    assert_equal([g.numpy() for g in found.groups], [g.numpy() for g in expected.groups])


def test_many_requests_are_in_flight(
    tmp_path: Path, store: SlowBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard of 19 parts comes eight or more at a time; so does a batch of 8 at random."""
    monkeypatch.setattr(shard_cache, "PART_BYTES", 4096)
    there = write("s3://bucket/shards")
    store.delay = 0.3  # long enough for threads to meet on a busy machine
    cache = ShardCache(tmp_path / "cache", 1.0)
    archive = members.parse(there[0].path)
    assert archive is not None
    cache.want([archive.archive])
    cache.local(there[0].path)
    assert store.most_in_flight >= 8
    store.most_in_flight = 0
    CropBatches(there, PLAN, batch_size=8, seed=5)[0]
    assert store.most_in_flight == 8


def test_the_cache_keeps_its_size_and_what_is_gone_is_read_from_the_store(
    tmp_path: Path, store: SlowBucket
) -> None:
    there = write("s3://bucket/shards")
    sizes = [len(file.getvalue()) for file in fsspec.filesystem("s3").store.values()]
    limit = sum(sorted(sizes)[-3:])
    cache = ShardCache(tmp_path / "cache", limit / 1e9)
    for utterance in there:
        member = members.parse(utterance.path)
        assert member is not None
        cache.want([member.archive])
        expected = reading.read(utterance.path, RATE, 0.05, 0.2)
        np.testing.assert_array_equal(cache.read(utterance.path, RATE, 0.05, 0.2), expected)
        copies = list((tmp_path / "cache").glob("*.tar"))
        assert copies and sum(copy.stat().st_size for copy in copies) <= limit
    copy = cache.local(there[-1].path)
    for left in (tmp_path / "cache").glob("*.tar"):
        left.unlink()
    assert cache.local(there[-1].path) == copy  # fetched again
    assert not list((tmp_path / "cache").glob(".*"))
    with pytest.raises(UserError, match="more than data.cache_gb") as caught:
        small = ShardCache(tmp_path / "small", 1e-6)
        small.want([members.parse(there[0].path).archive])  # type: ignore[union-attr]
        small.local(there[0].path)
    stated = str(caught.value).partition(".tar: ")[2].partition(" GB")[0]
    archive = str(members.parse(there[0].path).archive)  # type: ignore[union-attr]
    size = members.archive_size(Remote(archive))
    assert float(stated) == pytest.approx(size / 1e9, rel=0.01)


def test_the_cache_keeps_its_size_while_shards_come_at_once(
    tmp_path: Path, store: SlowBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is being fetched counts, and what a killed process has left is removed."""
    monkeypatch.setattr(shard_cache, "PART_BYTES", 65536)
    there = write("s3://bucket/shards")
    store.delay = 0.02
    sizes = [len(file.getvalue()) for file in fsspec.filesystem("s3").store.values()]
    limit = int(1.5 * max(sizes))  # two do not fit
    folder = tmp_path / "cache"
    cache = ShardCache(folder, limit / 1e9)
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    left = folder / f".x.{int(ended.stdout)}.partial.tar"
    left.write_bytes(bytes(limit - 1))  # and one byte is elsewhere: no more than the limit in all
    os.utime(left, (0, 0))
    elsewhere = (
        folder / f".y.{int(ended.stdout)}.partial.tar"
    )  # of a machine that shares the folder
    elsewhere.write_bytes(b"x")
    held: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            with contextlib.suppress(FileNotFoundError):  # it has just been removed or renamed
                found = [path.stat() for path in folder.glob("*.tar")]
                # A copy that is renamed meanwhile is listed under both names.
                held.append(sum({file.st_ino: file.st_size for file in found}.values()))

    watcher = threading.Thread(target=watch)
    archives = {members.parse(one.path).archive: one for one in there}  # type: ignore[union-attr]
    cache.want(list(archives))
    watcher.start()
    for utterance in archives.values():
        expected = reading.read(utterance.path, RATE, 0.05, 0.2)
        np.testing.assert_array_equal(cache.read(utterance.path, RATE, 0.05, 0.2), expected)
    done.set()
    watcher.join()
    assert max(held) <= limit
    assert not left.exists() and elsewhere.exists()


def test_a_store_that_fails_is_one_line_and_tried_again(tmp_path: Path, store: SlowBucket) -> None:
    there = write("s3://bucket/shards")
    held = fsspec.filesystem("s3").store
    path = next(iter(held))
    gone = held.pop(path)
    cache = ShardCache(tmp_path / "cache", 1.0)
    address = next(u.path for u in there if path.removeprefix("/") in u.path)
    archive = members.parse(address).archive  # type: ignore[union-attr]
    cache.want([archive])
    with pytest.raises(UserError, match="no such file"):
        cache.local(address)
    held[path] = gone
    assert cache.local(address).startswith(str(tmp_path))


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    here = write(str(tmp_path / "shards"))
    with pytest.raises(UserError, match="data.reading=stream does not go with data.replacement"):
        CropBatches(here, PLAN, batch_size=8, replacement=True, sequential=Reading())
    with pytest.raises(UserError, match="shuffle_buffer"):
        CropBatches(here, PLAN, batch_size=8, sequential=Reading(buffer=0))
    with pytest.raises(UserError, match="not in a shard"):
        find_shards([Utterance("a", "a.wav", seconds=1.0)])
    with pytest.raises(UserError, match="cache_gb"):
        ShardCache(tmp_path, 0.0)
    assert find_shards([Utterance("a", Remote("s3://b/s.tar:512:99.wav"))]).archives == [
        "s3://b/s.tar"
    ]


@pytest.mark.slow
def test_an_s3_server_with_latency(tmp_path: Path) -> None:
    """Real requests: the batches of a disk, and less waiting than at random."""
    pytest.importorskip("moto", reason="needs moto[s3,server]")
    pytest.importorskip("s3fs")
    import subprocess
    import sys

    from builders import ROOT

    words = ["--utterances", "200", "--steps", "8", "--step", "0.2", "--batch-size", "16"]
    done = subprocess.run(
        [sys.executable, "-m", "egs.bench.object_store", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    shares = [float(line.split("waits")[1].split("%")[0]) for line in done.stdout.splitlines()]
    one, sixteen, stream = shares
    assert stream < one and sixteen < one
