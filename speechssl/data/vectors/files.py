"""Embedding files: one vector an utterance, in the format that the ending of the name means.

| path       | holds                                                                              |
|------------|------------------------------------------------------------------------------------|
| `x.npz`    | `ids` (N,) strings and `embeddings` (N, D) float32                                 |
| `x.ark`    | Kaldi's binary float vectors, and `x.scp` beside them, whichever of the two is named |
| `x.parquet`| columns `id` (string) and `embedding` (list of D float32); needs the extra `[scale]` |
| `-`        | standard output (or input): a line is the id and D numbers, separated by spaces    |
| a folder   | parquet files with these columns, read a block at a time (`folder.VectorFolder`)    |

Where each vector is a window of a recording, `x.npz` and `x.parquet` also hold `recording`, `start`,
`stop` (seconds) and `channel` (from 1; 0 is the mean of all), and `x.segments` lies beside `x.ark`: Kaldi's
`id recording start stop`. The ids say it in milliseconds in every format.

A format is a module of this folder that names ``FORMAT`` (`speechssl.data.vectors.format.Format`);
adding one is adding a file. Files are written under a temporary name and renamed when they are
complete, so a broken run leaves no half file.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechssl.data import vectors as folder
from speechssl.data.vectors.folder import BLOCK_ROWS, VectorFolder, is_folder
from speechssl.data.vectors.format import STANDARD_STREAM, AddVectors, Format, Span, Vectors
from speechssl.errors import UserError, writing
from speechssl.files import remove_partial


@cache
def formats() -> dict[str, Format]:
    """Return suffix -> format, from every module of this folder that names ``FORMAT``."""
    found: dict[str, Format] = {}
    for module in pkgutil.iter_modules(folder.__path__, prefix=f"{folder.__name__}."):
        chosen: Format | None = getattr(importlib.import_module(module.name), "FORMAT", None)
        if chosen is not None:
            found.update(dict.fromkeys(chosen.suffixes, chosen))
    return found


def format_of(path: str | Path) -> Format:
    """Return the format that the ending of a name means.

    Raises:
        UserError: it means none.
    """
    name = str(path)
    suffix = name if name == STANDARD_STREAM else Path(name).suffix.lower()
    known = formats()
    if suffix not in known:
        endings = ", ".join(sorted(known.keys() - {STANDARD_STREAM}))
        raise UserError(
            f"{path}: unknown kind of embeddings file; its name must end in {endings} (or be -)"
        )
    return known[suffix]


def read_vectors(path: str | Path, only: Collection[str] | None = None) -> Vectors:
    """Read embeddings; `-` is text on standard input.

    Values are not looked at: what to do with NaN is for the caller to decide.

    Args:
        path: a file, a folder of parquet files, or the address of one (`s3://bucket/embeddings`).
        only: ids that are wanted: those of a folder that are not named take no memory. The whole
            of a file is returned.

    Returns:
        Ids (N,) str and embeddings (N, D) float32, in the order of the file.

    Raises:
        UserError: the file is missing, of another kind or cut off, holds no vectors or vectors of
            different lengths, or an id occurs twice.
    """
    where = str(path)
    if is_folder(path):
        ids, embeddings = VectorFolder(path).read(only)
        if only is None or len(ids):
            _refuse_repeated(where, ids)
        return ids, embeddings
    if where != STANDARD_STREAM and not Path(path).suffix and not Path(path).exists():
        raise UserError(
            f"{path}: no such file or folder; give the embeddings written by `speechssl embed`"
        )
    chosen = format_of(path)
    if where == STANDARD_STREAM:
        where = "standard input"
    elif not Path(path).is_file():
        raise UserError(f"{path}: no such file; give the embeddings written by `speechssl embed`")
    ids, embeddings = chosen.read(Path(path))
    _refuse_repeated(where, ids)
    if not embeddings.shape[1]:
        raise UserError(f"{where}: its vectors have no numbers; write it again")
    return ids, embeddings


def read_sample(path: str | Path, most: int, seed: int = 0) -> Vectors:
    """Read embeddings for figures and pictures, which need not know all of them.

    Args:
        path: as for `read_vectors`.
        most: embeddings that are drawn by lot from a folder; files are read whole.
        seed: of the lot.
    """
    if is_folder(path):
        return VectorFolder(path).sample(most, seed)
    return read_vectors(path)


def blocks_of(path: str | Path) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """Yield ids and embeddings (n, D) of a file or folder; a folder is never held whole."""
    if is_folder(path):
        yield from VectorFolder(path).blocks()
        return
    ids, matrix = read_vectors(path)
    names = ids.tolist()
    for first in range(0, len(names), BLOCK_ROWS):
        yield names[first : first + BLOCK_ROWS], matrix[first : first + BLOCK_ROWS]


def _refuse_repeated(where: str, ids: NDArray[np.str_]) -> None:
    names, counts = np.unique(ids, return_counts=True)
    if not len(ids):
        raise UserError(f"{where}: holds no embeddings")
    if counts.max() > 1:
        repeated = int((counts > 1).sum())
        example = str(names[counts.argmax()])
        raise UserError(f"{where}: {repeated} ids occur twice (as {example!r}); ids must be unique")


def write_vectors(path: str | Path, ids: ArrayLike, vectors: ArrayLike) -> None:
    """Write ids (N,) and vectors (N, D) in the format that the ending means; see `VectorWriter`."""
    with VectorWriter(path) as writer:
        writer.write(ids, vectors)


class VectorWriter:
    """Writes vectors batch by batch: `with VectorWriter("emb.npz") as w: w.write(ids, vectors)`.

    `.ark`, `.parquet` and `-` are written as they come; `.npz` is held in memory (N x D x 4 bytes)
    to the end. Missing folders are made. If the block ends with an error, nothing is left behind,
    and an older file stays.

    Raises:
        UserError: the ending means no format, the file cannot be written, or nothing was written
            to it.
    """

    _add: AddVectors

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._format = format_of(self.path)
        self._seen: set[str] = set()
        self._dim: int | None = None

    def __enter__(self) -> VectorWriter:
        path = Path(self.path)
        with writing(self.path):
            if self.path != STANDARD_STREAM:
                path.parent.mkdir(parents=True, exist_ok=True)
                for suffix in self._format.suffixes:  # x.ark and x.scp are written together
                    remove_partial(path.with_suffix(suffix))
            self._file = self._format.writer(path)
            self._add = self._file.__enter__()
        return self

    def write(
        self, ids: ArrayLike, vectors: ArrayLike, spans: Sequence[Span] | None = None
    ) -> None:
        """Add ids (N,) and vectors (N, D).

        Args:
            ids: (N,).
            vectors: (N, D).
            spans: where each lies in its recording; every call gives them, or none does.

        Raises:
            UserError: an id was written before, a vector has another length than those before, or
                the disk refused.
        """
        names = [str(name) for name in np.atleast_1d(np.asarray(ids)).tolist()]
        matrix = np.ascontiguousarray(vectors, dtype=np.float32)
        if matrix.ndim != 2 or len(matrix) != len(names):
            raise UserError(
                f"{self.path}: {len(names)} ids for vectors of shape {matrix.shape}; give one"
                " vector an id"
            )
        if self._dim not in (None, matrix.shape[1]):
            raise UserError(
                f"{self.path}: a vector has {matrix.shape[1]} numbers where those before have"
                f" {self._dim}"
            )
        for name in names:
            if name in self._seen:
                raise UserError(f"{self.path}: the id {name!r} occurs twice; ids must be unique")
            self._seen.add(name)
        if names:
            self._dim = matrix.shape[1]
            with writing(self.path):
                if spans is None:
                    self._add(names, matrix)
                else:
                    self._add(names, matrix, spans)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and not self._seen:
            error = UserError(f"{self.path}: there are no embeddings to write")
            self._file.__exit__(UserError, error, None)
            raise error
        with writing(self.path):
            self._file.__exit__(kind, error, trace)
