"""Shards give what the files gave, bit for bit, from any store; a damaged one is one line."""

from __future__ import annotations

import contextlib
import fnmatch
import gc
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.__main__ import main
from speechssl.audio import members, reading
from speechssl.audio.remotes import Remotes
from speechssl.augment.augment import Augment
from speechssl.data import shards
from speechssl.data.crops import CropSpec
from speechssl.data.dataset import CropBatches
from speechssl.data.loader import make_loader
from speechssl.data.manifest import Manifest, Utterance, read_manifest, write_manifest
from speechssl.data.shard_writer import ShardWriter
from speechssl.data.shards import write_shards
from speechssl.data.validation import validate
from speechssl.errors import MachineError, UserError

RATE = 16000
PLAN = [CropSpec(2, 0.5), CropSpec(2, 0.25, "mild", "student")]


@pytest.fixture
def kaldi(tmp_path: Path) -> Path:
    """Twelve utterances: wav and flac of 16 bits, a 44.1 kHz one, and labels."""
    rng = np.random.default_rng(0)
    utterances = []
    for number in range(12):
        rate = 44100 if number == 3 else RATE
        samples = (3000 * rng.standard_normal(round(rate * (0.6 + 0.1 * number)))).astype(np.int16)
        name = f"id{number:05d}/a.b/{number:05d}.{'wav' if number % 2 else 'flac'}"
        path = tmp_path / "audio" / name
        path.parent.mkdir(parents=True)
        soundfile.write(path, samples, rate)
        utterances.append(Utterance(name, str(path), seconds=reading.info(path).seconds))
    labels = {
        "spk": {u.id: u.id[:7] for u in utterances},
        "emotion": {u.id: "calm" for u in utterances},
    }
    write_manifest(Manifest(utterances, labels), tmp_path / "kaldi")
    return tmp_path / "kaldi"


def batches(directory: Path, remotes: Remotes | None = None, **options: object) -> list[np.ndarray]:
    """The crops of two epochs, augmented."""
    augment = Augment(RATE, rir_prob=0.7, babble_prob=0.5, filter_prob=0.5, speed=[0.9, 1.0, 1.1])
    utterances = read_manifest(directory, remotes=remotes).utterances
    crops = CropBatches(utterances, PLAN, batch_size=4, augment=augment, seed=5, **options)
    loaded = list(make_loader(crops, 0, 6, workers=0))
    assert not [batch.skipped for batch in loaded if batch.skipped]
    return [group.numpy() for batch in loaded for group in batch.groups]


