"""`embed_corpus`: the embeddings of any number of recordings, by a Ray cluster, into a folder."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from speechssl.audio.walk import PassedOver
from speechssl.embed import on_ray
from speechssl.embed.batches import Failure
from speechssl.embed.embedder import Embedder
from speechssl.embed.files import Summary, fingerprint, load_model_for, packages_of
from speechssl.embed.folders import means_folder
from speechssl.embed.onnx import copied
from speechssl.embed.outputs import FolderOutput, list_failed, nothing_embedded
from speechssl.embed.ray_cluster import RaySettings, cluster
from speechssl.embed.settings import EmbedSettings
from speechssl.embed.workers import refuse_unguarded_script
from speechssl.errors import UserError
from speechssl.progress import progress


def embed_corpus(
    model: str | Path | Embedder,
    inputs: Sequence[str | Path],
    out: str | Path,
    settings: EmbedSettings | None = None,
    ray: RaySettings | None = None,
    **changes: Any,
) -> Summary:
    """Embed all that `inputs` name into a folder of parquet files, by the workers of a Ray cluster.

    The numbers are those of `embed_to_file`. Workers write; they must see the recordings and the
    folder under the names that are given here (a shared disk, or addresses). `resume=True` adds what
    the folder lacks.

    Args:
        model: as for `embed_to_file`; its files are sent to the workers.
        inputs: as for `embed_to_file`. Of lists (`.parquet` with columns `id` and `path`) only the
            workers hold rows.
        out: a folder, or its address.
        settings: how; `EmbedSettings()` if not given.
        ray: where; None: a cluster on this machine, for this run.
        changes: settings by their names.

    Raises:
        UserError: as `embed_to_file`; `out` is no folder; or Ray is missing or has too few cores.
    """
    refuse_unguarded_script()
    started_at = time.monotonic()
    ray = ray or RaySettings()
    settings = replace(settings or EmbedSettings(), **changes)
    _check(settings, str(out))
    with FolderOutput(str(out)) as output, cluster(ray) as (workers, gpus):
        embedder = model if isinstance(model, Embedder) else load_model_for(model, "cpu", settings)
        output.open()
        passed_over: list[PassedOver] = []
        corpus, failed = on_ray.find_chunks(inputs, settings, workers, passed_over)
        if failed and not settings.keep_going:
            raise UserError(failed[0].reason)
        if not corpus.count:
            raise nothing_embedded(failed)
        done = output.begin(fingerprint(embedder, settings), settings.resume)
        output.list_passed_over(passed_over)
        settings = replace(settings, allow_code=packages_of(embedder))
        reports = on_ray.run_on_ray(
            corpus,
            _files_of(embedder),
            _absolute(str(out)),
            settings,
            done,
            workers,
            ray.worker_cpus,
            gpus,
        )
        with progress(corpus.count, "embed", "utt", show=settings.progress) as count:
            embedded, audio_seconds = _add_up(reports, failed, count)
        list_failed(output.failed_list, failed)
        if not embedded:
            raise nothing_embedded(failed)
    return Summary.of(output, embedded, failed, audio_seconds, started_at, passed_over)


def _check(settings: EmbedSettings, out: str) -> None:
    """Raise UserError if the settings or `out` do not go together with a cluster."""
    settings.check(out)
    if settings.jobs > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("embed: --engine ray starts its own workers; leave --jobs and torchrun out")
    if not means_folder(out):
        raise UserError(f"--engine ray writes a folder: give {Path(out).with_suffix('')}/")


def _add_up(
    reports: Iterable[dict[str, Any]], failed: list[Failure], count: Callable[[int], None]
) -> tuple[int, float]:
    """Add up what the workers report (`ChunkEmbedder.embed`), as it comes.

    Args:
        reports: one a chunk.
        failed: gets the failures.
        count: is called with the number of recordings of each chunk.

    Returns:
        Embeddings that the folder has of them, and the seconds of audio that were embedded.
    """
    embedded = 0
    audio_seconds = 0.0
    for report in reports:
        failed += [Failure(**failure) for failure in report["failed"]]
        embedded += report["written"] + report["done"]
        audio_seconds += report["seconds"]
        count(report["recordings"])
    return embedded, audio_seconds


def _files_of(embedder: Embedder) -> dict[str, bytes]:
    """Return the files of a model folder, or an ONNX file, by name."""
    with tempfile.TemporaryDirectory() as folder:
        copied(embedder.model, folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _absolute(out: str) -> str:
    """Return a path that means the same in another process; an address as it is."""
    return out if "://" in out else str(Path(out).absolute())
