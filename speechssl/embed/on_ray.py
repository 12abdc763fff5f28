"""Embedding on a Ray cluster: Ray Data hands chunks of a corpus to actors, which write what they embed.

One actor has a GPU, or some cores, and one `Embedder`. A chunk (some thousand utterances) becomes
one file of the output folder, whose name is a function of its ids: if Ray repeats a chunk because a
worker was lost, the same file is written again. So every utterance is there once, and only counts
and failures come back to the process that started it all.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl import compat
from speechssl.audio.remotes import Remotes
from speechssl.audio.walk import PassedOver
from speechssl.data.manifest import Utterance
from speechssl.data.vectors.folder import ENDING
from speechssl.data.vectors.folder_writer import part_bytes
from speechssl.data.vectors.places import Place
from speechssl.embed.batches import Failure
from speechssl.embed.cutting import cut
from speechssl.embed.embedder import Embedder
from speechssl.embed.lists import Slice, is_list, read_ids, read_slice, slices
from speechssl.embed.settings import EmbedSettings
from speechssl.embed.sources import collect
from speechssl.errors import UserError
from speechssl.foreign.onnx_file import SUFFIX

MOST_ROWS = 4096
"""Utterances of a chunk at most: what is done again if a worker is lost."""

_CHUNKS_OF_A_WORKER = 8  # at least, so that all end at about the same time
_FEWEST_ROWS = 64


@dataclass(frozen=True)
class Corpus:
    """What is embedded, in chunks.

    Attributes:
        chunks: each a list of utterances, or a slice of a list that its worker reads.
        count: recordings in all of them.
    """

    chunks: list[list[Utterance] | Slice]
    count: int


def find_chunks(
    inputs: Sequence[str | Path],
    settings: EmbedSettings,
    workers: int,
    passed_over: list[PassedOver],
) -> tuple[Corpus, list[Failure]]:
    """Find what is embedded; of parquet lists only the ids are read, and 8 bytes of each kept.

    Args:
        inputs: as for `sources.collect`, and lists.
        settings: as for `embed_to_file`.
        workers: actors.
        passed_over: gets an entry for each file of a folder that is no audio.

    Returns:
        The chunks, and the lines of Kaldi files that cannot be used.

    Raises:
        UserError: as `sources.collect`; two rows have one id, in whichever lists; or `every`,
            which needs one list of all.
    """
    lists = [str(name) for name in inputs if is_list(Path(name))]
    others = [name for name in inputs if str(name) not in lists]
    if lists and settings.every > 1:
        raise UserError("embed: --every needs recordings, not lists, with --engine ray")
    utterances: list[Utterance] = []
    skipped: list[Failure] = []
    if others:
        remotes = Remotes(settings.remote)
        utterances, skipped = collect(others, settings.allow_pipes, remotes, passed_over)
        utterances = utterances[:: settings.every]
    pieces = [piece for path in lists for piece in slices(path, MOST_ROWS)]
    _refuse_duplicates(utterances, lists)
    size = len(utterances) // (_CHUNKS_OF_A_WORKER * workers)
    size = min(MOST_ROWS, max(_FEWEST_ROWS, size))
    chunks: list[list[Utterance] | Slice] = []
    for first in range(0, len(utterances), size):
        chunks.append(utterances[first : first + size])
    chunks += pieces
    return Corpus(chunks, len(utterances) + sum(piece.rows for piece in pieces)), skipped


def _refuse_duplicates(utterances: Sequence[Utterance], lists: Sequence[str]) -> None:
    """Raise UserError if two rows of all lists and utterances have the same id, as one process does.

    Without it both would be embedded, each by its own worker.
    """
    if not lists:
        return  # `sources.collect` has looked
    parts = [digests([one.id for one in utterances])]
    for path in lists:
        parts += [digests(ids) for ids in read_ids(path)]
    joined = np.sort(np.concatenate(parts))
    twice = joined[1:][joined[1:] == joined[:-1]]
    if not len(twice):
        return
    for path in lists:
        for ids in read_ids(path):
            for name in np.array(ids, dtype=object)[np.isin(digests(ids), twice)]:
                raise UserError(
                    f"embed: the id {name!r} stands in {path} and once more in what is to be"
                    " embedded; give every recording an id of its own"
                )


def digests(ids: Sequence[str]) -> NDArray[np.uint64]:
    """Return a number of 64 bits for each id: 8 bytes of a million ids that are done, not 80."""
    found = np.empty(len(ids), np.uint64)
    for row, name in enumerate(ids):
        data = name.encode("utf-8", "surrogateescape")
        found[row] = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
    return found


def part_name(ids: Sequence[str]) -> str:
    """Return the name of the file that holds the embeddings of a chunk."""
    data = "\0".join(ids).encode("utf-8", "surrogateescape")
    return f"part-{hashlib.blake2b(data, digest_size=16).hexdigest()}{ENDING}"


class ChunkEmbedder:
    """What an actor does: a chunk in, a file of the folder and a report out.

    Args:
        model: files of a model folder, or an ONNX file, by name.
        out: path or address of the folder.
        settings: as for `embed_to_file`.
        done: sorted `digests` of the ids that are not wanted again.
        threads: of the encoder.
    """

    def __init__(
        self,
        model: dict[str, bytes],
        out: str,
        settings: EmbedSettings,
        done: Any,
        threads: int,
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        compat.tune_allocator()
        self.settings = settings
        self.place = Place(out)
        self.done = _fetched(done)
        with tempfile.TemporaryDirectory() as folder:
            source = folder
            for name, data in _fetched(model).items():
                path = Path(folder, name)
                path.write_bytes(data)
                if path.suffix == SUFFIX:
                    source = str(path)
            self.embedder = Embedder.from_pretrained(
                source,
                settings.device,
                settings.precision,
                features=settings.features if source != folder else None,
                allow_code=settings.allow_code,
                batch_seconds=settings.batch_seconds,
                max_seconds=settings.max_seconds,
                readers=settings.readers,
                layer=settings.layer,
            )

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Embed the chunks of a batch of Ray Data; return a report each, as JSON."""
        # Our own bytes, from the process that started this one.
        reports = [self.embed(pickle.loads(data)) for data in batch["chunk"]]
        return {"report": np.array([json.dumps(report) for report in reports], dtype=object)}

    def embed(self, chunk: list[Utterance] | Slice) -> dict[str, Any]:
        """Embed a chunk and write its file.

        Returns:
            How many recordings it has, embeddings written and found done, seconds of audio, and the
            failures.

        Raises:
            UserError: without `keep_going`, the first failure.
        """
        failed: list[Failure] = []
        found = cut(self._read(chunk, failed), self.settings.cutting, self.settings.readers)
        failed += found.failures
        is_done = np.isin(digests([one.id for one in found.utterances]), self.done)
        wanted = [one for one, done in zip(found.utterances, is_done, strict=True) if not done]
        rows: dict[int, tuple[float, NDArray[np.float32]]] = {}
        for index, seconds, result in self.embedder.stream(wanted):
            if isinstance(result, Failure):
                failed.append(result)
            else:
                rows[index] = (seconds, result)
        if failed and not self.settings.keep_going:
            raise UserError(f"{failed[0].path}: {failed[0].reason}")
        order = sorted(rows)
        audio = [rows[index][0] for index in order]
        if order:
            ids = [wanted[index].id for index in order]
            spans = [found.spans[name] for name in ids if name in found.spans]
            vectors = np.stack([rows[index][1] for index in order])
            name = part_name([one.id for one in wanted])
            self.place.write(name, part_bytes(ids, vectors, audio, spans))
        return {
            "recordings": chunk.rows if isinstance(chunk, Slice) else len(chunk),
            "written": len(order),
            "done": int(is_done.sum()),
            "seconds": sum(audio),
            "failed": [asdict(failure) for failure in failed],
        }

    def _read(self, chunk: list[Utterance] | Slice, failed: list[Failure]) -> list[Utterance]:
        """Return the utterances of a chunk; rows of a list that cannot be used go to `failed`."""
        if not isinstance(chunk, Slice):
            return chunk

        def on_bad(name: str, reason: str) -> None:
            failed.append(Failure(name, chunk.path, reason))

        return read_slice(chunk, Remotes(self.settings.remote), on_bad)