@pytest.mark.parametrize("options", [["--format", "flac"], ["--format", "wav", "--megabytes", "1"]])
def test_the_same_batches_as_from_files(kaldi: Path, tmp_path: Path, options: list[str]) -> None:
    assert main(["shard", str(kaldi), str(tmp_path / "shards"), *options]) == 0
    files, shards = read_manifest(kaldi, "all"), read_manifest(tmp_path / "shards", "all")
    assert shards.ids == files.ids and shards.labels == files.labels
    assert [u.seconds for u in shards] == [u.seconds for u in files]
    assert validate(tmp_path / "shards", read_audio=True) == []
    for one, other in zip(batches(kaldi), batches(tmp_path / "shards"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_pieces_of_files_become_files(kaldi: Path, tmp_path: Path) -> None:
    path = read_manifest(kaldi).utterances[11].path
    pieces = [Utterance("one", path, 0.25, 0.75, 0.5), Utterance("two", path, 1.0, 1.5, 0.5)]
    write_manifest(Manifest(pieces), tmp_path / "pieces")
    shards = write_shards(tmp_path / "pieces", tmp_path / "out")
    assert not (tmp_path / "out/segments").exists()
    for piece, packed in zip(pieces, shards, strict=True):
        want = reading.read(path, RATE, piece.start, piece.stop)
        np.testing.assert_array_equal(reading.read(packed.path, RATE), want)
        np.testing.assert_array_equal(reading.read(packed.path, RATE, 0.1, 0.2), want[1600:3200])


def test_sixteen_bits_are_kept_to_the_last_one(tmp_path: Path) -> None:
    every = np.arange(-32768, 32768, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", every, RATE)
    write_manifest(
        Manifest([Utterance("a", str(tmp_path / "a.wav"), seconds=4.096)]), tmp_path / "kaldi"
    )
    packed = write_shards(tmp_path / "kaldi", tmp_path / "out").utterances[0]
    np.testing.assert_array_equal(reading.read(packed.path, RATE) * 32768, every)


@pytest.fixture
def bucket(memory_bucket: str) -> str:
    """A folder in it."""
    return f"{memory_bucket}/vox2"


def test_a_folder_as_store(kaldi: Path, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    store = f"{tmp_path}/store"
    write_shards(kaldi, tmp_path / "index", store=store)
    assert all(u.path.startswith(f"{store}/shard-0") for u in read_manifest(tmp_path / "index"))
    for one, other in zip(batches(kaldi), batches(tmp_path / "index"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_remote_store(kaldi: Path, tmp_path: Path, bucket: str) -> None:
    written = write_shards(kaldi, tmp_path / "index", store=bucket)
    remotes = Remotes(["s3://bucket/"])
    utterances = read_manifest(tmp_path / "index", remotes=remotes).utterances
    assert [u.path for u in utterances] == [u.path for u in written]
    assert all(u.path.startswith(f"{bucket}/shard-000000.tar:") for u in utterances)
    assert not list((tmp_path / "index").glob("*.tar"))
    for one, other in zip(batches(kaldi), batches(tmp_path / "index", remotes), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(UserError, match="holds 1 shard already; remove them"):
        write_shards(kaldi, tmp_path / "again", store=bucket)
    with pytest.raises(UserError, match="--remote s3://bucket/"):
        read_manifest(tmp_path / "index")


@pytest.mark.parametrize("store", ["memory://a", "file:///tmp/a", "simplecache::s3://a"])
def test_a_store_that_could_not_be_read_again_is_refused(
    kaldi: Path, tmp_path: Path, store: str
) -> None:
    with pytest.raises(UserError, match="store|plain address"):
        write_shards(kaldi, tmp_path / "index", store=store)


def counting(fetched: list[int]) -> Callable[[members.Member, int, int], bytes]:
    """`Member.fetch` that also notes how many bytes were asked for."""
    fetch = members.Member.fetch

    def counted(member: members.Member, first: int, count: int) -> bytes:
        fetched.append(count)
        return fetch(member, first, count)

    return counted


def test_a_large_member_is_read_where_it_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = np.random.default_rng(0).integers(-9000, 9000, 300 * RATE).astype(np.int16)  # 9.6 MB
    for extension in ("wav", "flac"):
        soundfile.write(tmp_path / f"long.{extension}", samples, RATE)
        utterance = Utterance("long", str(tmp_path / f"long.{extension}"), seconds=300.0)
        write_manifest(Manifest([utterance]), tmp_path / "kaldi")
        out = tmp_path / f"out-{extension}"
        packed = write_shards(tmp_path / "kaldi", out, format=extension).utterances[0]
        fetched: list[int] = []
        with monkeypatch.context() as patch:
            patch.setattr(members.Member, "fetch", counting(fetched))
            piece = reading.read(packed.path, RATE, 200.0, 204.0)
        np.testing.assert_array_equal(piece * 32768, samples[200 * RATE : 204 * RATE])
        assert sum(fetched) < (1 << 20 if extension == "wav" else 6 << 20)
        np.testing.assert_array_equal(reading.read(packed.path, RATE) * 32768, samples)


def test_a_damaged_shard_is_one_line(
    kaldi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(kaldi, tmp_path / "out")
    shard = tmp_path / "out/shard-000000.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    last = max(read_manifest(kaldi).ids, key=lambda name: _offset(tmp_path / "out", name))
    with pytest.raises(
        UserError, match=r"shard-000000.tar: truncated: it ends at byte \d+; copy or write"
    ):
        read_manifest(tmp_path / "out")
    address = str(_scp(tmp_path / "out")[last])
    with pytest.raises(
        UserError, match=r"^[^\n]*truncated: it ends at byte \d+, a member at \d+; copy[^\n]*$"
    ):
        reading.read(address, RATE)
    some = read_manifest(tmp_path / "out", on_bad="skip")
    assert 0 < len(some) < 12 and len(some) + len(some.skipped) == 12
    assert main(["validate", str(tmp_path / "out")]) == 2
    shard.write_bytes(data.replace(b"fLaC", b"none"))
    with pytest.raises(UserError, match=r"\.flac: corrupt, or not audio"):
        reading.read(str(_scp(tmp_path / "out")["id00000/a.b/00000.flac"]), RATE)
    shard.unlink()
    with pytest.raises(UserError, match="shard-000000.tar: no such file"):
        read_manifest(tmp_path / "out")
    with pytest.raises(UserError, match="never read from a list"):
        reading.read("nowhere://bucket/a.tar:512:100.wav", RATE)


def test_a_machine_without_descriptors_is_not_the_fault_of_a_shard(
    kaldi: Path, tmp_path: Path
) -> None:
    resource = pytest.importorskip("resource")
    write_shards(kaldi, tmp_path / "out")
    path = read_manifest(tmp_path / "out").utterances[0].path
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(MachineError, match="Too many open files"):
            reading.read(path, RATE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in taken:
            os.close(descriptor)


def test_a_killed_writer_leaves_no_half_shard_under_its_name(
    kaldi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(writer: ShardWriter) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ShardWriter, "close", dies)
    with pytest.raises(KeyboardInterrupt):
        write_shards(kaldi, tmp_path / "out")
    assert not list((tmp_path / "out").glob("shard-*"))
    assert not (tmp_path / "out/wav.scp").exists()
    monkeypatch.undo()
    assert len(write_shards(kaldi, tmp_path / "out")) == 12


class Store:
    """A file system of fsspec whose files appear when they are closed, as those of S3 do."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def open(self, path: str, mode: str) -> io.BytesIO:
        held = self.held

        class Upload(io.BytesIO):
            def close(self) -> None:
                if not self.closed:
                    held[path] = self.getvalue()
                super().close()

            __del__ = close  # fsspec's do so, too

        return Upload()

    def glob(self, pattern: str) -> list[str]:
        return fnmatch.filter(self.held, pattern)

    def rm(self, path: str) -> None:
        del self.held[path]


def test_a_broken_run_leaves_no_half_shard_in_a_store(
    kaldi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(writer: ShardWriter, utterance: Utterance, data: bytes, extension: str) -> str:
        if writer._members == 5:
            raise OSError("the network is down")
        return add(writer, utterance, data, extension)

    store = Store()
    add = ShardWriter.add
    monkeypatch.setattr(ShardWriter, "add", breaks)
    monkeypatch.setattr(shards, "open_store", lambda target: (store, "bucket"))
    with pytest.raises(UserError, match="the network is down"):
        write_shards(kaldi, tmp_path / "out", store="s3://bucket/shards")
    gc.collect()
    assert store.held == {}


def test_a_directory_is_not_written_over(kaldi: Path) -> None:
    before = (kaldi / "wav.scp").read_text()
    with pytest.raises(UserError, match="holds a Kaldi directory already"):
        write_shards(kaldi, kaldi)
    assert (kaldi / "wav.scp").read_text() == before
    assert not list(kaldi.glob("*.tar"))


def test_what_cannot_be_read_is_listed(kaldi: Path, tmp_path: Path) -> None:
    path = Path(read_manifest(kaldi).utterances[4].path)
    path.write_bytes(b"not audio")
    shards = write_shards(kaldi, tmp_path / "out")
    assert len(shards) == 11
    assert "id00004/a.b/00004.flac\tcannot be read: " in (tmp_path / "out/skipped.tsv").read_text()


def _scp(folder: Path) -> dict[str, members.Member]:
    lines = (line.split(None, 1) for line in (folder / "wav.scp").read_text().splitlines())
    found = {name: members.parse(path) for name, path in lines}
    return {name: member for name, member in found.items() if member is not None}


def _offset(folder: Path, name: str) -> int:
    return _scp(folder)[name].offset


def test_tarfile_and_webdataset_read_them(kaldi: Path, tmp_path: Path) -> None:
    write_shards(kaldi, tmp_path / "out", megabytes=1)
    paths = {name: reading.read(path, RATE) for name, path in _paths(kaldi).items()}
    shards = sorted((tmp_path / "out").glob("shard-*.tar"))
    names = []
    for shard in shards:
        with tarfile.open(shard) as archive:
            names += archive.getnames()
    assert len(names) == 24 and names[0].endswith(".flac") and names[1].endswith(".json")
    webdataset = pytest.importorskip("webdataset")
    seen = set()
    for sample in webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=False):
        about = json.loads(sample["json"])
        (tmp_path / "one.flac").write_bytes(sample["flac"])
        np.testing.assert_array_equal(reading.read(tmp_path / "one.flac", RATE), paths[about["id"]])
        seen.add(about["id"])
    assert seen == set(paths)


def _paths(folder: Path) -> dict[str, str]:
    return {utterance.id: utterance.path for utterance in read_manifest(folder)}


def made_up(shards: int, each: int) -> list[Utterance]:
    return [
        Utterance(
            f"{shard}-{number}", f"/none/shard-{shard:06d}.tar:{512 * number}:9.wav", seconds=2.0
        )
        for shard in range(shards)
        for number in range(each)
    ]


def test_shards_at_once_keeps_an_epoch_whole_and_local() -> None:
    crops = CropBatches(made_up(10, 20), PLAN, batch_size=8, shards_at_once=2)
    orders = [crops.order.rows(epoch).copy() for epoch in range(3)]
    for order in orders:
        assert sorted(order) == list(range(200))
        shard = order // 20
        for first in range(0, 200, 40):  # 40 utterances at a time come from 2 shards, well mixed
            part = shard[first : first + 40]
            assert len(set(part)) == 2
            assert (np.diff(part) != 0).sum() > 10
    assert any((orders[0] // 20 != other // 20).any() for other in orders[1:])
    again = CropBatches(made_up(10, 20), PLAN, batch_size=4, rank=1, world=2, shards_at_once=2)
    np.testing.assert_array_equal(
        again.order.rows(0), orders[0]
    )  # the same for any number of processes


def test_shards_at_once_needs_shards() -> None:
    files = [Utterance(str(n), f"/none/{n}.wav", seconds=2.0) for n in range(9)]
    with pytest.raises(
        UserError, match="data.shards_at_once=2: .* needs data.train to be directories of"
    ):
        CropBatches(files, PLAN, batch_size=4, shards_at_once=2)
    with pytest.raises(UserError, match="data.shards_at_once=0"):
        CropBatches(made_up(2, 9), PLAN, batch_size=4, shards_at_once=0)
