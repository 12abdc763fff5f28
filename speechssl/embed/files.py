"""`embed_to_file`: whatever audio one has, by one process or many, into one file of embeddings."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from speechssl import compat
from speechssl.data.manifest import Utterance
from speechssl.data.vectors.files import VectorWriter
from speechssl.embed.batches import Failure
from speechssl.embed.embedder import Embedder, Precision
from speechssl.embed.layers import EMBEDDING
from speechssl.embed.sources import collect
from speechssl.embed.workers import Group, PartWriter, merge, open_parts, reports, run_processes
from speechssl.errors import UserError


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run came to: embeddings in `out`, failures (listed in `failed_list`), audio and wall
    seconds.
    """

    out: str
    embedded: int
    failed: list[Failure]
    failed_list: str | None
    audio_seconds: float
    wall_seconds: float

    def __str__(self) -> str:
        text = (
            f"embedded {self.embedded} of {self.embedded + len(self.failed)} utterances"
            f" ({self.audio_seconds / 3600:.2f} h of audio in {self.wall_seconds:.1f} s)"
        )
        if self.failed:
            where = f", listed in {self.failed_list}" if self.failed_list else ""
            text += f"; {len(self.failed)} failed{where}"
        return text


@dataclass(frozen=True, slots=True)
class _Settings:
    """What a process needs to know besides its share of the utterances."""

    device: str
    precision: Precision
    batch_seconds: float
    max_seconds: float
    readers: int
    keep_going: bool
    progress: bool
    layer: str

    @classmethod
    def of(cls, embedder: Embedder, keep_going: bool, progress: bool) -> _Settings:
        e = embedder
        return cls(
            str(e.device),
            e.precision,
            e.batch_seconds,
            e.max_seconds,
            e.readers,
            keep_going,
            progress,
            e.layer,
        )

    def embedder(self, model: str | Path, device: str, network: str | None = None) -> Embedder:
        return Embedder.from_pretrained(
            model,
            device,
            self.precision,
            batch_seconds=self.batch_seconds,
            max_seconds=self.max_seconds,
            readers=self.readers,
            layer=self.layer,
            network=network,
        )


def embed_to_file(
    model: str | Path | Embedder,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    device: str = "cpu",
    precision: Precision = "float32",
    jobs: int = 1,
    readers: int = 2,
    batch_seconds: float = 60.0,
    max_seconds: float = 120.0,
    keep_going: bool = True,
    allow_pipes: bool = False,
    resume: bool = False,
    every: int = 1,
    layer: str = EMBEDDING,
    network: str | None = None,
    progress: bool | None = None,
) -> Summary | None:
    """Embed all that `inputs` name into `out`, in the order of the inputs, and say what came of it.

    Under torchrun every rank embeds its share and rank 0 writes `out`. Until then embeddings lie in
    the folder `<out>.parts`, which a broken run leaves behind for `resume`. Utterances that cannot
    be embedded are listed in `<out>.failed` (id, path, reason; tab-separated), or on standard error
    if `out` is `-`.

    Args:
        model: folder of a model or of a training run, or an `Embedder` (whose settings then count:
            device, precision, batch_seconds, max_seconds, readers, layer), or ``mfcc``, statistics
            without a model.
        inputs: audio files, folders, wav.scp files, Kaldi directories, or `-` (paths on standard
            input).
        out: `.npz`, `.ark`/`.scp`, `.parquet`, or `-` (standard output, a line an utterance).
        device: cpu, cuda, cuda:1 ...; with several processes, cuda is shared out among them.
        precision: of the encoder, float32 or bfloat16.
        jobs: processes on this machine, which share its cores or GPUs.
        readers: threads of each process that read and decode ahead.
        batch_seconds: seconds of audio encoded at once.
        max_seconds: longer recordings are embedded in pieces of at most this many seconds and
            averaged.
        keep_going: skip, count and list what cannot be embedded; otherwise the first such file ends
            the run.
        allow_pipes: run shell pipes in wav.scp.
        resume: go on from what a broken run left behind.
        every: embed every so many-th utterance only (a training mean or a cohort needs no more).
        layer: what is taken for the embedding (`speechssl.embed.layers`).
        network: student or teacher of a run (`speechssl.embed.networks`); None: the one that it
            saved.
        progress: show a progress bar (None: on a terminal).

    Returns:
        The summary; None on the ranks of torchrun that are not 0.

    Raises:
        UserError: a bad input, model or setting; nothing could be embedded; a bad file without
            `keep_going`.
    """
    started = time.monotonic()
    compat.tune_allocator()
    if jobs < 1 or every < 1 or (resume and str(out) == "-"):
        raise UserError(
            f"embed: jobs={jobs}, every={every}, resume={resume}, out={out}: give 1 job or more,"
            " every at least 1, and a file to resume"
        )
    shown = sys.stderr.isatty() if progress is None else progress
    with Group() as group, tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        if group.world > 1 and jobs > 1:
            raise UserError("embed: --jobs and torchrun cannot be combined; use one of them")
        settings = _Settings(
            device, precision, batch_seconds, max_seconds, readers, keep_going, shown, layer
        )
        if isinstance(model, Embedder):
            embedder = model
            settings = _Settings.of(embedder, keep_going, shown)
        else:
            place = "cpu" if jobs > 1 else _spread(device, group.local_rank)
            embedder = settings.embedder(model, place, network)

        writers: list[VectorWriter] = []

        def prepare() -> tuple[list[Utterance], list[Failure], Path, set[str]]:
            folder = Path(scratch) / "parts" if str(out) == "-" else Path(f"{out}.parts")
            writer = stack.enter_context(
                VectorWriter(out)
            )  # now: an `out` that cannot be written ends the run here
            utterances, skipped = collect(inputs, allow_pipes)
            utterances = utterances[::every]
            if skipped and not keep_going:
                raise UserError(skipped[0].reason)
            done = open_parts(folder, _fingerprint(embedder), resume)
            Path(f"{out}.failed").unlink(missing_ok=True)
            writers.append(writer)
            return utterances, skipped, folder, done

        utterances, skipped, folder, done = group.share(prepare)
        todo = [utterance for utterance in utterances if utterance.id not in done]
        if jobs == 1:
            _share(group.rank, group.world, todo, folder, embedder, settings)
        else:
            saved: str | Path = Path(scratch) / "model"
            embedder.save_pretrained(saved)
            run_processes(
                min(jobs, max(1, len(todo))),
                folder,
                _load_and_share,
                jobs,
                todo,
                folder,
                saved,
                settings,
            )
        group.wait()
        if group.rank:
            return None
        order = [utterance.id for utterance in utterances]
        failed, seconds = reports(folder, order)
        failed = [*skipped, *failed]
        failed_list = _list_failed(str(out), failed)
        rows = merge(folder, order, writers[0])
        if not rows:
            shutil.rmtree(folder)
            first = failed[0]
            raise UserError(
                f"embed: none of {len(failed)} utterances could be embedded; the first:"
                f" {first.path}: {first.reason}"
            )
        stack.close()  # `out` is in its place before the parts go
        shutil.rmtree(folder)
    return Summary(str(out), rows, failed, failed_list, seconds, time.monotonic() - started)


