"""Tar shards: the utterances of a Kaldi directory in a few large files.

Disks and remote stores like them better than a million small ones. The layout is that of the
webdataset library: `00000012.flac` and `00000012.json` (its id and seconds) beside each other, so
that other programs can stream the shards. Next to the shards stands a Kaldi directory whose wav.scp
says where in which shard each utterance lies (`speechssl.audio.members`), so training, embedding
and checking work from shards as they do from files, crop for crop. Utterances are spread over the
shards at random: a shard is a sample of the whole.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from speechssl import locks
from speechssl.audio import reading
from speechssl.audio.remotes import Remotes, is_address
from speechssl.data.kaldi import report_skipped
from speechssl.data.manifest import Manifest, Utterance, read_manifest, write_manifest
from speechssl.data.shard_writer import FileSystem, ShardWriter, open_store
from speechssl.errors import (
    MachineError,
    Unreadable,
    UserError,
    refuse_without_descriptors,
    writing,
)
from speechssl.files import write_text
from speechssl.pools import map_ahead
from speechssl.progress import counted
from speechssl.text import plural
from speechssl.threads import usable_cores

Format = Literal["flac", "wav"]


def write_shards(
    directory: str | Path,
    out: str | Path,
    *,
    store: str | None = None,
    format: Format = "flac",
    megabytes: int = 512,
    seed: int = 0,
    jobs: int | None = None,
    remotes: Remotes | None = None,
) -> Manifest:
    """Write the utterances of a Kaldi directory into OUT/shard-000000.tar ... and OUT/wav.scp ...

    Whole files that are in `format` already are copied byte by byte; others, and pieces and channels
    of files, are decoded and written as one channel of 16 bits at their own rate. Labels stay beside the
    shards, in utt2<label>. What cannot be read is left out, counted, and listed in OUT/skipped.tsv.

    Args:
        directory: the Kaldi directory to read.
        out: the Kaldi directory to write.
        store: where the shards go: a folder or an address (s3://bucket/name) with a protocol of
            `remotes.STORES`; else OUT.
        format: flac (half the bytes) or wav (a crop is cut out without decoding).
        megabytes: size at which a shard is full.
        seed: of the order.
        jobs: files at a time; all cores if not given.
        remotes: addresses that wav.scp of the directory may name; None: none.

    Raises:
        UserError: the directory is bad, OUT holds a Kaldi directory or the store shards already,
            the store cannot be written, another process writes, or no utterance can be read.
    """
    if store is not None and is_address(store):
        Remotes([store])  # refuses what could not be read again
    manifest = read_manifest(directory, "all", on_bad="skip", remotes=remotes)
    out = Path(out)
    target = store or os.path.abspath(out)
    with (
        locks.sole_writer_in(out),
        _lock_of_store(target, out),
        unfinished(out, target) as opened,
    ):
        file_system, folder = opened
        order = np.random.default_rng(seed).permutation(len(manifest))
        utterances = [manifest.utterances[row] for row in order]
        skipped = [(name, f"bad line: {reason}") for name, reason in manifest.skipped]
        shards = ShardWriter(file_system, folder, target, megabytes * 10**6)
        packed = _pack_all(utterances, shards, format, jobs, skipped)
        if not packed:
            raise UserError(f"{directory}: no utterance can be read; the first: {skipped[0][1]}")
        packed.sort(key=lambda utterance: utterance.id)
        written = Manifest(packed, manifest.labels, skipped=skipped)
        left_out = report_skipped(skipped, out)
        write_manifest(written, out)  # last: a directory without wav.scp is not complete
    hours = written.seconds / 3600
    print(
        f"{out}: {len(written)} utterances, {hours:.2f} h, in"
        f" {plural(shards.count, 'shard')}{left_out}",
        file=sys.stderr,
    )
    return written


@contextlib.contextmanager
def unfinished(out: Path, target: str) -> Iterator[tuple[FileSystem, str]]:
    """Open the store, and mark OUT as unfinished as long as the block runs.

    If the block fails, its shards are removed. If it is killed, the mark stays, and the next run
    begins by removing them.

    Yields:
        The file system of the store, and the folder there.

    Raises:
        UserError: the store cannot be used, or there are shards or a Kaldi directory that no
            unfinished run has left.
    """
    mark = out / ".unfinished"
    is_left_over = mark.exists() and mark.read_bytes() == os.fsencode(target)
    wav_scp = out / "wav.scp"
    if wav_scp.exists() and not is_left_over:
        raise UserError(f"{out}: holds a Kaldi directory already; give another one, or remove it")
    file_system, folder = open_store(target)
    if is_left_over:
        _remove_set(out, file_system, folder)
    shards = file_system.glob(f"{folder}/shard-*.tar")
    if shards:
        raise UserError(
            f"{target}: holds {plural(len(shards), 'shard')} already; remove them, or give another store"
        )
    with writing(out):
        write_text(mark, target)
    try:
        yield file_system, folder
    except BaseException:
        with contextlib.suppress(Exception):  # what stays, the next run removes
            _remove_set(out, file_system, folder)
            mark.unlink()
        raise
    mark.unlink()


def _remove_set(out: Path, file_system: FileSystem, folder: str) -> None:
    """Remove wav.scp first, then the shards."""
    (out / "wav.scp").unlink(missing_ok=True)
    for pattern in ("shard-*.tar", ".shard-*.tar.partial"):
        for path in file_system.glob(f"{folder}/{pattern}"):
            file_system.rm(path)


def _lock_of_store(target: str, out: Path) -> contextlib.AbstractContextManager[None]:
    """Return the lock of a store that is another folder of this machine."""
    if "://" in target or Path(target).resolve() == out.resolve():
        return contextlib.nullcontext()
    return locks.sole_writer_in(target)


def _pack_all(
    utterances: list[Utterance],
    shards: ShardWriter,
    format: Format,
    jobs: int | None,
    skipped: list[tuple[str, str]],
) -> list[Utterance]:
    """Do what `_pack` says and close the last shard, of a broken run, too.

    Stores show a file when it is closed, and its object may do so whenever it is collected: it must
    be there before `unfinished` removes what a broken run has left.

    Raises:
        UserError: the store cannot be written.
    """
    try:
        try:
            packed = _pack(utterances, shards, format, jobs, skipped)
        finally:
            shards.close()
    except (UserError, MachineError):
        raise
    except Exception as error:  # stores have errors of their own
        raise UserError(
            f"{shards.target}: cannot be written ({error}); make room, or give another store"
        ) from error
    return packed


def _pack(
    utterances: list[Utterance],
    shards: ShardWriter,
    format: Format,
    jobs: int | None,
    skipped: list[tuple[str, str]],
) -> list[Utterance]:
    """Write utterances into shards.

    Args:
        utterances: what to write, in this order.
        shards: where to.
        format: of each member.
        jobs: files at a time; None: all cores.
        skipped: (id, reason) of each utterance that cannot be read is added.

    Returns:
        The utterances that were written, with their addresses as paths.
    """
    encode = functools.partial(_encode, format=format)
    shown = counted(utterances, len(utterances), "writing", "files")
    packed = []
    ahead = map_ahead(encode, shown, max(1, jobs or usable_cores()))
    with contextlib.closing(ahead) as encoded:
        for utterance, data in zip(utterances, encoded, strict=True):
            if isinstance(data, Unreadable):
                skipped.append((utterance.id, f"cannot be read: {data.reason}"))
                continue
            address = shards.add(utterance, data, format)
            packed.append(Utterance(utterance.id, address, seconds=utterance.seconds))
    return packed


def _encode(utterance: Utterance, format: Format) -> bytes | Unreadable:
    """Return the bytes of a file that holds the utterance, or why it cannot be read."""
    path = utterance.path
    is_whole_file = utterance.is_whole_file and os.path.isfile(path)
    try:
        rate = reading.info(path).rate
        if is_whole_file and path.lower().endswith(f".{format}"):
            return Path(path).read_bytes()
        samples = utterance.read(rate)
    except (UserError, OSError) as error:
        refuse_without_descriptors(error)
        return Unreadable(path, str(error))
    # libsndfile would multiply by 32,767 when it writes floats, and divides by 32,768 when it reads.
    steps = np.round(samples * 32768.0).clip(-32768, 32767).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, steps, rate, format=format.upper(), subtype="PCM_16")
    return file.getvalue()
