"""Tar shards: the utterances of a Kaldi directory in a few large files, which disks and stores like
    better.

Layout of the webdataset library: `00000012.flac` and `00000012.json` (its id and seconds) beside
each other, so that other programs can stream the shards. Here they are an addressing scheme, no
second way to load: next to the shards stands a Kaldi directory whose wav.scp says where in which
shard each utterance lies (`speechssl.audio.members`), so training, embedding and checking work from
shards as they do from files, crop for crop. Utterances are spread over the shards at random: a
shard is a sample of the whole.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import sys
import tarfile
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import soundfile

from speechssl import processes
from speechssl.audio import reading
from speechssl.audio.members import Member
from speechssl.data.kaldi import report_skipped
from speechssl.data.manifest import Manifest, Utterance, read_manifest, write_manifest
from speechssl.errors import UserError, writing
from speechssl.files import write_text
from speechssl.threads import usable_cores

Format = Literal["flac", "wav"]
_AHEAD = 64  # utterances encoded before they are written


def write_shards(
    directory: str | Path,
    out: str | Path,
    *,
    store: str | None = None,
    format: Format = "flac",
    megabytes: int = 512,
    seed: int = 0,
    jobs: int | None = None,
) -> Manifest:
    """Write the utterances of a Kaldi directory into OUT/shard-000000.tar ... and OUT/wav.scp ...

    Whole files that are in `format` already are copied byte by byte; others, and pieces of files,
    are decoded and written as one channel of 16 bits at their own rate. Labels stay beside the
    shards, in utt2<label>. What cannot be read is left out, counted, and listed in OUT/skipped.tsv.

    Args:
        directory: the Kaldi directory to read.
        out: the Kaldi directory to write.
        store: where the shards go: a folder or any URL that fsspec knows (s3://bucket/name); else
            OUT.
        format: flac (half the bytes) or wav (a crop is cut out without decoding).
        megabytes: size at which a shard is full.
        seed: of the order.
        jobs: files at a time; all cores if not given.

    Raises:
        UserError: a bad directory, shards of a complete run that are there already, a store that
            cannot be written, another process that writes, or no utterance that can be read.
    """
    manifest = read_manifest(directory, "all", on_bad="skip")
    out = Path(out)
    target = store or os.path.abspath(out)
    with processes.sole_writer_in(out), _local_lock(target, out):
        return _write_shards(manifest, directory, out, target, format, megabytes, seed, jobs)


def _local_lock(target: str, out: Path) -> contextlib.AbstractContextManager[None]:
    """The lock of a store that is another folder of this machine."""
    if "://" in target or Path(target).resolve() == out.resolve():
        return contextlib.nullcontext()
    return processes.sole_writer_in(target)


def _write_shards(
    manifest: Manifest,
    directory: str | Path,
    out: Path,
    target: str,
    format: Format,
    megabytes: int,
    seed: int,
    jobs: int | None,
) -> Manifest:
    """What `write_shards` does, as the only writer of the directory."""
    files, folder = _empty_store(target, out)
    before = _written_at(out)
    order = np.random.default_rng(seed).permutation(len(manifest))
    shards = _Shards(files, folder, target, megabytes * 10**6)
    utterances, skipped = [], [(name, f"bad line: {reason}") for name, reason in manifest.skipped]
    chosen = [manifest.utterances[row] for row in order]
    encode = functools.partial(_encoded, format=format)
    encoded = _ahead(encode, _progress(chosen), jobs)
    try:
        for utterance, data in zip(chosen, encoded, strict=True):
            if isinstance(data, str):
                skipped.append((utterance.id, data))
                continue
            address = shards.add(utterance, data, format)
            utterances.append(Utterance(utterance.id, address, seconds=utterance.seconds))
        shards.close()
        if not utterances:
            raise UserError(f"{directory}: no utterance can be read; the first: {skipped[0][1]}")
        written = Manifest(sorted(utterances, key=lambda u: u.id), manifest.labels, skipped=skipped)
        write_manifest(written, out)  # last: a directory without wav.scp is not complete
    except BaseException as error:
        encoded.close()
        with contextlib.suppress(Exception):
            shards.close()
        if _written_at(out) == before:  # else it is complete
            with contextlib.suppress(Exception):  # what stays, the next run removes
                _remove_shards(files, folder)
                _unfinished(out).unlink()
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        raise UserError(  # stores have errors of their own
            f"{target}: cannot be written ({error}); make room, or give another store"
        ) from error
    left_out = report_skipped(skipped, out)
    _unfinished(out).unlink()
    hours = written.seconds / 3600
    print(
        f"{out}: {len(written)} utterances, {hours:.2f} h, in {shards.count} shards{left_out}",
        file=sys.stderr,
    )
    return written


class _Shards:
    """The shard being written: `add` gives the address of what it wrote, and begins a new shard
    when full.
    """

    def __init__(self, files: Any, folder: str, target: str, limit: int) -> None:
        self.files, self.folder, self.target, self.limit = files, folder, target.rstrip("/"), limit
        self.count = self.number = self.place = 0
        self.name = ""
        self.file: BinaryIO | None = None

    def add(self, utterance: Utterance, data: bytes, extension: str) -> str:
        if self.file is None or self.place + len(data) > self.limit:
            self.close()
            self.name = f"shard-{self.count:06d}.tar"
            self.file, self.place = self.files.open(f"{self.folder}/{self.name}", "wb"), 0
            self.count += 1
        key = f"{self.number:08d}"
        self.number += 1
        about = {"id": utterance.id, "seconds": utterance.seconds}
        offset = self._write(f"{key}.{extension}", data)
        self._write(f"{key}.json", json.dumps(about).encode())
        return str(Member(f"{self.target}/{self.name}", offset, len(data), f".{extension}"))

    def _write(self, name: str, data: bytes) -> int:
        """Add a member; returns the byte where its data begin."""
        assert self.file is not None
        header = tarfile.TarInfo(name)
        header.size = len(data)
        block = header.tobuf(tarfile.USTAR_FORMAT)
        begin = self.place + len(block)
        self.place = begin + -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        self.file.write(block + data + bytes(self.place - begin - len(data)))
        return begin

    def close(self) -> None:
        if self.file is not None:
            file, self.file = self.file, None
            with file:
                file.write(bytes(2 * tarfile.BLOCKSIZE))  # a tar ends with two empty blocks


def _unfinished(out: Path) -> Path:
    """The file that names the store while its shards are being written."""
    return out / ".unfinished"


def _written_at(out: Path) -> int | None:
    """When wav.scp, the last file of a complete set, was written."""
    wav_scp = out / "wav.scp"
    return wav_scp.stat().st_mtime_ns if wav_scp.exists() else None


def _remove_shards(files: Any, folder: str) -> None:
    for path in files.glob(f"{folder}/shard-*.tar"):
        files.rm(path)


def _empty_store(target: str, out: Path) -> tuple[Any, str]:
    """(file system, folder) of the store; shards of a run that was killed are removed.

    Raises:
        UserError: the store cannot be used, or holds the shards of a run that ended.
    """
    import fsspec

    mark = _unfinished(out)
    try:
        files, folder = fsspec.core.url_to_fs(target)
        files.makedirs(folder, exist_ok=True)
        if mark.exists() and mark.read_text(encoding="utf-8") == target:
            (out / "wav.scp").unlink(missing_ok=True)
            _remove_shards(files, folder)
        there = files.glob(f"{folder}/shard-*.tar")
    except Exception as error:  # each of fsspec's file systems has errors of its own
        detail = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{target}: cannot be used as a store of shards ({detail}); check the address"
        ) from error
    if there:
        raise UserError(
            f"{target}: holds {len(there)} shards already; remove them, or give another store"
        )
    with writing(out):
        write_text(mark, target)
    return files, folder


def _encoded(utterance: Utterance, format: Format) -> bytes | str:
    """The bytes of a file that holds the utterance, or the reason why it cannot be read."""
    try:
        found = reading.info(utterance.path)
        whole = utterance.start == 0 and utterance.stop is None
        if (
            whole
            and os.path.isfile(utterance.path)
            and utterance.path.lower().endswith(f".{format}")
        ):
            return Path(utterance.path).read_bytes()
        samples = reading.read(utterance.path, found.rate, utterance.start, utterance.stop)
    except (UserError, OSError) as error:
        return f"cannot be read: {error}"
    # not left to libsndfile, which multiplies by 32,767 as it writes and divides by 32,768 as it
    # reads
    steps = np.round(samples * 32768.0).clip(-32768, 32767).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, steps, found.rate, format=format.upper(), subtype="PCM_16")
    return file.getvalue()


def _ahead(
    encode: Callable[[Utterance], bytes | str], utterances: Iterable[Utterance], jobs: int | None
) -> Generator[bytes | str, None, None]:
    """`encode` of each, in order, a bounded number ahead of whoever takes them."""
    waiting: deque[Future[bytes | str]] = deque()
    pool = ThreadPoolExecutor(max(1, jobs or usable_cores()))
    try:
        for utterance in utterances:
            waiting.append(pool.submit(encode, utterance))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _progress(utterances: list[Utterance]) -> Iterable[Utterance]:
    """A bar on a terminal, nothing elsewhere."""
    from tqdm import tqdm

    bar: Iterable[Utterance] = tqdm(utterances, unit="file", desc="writing", disable=None)
    return bar