def _fetched(reference: Any) -> Any:
    """Return what a reference to Ray's object store refers to; anything else as it is."""
    import ray

    return ray.get(reference) if isinstance(reference, ray.ObjectRef) else reference


def run_on_ray(
    corpus: Corpus,
    model: dict[str, bytes],
    out: str,
    settings: EmbedSettings,
    done: set[str],
    workers: int,
    worker_cpus: int,
    gpus: int,
) -> Iterator[dict[str, Any]]:
    """Embed the chunks on the cluster to which this process is connected.

    Ray Data gives an actor a chunk when it has room for one, repeats what a lost worker did not
    report, and starts another worker in its place.

    Args:
        corpus: the chunks.
        model: files of the model folder by name.
        out: path or address of the folder.
        settings: as for `embed_to_file`.
        done: ids that the folder has.
        workers: actors.
        worker_cpus: cores of an actor.
        gpus: GPUs of an actor, 0 or 1.

    Yields:
        The report of each chunk, in any order.

    Raises:
        UserError: a worker raised it.
    """
    import ray

    hashes = np.sort(digests(list(done)))
    rows = [{"chunk": pickle.dumps(chunk)} for chunk in corpus.chunks]
    device = "cuda" if gpus else settings.device
    arguments = {
        "model": ray.put(model),
        "out": out,
        "settings": replace(settings, device=device, network=None, progress=False),
        "done": ray.put(hashes),
        "threads": worker_cpus,
    }
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        ChunkEmbedder,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
        fn_constructor_kwargs=arguments,
        num_cpus=worker_cpus,
        num_gpus=gpus,
    )
    try:
        for row in data.iter_rows():
            yield json.loads(row["report"])
    except Exception as error:
        reason = _users_mistake(error)
        if reason is None:
            raise
        raise UserError(reason) from None


def _users_mistake(error: BaseException | None) -> str | None:
    """Return the message of the UserError behind an error of Ray, or None."""
    for _ in range(10):  # RayTaskError in UserCodeException in ...
        if error is None:
            return None
        if isinstance(error, UserError):
            # Ray makes a traceback of it, whose last line has the message.
            last = str(error).strip().splitlines()[-1]
            return last.rpartition(f"{UserError.__name__}: ")[2]
        error = getattr(error, "cause", None) or error.__cause__
    return None
