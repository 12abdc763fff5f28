"""Build an index of a file or folder of embeddings, a block at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from speechssl.clustering.streamed import picked
from speechssl.data.vectors.files import blocks_of
from speechssl.data.vectors.folder import VectorFolder, is_folder
from speechssl.errors import UserError, writing
from speechssl.evaluation.neighbours import layout, quantised
from speechssl.evaluation.neighbours.layout import About
from speechssl.evaluation.neighbours.search import Best, Index
from speechssl.evaluation.verification.scoring import unit
from speechssl.progress import progress

FLAT_BELOW = 1_000_000
"""Embeddings below which an index is exact."""

SHARD_ROWS = 1_000_000

QUERIES = 200
"""Embeddings whose neighbours are searched to measure the recall; as many others choose the probes."""

NEIGHBOURS = 10
"""Nearest others of each that are looked for."""

_TRAINING_ROWS = 40  # a list
_LEAST_TRAINING_ROWS = 50_000

Matrix = NDArray[np.float32]


class Source:
    """Embeddings a block at a time, of a file or a folder.

    Args:
        embeddings: file or folder.
        mean: (D,), which is subtracted; None: nothing is.

    Attributes:
        rows: N.
        dim: D.
    """

    def __init__(self, embeddings: str | Path, mean: Matrix | None = None) -> None:
        self._name = str(embeddings)
        self._mean = mean
        self._whole: list[tuple[list[str], Matrix]] | None = None
        if is_folder(embeddings):
            folder = VectorFolder(embeddings)
            self.rows = folder.rows
            self.dim = folder.dim
        else:  # a file is read once, and held
            self._whole = list(blocks_of(embeddings))
            self.rows = sum(len(ids) for ids, _ in self._whole)
            self.dim = self._whole[0][1].shape[1]
        if mean is not None and mean.shape != (self.dim,):
            raise UserError(
                f"{self._name}: embeddings of {self.dim} numbers and a mean of {mean.size}; use one"
                " model"
            )

    def blocks(self) -> Iterator[tuple[list[str], Matrix]]:
        """Yield ids and unit rows (n, D).

        Raises:
            UserError: numbers that are not finite.
        """
        for ids, block in self._whole or blocks_of(self._name):
            if not np.isfinite(block).all():
                raise UserError(f"{self._name}: holds numbers that are not finite; embed again")
            yield ids, unit(block if self._mean is None else block - self._mean)

    def sample(self, drawn: NDArray[np.int64]) -> Matrix:
        """Return unit rows (n, D) by their numbers, which ascend."""
        return picked((block for _, block in self.blocks()), drawn, self.dim)


def mean_of(embeddings: str | Path) -> Matrix:
    """Return the mean (D,) of a file or folder of embeddings."""
    total: Any = 0.0
    count = 0
    for ids, block in blocks_of(embeddings):
        total = total + block.sum(0, dtype=np.float64)
        count += len(ids)
    mean: Matrix = (total / count).astype(np.float32)
    return mean


def build_index(
    embeddings: str | Path,
    out: str | Path,
    *,
    mean: Matrix | None = None,
    kind: str = "auto",
    recall: float = 0.95,
    shard_rows: int = SHARD_ROWS,
    seed: int = 0,
) -> tuple[About, dict[str, Any]]:
    """Build an index and measure it.

    Memory: a block, the sample of the training, and for `ivfpq` the codes of a shard.

    Args:
        embeddings: file or folder of embeddings.
        out: folder of the index.
        mean: (D,), which is subtracted from embeddings and later from queries; None: nothing is.
        kind: `flat` (exact), `ivfpq`, or `auto`: flat below a million.
        recall: of the 10 nearest others, for which enough lists are looked into.
        shard_rows: rows of a shard.
        seed: of the sample and of k-means.

    Returns:
        What `index.json` holds; and `seconds`, `milliseconds` a query and `bytes` on disk.

    Raises:
        UserError: embeddings that cannot be read or are not finite; faiss is missing; the disk
            refused.
    """
    folder = Path(out)
    started_at = time.perf_counter()
    source = Source(embeddings, mean)
    about = About(
        kind=_kind(kind, source.rows, embeddings),
        dim=source.dim,
        shards=_shards(source.rows, shard_rows),
        has_mean=mean is not None,
        source=str(embeddings),
    )
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.choice(source.rows, min(2 * QUERIES, source.rows), replace=False))
    with writing(folder):
        _make_empty(folder)
        if mean is not None:
            np.save(folder / layout.MEAN, mean)
        trained = None
        if about.kind == "ivfpq":
            about, trained = _train(source, about, folder, rng, seed)
        truth = _write_rows(source, about, folder, drawn, trained)
        about = _measured(folder, about, source.sample(drawn), drawn, truth, recall)
        about.write(folder)
    milliseconds = _milliseconds(folder, source.sample(drawn[:50]))
    size = sum(path.stat().st_size for path in folder.iterdir())
    seconds = time.perf_counter() - started_at
    return about, {"seconds": seconds, "milliseconds": milliseconds, "bytes": size}


def _kind(wanted: str, rows: int, embeddings: str | Path) -> Literal["flat", "ivfpq"]:
    """Return the kind of an index of so many rows.

    Raises:
        UserError: they are too few for the kind that is wanted.
    """
    if wanted == "flat" or (wanted == "auto" and rows < FLAT_BELOW):
        return "flat"
    if rows < layout.CODES:
        raise UserError(
            f"{embeddings}: {rows} embeddings are too few for ivfpq, which needs"
            f" {layout.CODES}; leave --kind out"
        )
    return "ivfpq"


def _make_empty(folder: Path) -> None:
    """Make a folder without an index in it; one that a kill cut off has no `index.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / layout.ABOUT).unlink(missing_ok=True)
    for left_over in layout.shard_files(folder):
        left_over.unlink()


def _shards(rows: int, size: int) -> tuple[int, ...]:
    return tuple(min(size, rows - first) for first in range(0, rows, size))


def _train(
    source: Source, about: About, folder: Path, rng: np.random.Generator, seed: int
) -> tuple[About, tuple[Matrix, Matrix]]:
    """Fit lists and codes on a sample; return them, and `about` with their numbers."""
    lists = min(quantised.lists_for(source.rows), source.rows)
    code_bytes = quantised.code_bytes_for(source.dim)
    size = min(source.rows, max(_LEAST_TRAINING_ROWS, _TRAINING_ROWS * lists))
    rows = np.sort(rng.choice(source.rows, size, replace=False, shuffle=False))
    trained = quantised.train(source.sample(rows), lists, code_bytes, seed)
    np.save(folder / layout.CENTROIDS, trained[0])
    np.save(folder / layout.CODEBOOKS, trained[1])
    return replace(about, lists=lists, code_bytes=code_bytes, probes=1), trained


def _write_rows(
    source: Source,
    about: About,
    folder: Path,
    drawn: NDArray[np.int64],
    trained: tuple[Matrix, Matrix] | None,
) -> NDArray[np.int64]:
    """Write ids and shards; return the true nearest rows (Q, 11) of the rows `drawn`."""
    best = Best(source.sample(drawn), NEIGHBOURS + 1)
    shards = _ShardFiles(folder, about, trained)
    ends = np.lib.format.open_memmap(
        folder / layout.ID_ENDS, mode="w+", dtype=np.int64, shape=(about.rows,)
    )
    row = 0
    byte = 0
    with (
        (folder / layout.IDS).open("wb") as names,
        progress(about.rows, "index", "embeddings") as count,
    ):
        for ids, block in source.blocks():
            best.look_at(block, row)
            shards.add(block)
            encoded = [name.encode("utf-8", "surrogateescape") for name in ids]
            names.write(b"".join(encoded))
            lengths = np.array([len(name) for name in encoded], np.int64)
            ends[row : row + len(ids)] = byte + np.cumsum(lengths)
            byte += int(lengths.sum())
            row += len(ids)
            count(len(ids))
    ends.flush()
    return best.rows


class _ShardFiles:
    """Writes unit rows, and their codes, shard by shard.

    Args:
        folder: of the index.
        about: says how many rows each shard has.
        trained: centroids and codebooks of `ivfpq`; None: `flat`.
    """

    def __init__(self, folder: Path, about: About, trained: tuple[Matrix, Matrix] | None) -> None:
        self._folder = folder
        self._about = about
        self._codes = None if trained is None else quantised.ShardWriter(*trained)
        self._kind = np.float32 if trained is None else np.float16
        self._shard = 0
        self._filled = 0
        self._vectors: Any = None

    def add(self, block: Matrix) -> None:
        """Add unit rows (n, D)."""
        while len(block):
            size = self._about.shards[self._shard]
            if self._vectors is None:
                self._vectors = np.lib.format.open_memmap(
                    self._folder / layout.vectors_file(self._shard),
                    mode="w+",
                    dtype=self._kind,
                    shape=(size, self._about.dim),
                )
            here = block[: size - self._filled]
            block = block[len(here) :]
            self._vectors[self._filled : self._filled + len(here)] = here
            self._filled += len(here)
            if self._codes is not None:
                self._codes.add(here)
            if self._filled == size:
                self._end_shard()

    def _end_shard(self) -> None:
        self._vectors.flush()
        self._vectors = None
        if self._codes is not None:
            self._codes.write(self._folder, self._shard)
        self._shard += 1
        self._filled = 0


def _measured(
    folder: Path,
    about: About,
    queries: Matrix,
    drawn: NDArray[np.int64],
    truth: NDArray[np.int64],
    wanted: float,
) -> About:
    """Return `about` with as many probes as the wanted recall needs, and the recall that they give.

    Every second query chooses the probes; the recall is that of the others, which chose nothing.
    """
    measuring = np.arange(len(drawn)) % 2 == 0
    about = replace(about, recall_queries=int(measuring.sum()))
    if about.kind == "flat":
        return about
    index = Index(folder, about)

    def found(chosen: NDArray[np.bool_]) -> float:
        _, rows = index.nearest(queries[chosen], NEIGHBOURS + 1)
        return recall_of(rows, truth[chosen], drawn[chosen])

    probes = 1
    for probes in _numbers_of_probes(about.lists):
        index.set_probes(probes)
        if found(~measuring) >= wanted:
            break
    return replace(about, probes=probes, recall=found(measuring))


def _numbers_of_probes(lists: int) -> list[int]:
    """Return the numbers of lists to try: 1, 2, 3, 4, 6, 8, 12, 16, 24 ... and all of them."""
    numbers = {lists}
    power = 1
    while power < lists:
        numbers |= {power, min(3 * power, lists)}
        power *= 2
    return sorted(numbers)


def recall_of(rows: NDArray[np.int64], truth: NDArray[np.int64], own: NDArray[np.int64]) -> float:
    """Return the share of the true nearest others that were found; a row is no other of itself.

    Args:
        rows: (Q, K + 1) found, the nearest first; -1 where there are fewer.
        truth: (Q, K + 1) of an exact search.
        own: (Q,) the row that each query is.
    """
    hits = 0
    total = 0
    for found, true, row in zip(rows.tolist(), truth.tolist(), own.tolist(), strict=True):
        others = _others(true, row)
        hits += len(set(others) & set(_others(found, row)))
        total += len(others)
    return hits / max(1, total)


def _others(rows: list[int], own: int) -> list[int]:
    """Return the nearest `NEIGHBOURS` of rows that are there and not a query's own."""
    return [row for row in rows if row != own and row >= 0][:NEIGHBOURS]


def _milliseconds(folder: Path, queries: Matrix) -> float:
    """Return the time of a search for one query at a time, after one that warms up."""
    index = Index(folder)
    index.nearest(queries[:1], NEIGHBOURS)
    started_at = time.perf_counter()
    for query in queries:
        index.nearest(query[None], NEIGHBOURS)
    return 1000 * (time.perf_counter() - started_at) / len(queries)