def _share(
    rank: int,
    world: int,
    utterances: Sequence[Utterance],
    folder: Path,
    embedder: Embedder,
    settings: _Settings,
) -> None:
    """Embed every `world`-th utterance from the `rank`-th on into parts in `folder`."""
    mine = utterances[rank::world]
    parts = PartWriter(folder)
    failed: list[Failure] = []
    total = 0.0
    try:
        for index, seconds, result in embedder.stream(
            mine, progress=settings.progress and rank == 0
        ):
            if not isinstance(result, Failure):
                parts.write(mine[index].id, result)
                total += seconds
            elif settings.keep_going:
                failed.append(result)
            else:
                raise UserError(f"{result.path}: {result.reason}")
    finally:
        parts.flush()  # for a later --resume
    parts.finish(rank, failed, total)


def _load_and_share(
    rank: int,
    world: int,
    utterances: Sequence[Utterance],
    folder: Path,
    model: str | Path,
    settings: _Settings,
) -> None:
    """`_share` in a process of its own."""
    compat.tune_allocator()
    _share(
        rank,
        world,
        utterances,
        folder,
        settings.embedder(model, _spread(settings.device, rank)),
        settings,
    )


def _spread(device: str, rank: int) -> str:
    """`cuda` (and `auto` with GPUs) becomes this process's own GPU."""
    if device in ("auto", "cuda") and torch.cuda.device_count() > 1:
        return f"cuda:{rank % torch.cuda.device_count()}"
    return device


def _fingerprint(embedder: Embedder) -> str:
    """A digest of what decides the numbers: settings, weights, layer, precision, length of
    pieces.
    """
    settings = [embedder.model.settings, embedder.precision, embedder.max_seconds, embedder.layer]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in embedder.model.encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def _list_failed(out: str, failed: Sequence[Failure]) -> str | None:
    """Write `<out>.failed`, or, if the embeddings go to standard output, the same lines to standard
    error.
    """
    lines = [f"{failure.id}\t{failure.path}\t{failure.reason}\n" for failure in failed]
    if not lines:
        return None
    if out == "-":
        sys.stderr.writelines(lines)
        return None
    Path(f"{out}.failed").write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
    return f"{out}.failed"
