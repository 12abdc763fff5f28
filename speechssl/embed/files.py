"""`embed_to_file`: whatever audio one has, by one process or many, into one file of embeddings."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from speechssl import compat, parts
from speechssl.audio.remotes import Remotes
from speechssl.audio.walk import PassedOver
from speechssl.embed.batches import Failure
from speechssl.embed.cutting import MIX, count_mixed, cut
from speechssl.embed.embedder import Embedder
from speechssl.embed.onnx import copied
from speechssl.embed.outputs import Output, Plan, open_output
from speechssl.embed.partial import COPY
from speechssl.embed.settings import EmbedSettings
from speechssl.embed.sources import collect
from speechssl.embed.speech import stream_speech
from speechssl.embed.workers import Group, refuse_unguarded_script, run_processes
from speechssl.errors import UserError
from speechssl.nn.products import choose_kernel

_LOOKED_AT = 20  # recordings, for channels that are mixed


@dataclass(frozen=True, slots=True)
class Summary:
    """What came of a run of `embed_to_file`.

    Attributes:
        out: the file of embeddings.
        embedded: number of embeddings in it.
        failed: what could not be embedded, in the order of the inputs.
        failed_list: the file that lists them, if there is one.
        audio_seconds: audio that was embedded, seconds.
        wall_seconds: time it took, seconds.
        passed_over: number of files in the folders that are no audio.
        passed_over_list: the file that lists them, if there is one.
        mixed: of the first recordings, how many have channels that were mixed, and of how many.
    """

    out: str
    embedded: int
    failed: list[Failure]
    failed_list: str | None
    audio_seconds: float
    wall_seconds: float
    passed_over: int = 0
    passed_over_list: str | None = None
    mixed: tuple[int, int] = (0, 0)

    @classmethod
    def of(
        cls,
        output: Output,
        embedded: int,
        failed: list[Failure],
        audio_seconds: float,
        started_at: float,
        passed_over: Sequence[PassedOver],
    ) -> Summary:
        """Return the summary of a run that is done.

        Args:
            output: where the embeddings are.
            embedded: number of them.
            failed: what could not be embedded.
            audio_seconds: audio that was embedded.
            started_at: `time.monotonic` at the beginning.
            passed_over: files in the folders that are no audio.
        """
        return cls(
            output.name,
            embedded,
            failed,
            output.failed_list if failed else None,
            audio_seconds,
            wall_seconds=time.monotonic() - started_at,
            passed_over=len(passed_over),
            passed_over_list=output.passed_over_list if passed_over else None,
        )

    def __str__(self) -> str:
        text = (
            f"embedded {self.embedded} of {self.embedded + len(self.failed)} utterances"
            f" ({self.audio_seconds / 3600:.2f} h of audio in {self.wall_seconds:.1f} s)"
        )
        if self.failed:
            text += f"; {len(self.failed)} failed"
        if self.failed_list:
            text += f", listed in {self.failed_list}"
        if self.passed_over:
            text += f"; {self.passed_over} other files passed over"
        if self.passed_over_list:
            text += f", listed in {self.passed_over_list}"
        mixed, looked_at = self.mixed
        if mixed:
            text += (
                f"; {mixed} of the first {looked_at} recordings have several channels, which were"
                " mixed: --channels each embeds every one (calls with one side on each)"
            )
        return text


def embed_to_file(
    model: str | Path | Embedder,
    inputs: Sequence[str | Path],
    out: str | Path,
    settings: EmbedSettings | None = None,
    **changes: Any,
) -> Summary | None:
    """Embed all that `inputs` name into `out`, in the order of the inputs.

    Under torchrun every rank embeds its share and rank 0 writes `out`. Until the end,
    embeddings lie in the folder `<out>.parts`; an interrupted run leaves it behind, and
    `resume=True` goes on from it: with the same settings the result has the bits of a
    run without interruption. Utterances that cannot be embedded are listed in
    `<out>.failed` (id, path, reason, separated by tabs), or on standard error if `out`
    is `-`.

    Where `out` is a folder, every process writes parquet files into it, in the order in
    which embeddings come, and nothing gathers them; `resume=True` adds what is missing.

    Args:
        model: folder of a model or of a training run; or ``mfcc``, statistics without a
            model; or an `Embedder`, whose own settings then count (device, precision,
            batch_seconds, max_seconds, readers, layer).
        inputs: audio files, folders, wav.scp files, Kaldi directories, or `-` (paths on
            standard input).
        out: `.npz`, `.ark`/`.scp`, `.parquet`, or `-` (standard output, a line an
            utterance); a folder (`embeddings/`, or any name without an ending), or the
            address of one (`s3://bucket/embeddings`).
        settings: how; `EmbedSettings()` if not given.
        changes: settings by their names, such as ``device="cuda"`` or ``jobs=4``. Each of
            several jobs imports the script that calls this: put the call under
            ``if __name__ == "__main__":``.

    Returns:
        The summary; None on the ranks of torchrun that are not 0.

    Raises:
        UserError: a bad input, model or setting; nothing could be embedded; without
            `keep_going`, the first file that cannot be; another process is writing
            `out`.
    """
    refuse_unguarded_script()
    started_at = time.monotonic()
    settings = replace(settings or EmbedSettings(), **changes)
    settings.check(str(out))
    compat.tune_allocator()
    with Group() as group, open_output(str(out)) as output:
        if group.world > 1 and settings.jobs > 1:
            raise UserError("embed: --jobs and torchrun cannot be combined; use one of them")
        if isinstance(model, Embedder):
            embedder = model
            settings = settings.like(embedder)
        else:
            embedder = _load_in_parent(model, settings, group.local_rank)
        group.share(output.open)  # an `out` that cannot be written ends the run before the work
        plan = group.share(lambda: _make_plan(inputs, output, embedder, settings))
        if settings.jobs > 1:
            _embed_in_processes(plan, embedder, settings)
        else:
            _embed_share(group.rank, group.world, plan, embedder, settings)
        group.wait()
        if group.rank > 0:
            return None
        embedded, failed, audio_seconds = output.finish(plan)
    summary = Summary.of(output, embedded, failed, audio_seconds, started_at, plan.passed_over)
    return replace(summary, mixed=plan.mixed)


def _make_plan(
    inputs: Sequence[str | Path], output: Output, embedder: Embedder, settings: EmbedSettings
) -> Plan:
    """Find the utterances, and what an earlier run has left of them."""
    passed_over: list[PassedOver] = []
    recordings, skipped = collect(
        inputs, settings.allow_pipes, Remotes(settings.remote), passed_over
    )
    if skipped and not settings.keep_going:
        raise UserError(skipped[0].reason)
    done = output.begin(fingerprint(embedder, settings), settings.resume)
    output.list_passed_over(passed_over)
    cutting = settings.cutting
    if cutting.vad is not None and cutting.window is None:
        parts.build("vad", {"name": cutting.vad})  # what is not installed ends the run now
        cutting = replace(cutting, vad=None)  # speech is looked for while others are embedded
    found = cut(recordings[:: settings.every], cutting, settings.readers)
    if found.failures and not settings.keep_going:
        raise UserError(f"{found.failures[0].path}: {found.failures[0].reason}")
    skipped += found.failures
    first = recordings[: settings.every * _LOOKED_AT : settings.every]
    mixed = count_mixed(first) if settings.channels == MIX else 0
    return Plan(
        found.utterances,
        skipped,
        output.parts,
        output.folder,
        done,
        found.spans,
        passed_over,
        mixed=(mixed, len(first)),
    )


def _load_in_parent(model: str | Path, settings: EmbedSettings, local_rank: int) -> Embedder:
    """Load the model for this process; with several jobs it only reads it, for them to load."""
    if settings.jobs > 1:
        return load_model_for(model, "cpu", settings)
    return load_model_for(model, _own_device(settings.device, local_rank), settings)


def _embed_in_processes(plan: Plan, embedder: Embedder, settings: EmbedSettings) -> None:
    """Share the utterances among processes, which load a copy of the model."""
    settings = replace(settings, network=None, allow_code=packages_of(embedder))
    # Within the parts, which the next run clears if this one is killed.
    with tempfile.TemporaryDirectory(dir=plan.parts, prefix=COPY) as copy:
        model = copied(embedder.model, copy)
        count = max(1, min(settings.jobs, len(plan.utterances)))
        run_processes(count, plan.parts, _load_and_embed_share, count, plan, model, settings)


def packages_of(embedder: Embedder) -> tuple[str, ...]:
    """Return the packages whose parts a copy of a model may name: those that this process has built."""
    packages = set()
    for section in embedder.model.settings.values():
        packages.add(section["name"].partition(":")[0].partition(".")[0])
    return tuple(sorted(packages))


def _load_and_embed_share(
    rank: int, world: int, plan: Plan, model: str, settings: EmbedSettings
) -> None:
    """Do what `_embed_share` does, in a process of its own."""
    compat.tune_allocator()
    device = _own_device(settings.device, rank)
    embedder = load_model_for(model, device, settings)
    _embed_share(rank, world, plan, embedder, settings)


def _embed_share(
    rank: int, world: int, plan: Plan, embedder: Embedder, settings: EmbedSettings
) -> None:
    """Embed every `world`-th utterance, from the `rank`-th on, into parts.

    The shares do not depend on what is done already, and neither do their batches: an
    interrupted run ends in the bits of one without interruption.
    """
    share = plan.utterances[rank::world]
    if plan.spans:  # neighbouring windows are read together
        count = len(plan.utterances)
        share = plan.utterances[count * rank // world : count * (rank + 1) // world]
    writer = plan.writer()
    failed: list[Failure] = []
    audio_seconds = 0.0
    progress = settings.progress if rank == 0 else False
    if settings.vad is not None and settings.window is None:
        results = stream_speech(embedder, share, settings.vad, done=plan.done, progress=progress)
    else:
        results = embedder.stream(share, done=plan.done, progress=progress)
    try:
        for index, seconds, result in results:
            if not isinstance(result, Failure):
                writer.write(share[index].id, result, seconds)
                audio_seconds += seconds
            elif settings.keep_going:
                failed.append(result)
            else:
                raise UserError(f"{result.path}: {result.reason}")
    finally:
        writer.flush()  # for a later --resume
    writer.finish(rank, failed, audio_seconds)


def load_model_for(model: str | Path, device: str, settings: EmbedSettings) -> Embedder:
    """Return the model on a device, with the settings of `embed_to_file`."""
    return Embedder.from_pretrained(
        model,
        device,
        settings.precision,
        network=settings.network,
        features=settings.features,
        allow_code=settings.allow_code,
        batch_seconds=settings.batch_seconds,
        max_seconds=settings.max_seconds,
        readers=settings.readers,
        layer=settings.layer,
    )


def _own_device(device: str, rank: int) -> str:
    """Return the GPU of one process of several: `cuda` and `auto` are shared out among them."""
    count = torch.cuda.device_count()
    if device in ("auto", "cuda") and count > 1:
        return f"cuda:{rank % count}"
    return device


def fingerprint(embedder: Embedder, how: EmbedSettings) -> str:
    """Return a digest of what decides the embeddings.

    These are the model's settings and weights, the layer, the precision, the kernel of
    float32 products, the length of pieces, and the speech and channels that count (ids
    tell windows).
    """
    kernel = choose_kernel() if embedder.device.type == "cpu" else None
    settings = [
        embedder.model.settings,
        embedder.used_precision,
        kernel,
        embedder.max_seconds,
        embedder.layer,
    ]
    if how.vad is not None or how.channels != MIX:
        settings += [how.vad, how.channels]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in embedder.model.encoder.state_dict().items():
        digest.update(name.encode())
        as_bytes = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(as_bytes.numpy().tobytes())
    return digest.hexdigest()
