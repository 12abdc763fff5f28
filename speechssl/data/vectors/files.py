"""Embedding files: one vector an utterance, as `.npz`, Kaldi `.ark`/`.scp`, `.parquet`, or text on
    `-`.

| path       | holds                                                                              |
|------------|------------------------------------------------------------------------------------|
| `x.npz`    | `ids` (N,) strings and `embeddings` (N, D) float32                                 |
| `x.ark`    | Kaldi's binary float vectors, and `x.scp` beside them, whichever of the two is named |
| `x.parquet`| columns `id` (string) and `embedding` (list of D float32); needs the extra `[scale]` |
| `-`        | standard output (or input): a line is the id and D numbers, separated by spaces    |

Files are written under a temporary name and renamed when complete, so a broken run leaves no half
file. Kaldi's vector format is a few bytes and read here, without kaldi_native_io: that one meets a
cut-off archive with a warning and ends early, and a wrong file with a screenful.
"""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechssl.data.vectors.kaldi import Row, pack_vector, read_ark, read_scp, read_text
from speechssl.errors import UserError, writing
from speechssl.files import remove_partial

Vectors = tuple[NDArray[np.str_], NDArray[np.float32]]
SUFFIXES = (".npz", ".ark", ".scp", ".parquet")


def read_vectors(path: str | Path) -> Vectors:
    """`(ids (N,) str, embeddings (N, D) float32)` in the order of the file; `-` is text on standard
    input.

    Raises UserError (one line) for a missing, foreign or cut-off file, no vectors, vectors of
    different lengths, or an id that occurs twice. Values are not looked at: NaN is the reader's to
    judge.
    """
    if str(path) == "-":
        return _checked("standard input", read_text(sys.stdin, "standard input"))
    file = Path(path)
    suffix = _suffix(file)
    if not file.is_file():
        raise UserError(f"{file}: no such file; give the embeddings written by `speechssl embed`")
    if suffix == ".npz":
        ids, vectors = _read_npz(file)
    elif suffix == ".parquet":
        ids, vectors = _read_parquet(file)
    else:
        return _checked(str(file), read_ark(file) if suffix == ".ark" else read_scp(file))
    return _unique(str(file), ids), vectors


def write_vectors(path: str | Path, ids: ArrayLike, vectors: ArrayLike) -> None:
    """Write `ids` (N,) and `vectors` (N, D) in the format that the suffix names; see
    `VectorWriter`.
    """
    with VectorWriter(path) as writer:
        writer.write(ids, vectors)


class VectorWriter:
    """Writes vectors batch by batch: `with VectorWriter("emb.npz") as w: w.write(ids, vectors)`.

    `.ark`, `.parquet` and `-` are written as they come; `.npz` is held in memory (N x D x 4 bytes)
    to the end. Missing folders are made. Nothing is left behind when the block ends with an error.
    Raises UserError for an unknown suffix, an id seen before, a vector of another length, or when
    nothing was written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._seen: set[str] = set()
        self._dim: int | None = None
        self._sink = _sink(self.path)

    def write(self, ids: ArrayLike, vectors: ArrayLike) -> None:
        """Add `ids` (N,) and `vectors` (N, D)."""
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
                self._sink.write(names, matrix)

    def __enter__(self) -> VectorWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        complete = kind is None and bool(self._seen)
        with writing(self.path):
            self._sink.close(complete)
        if kind is None and not complete:
            raise UserError(f"{self.path}: there are no embeddings to write")


class _Sink(Protocol):
    def write(self, ids: list[str], vectors: NDArray[np.float32]) -> None: ...

    def close(self, complete: bool) -> None:
        """Put the file in its place when `complete`, else remove what was written."""


def _sink(path: str) -> _Sink:
    if path == "-":
        return _Text()
    file = Path(path)
    suffix = _suffix(file)
    with writing(path):
        file.parent.mkdir(parents=True, exist_ok=True)
        for sibling in (file, file.with_suffix(".ark"), file.with_suffix(".scp")):
            remove_partial(sibling)
        if suffix == ".npz":
            return _Npz(file)
        return _Parquet(file) if suffix == ".parquet" else _Ark(file)


class _Npz:
    def __init__(self, file: Path) -> None:
        self.file, self.part = file, _part(file)
        self.part.touch()
        self.ids: list[str] = []
        self.vectors: list[NDArray[np.float32]] = []

    def write(self, ids: list[str], vectors: NDArray[np.float32]) -> None:
        self.ids += ids
        self.vectors.append(vectors.copy())

    def close(self, complete: bool) -> None:
        if complete:
            with self.part.open("wb") as handle:
                np.savez(handle, ids=np.array(self.ids), embeddings=np.concatenate(self.vectors))
        _finish({self.part: self.file}, complete)


class _Ark:
    def __init__(self, file: Path) -> None:
        ark, scp = file.with_suffix(".ark"), file.with_suffix(".scp")
        self.name, self.moves = str(ark), {_part(ark): ark, _part(scp): scp}
        self.ark, self.scp = _part(ark).open("wb"), _part(scp).open("w", encoding="utf-8")

    def write(self, ids: list[str], vectors: NDArray[np.float32]) -> None:
        for name, vector in zip(ids, vectors, strict=True):
            self.ark.write(f"{_word(name, self.name)} ".encode())
            self.scp.write(f"{name} {self.name}:{self.ark.tell()}\n")
            self.ark.write(pack_vector(vector))

    def close(self, complete: bool) -> None:
        self.ark.close()
        self.scp.close()
        _finish(self.moves, complete)


class _Parquet:
    def __init__(self, file: Path) -> None:
        self.arrow, self.parquet = _pyarrow()
        self.file, self.part = file, _part(file)
        self.writer: Any = None
        self.part.touch()

    def write(self, ids: list[str], vectors: NDArray[np.float32]) -> None:
        kind = self.arrow.list_(self.arrow.float32(), vectors.shape[1])
        rows = self.arrow.FixedSizeListArray.from_arrays(
            self.arrow.array(vectors.ravel()), vectors.shape[1]
        )
        table = self.arrow.table(
            {"id": self.arrow.array(ids, self.arrow.string()), "embedding": rows.cast(kind)}
        )
        self.writer = self.writer or self.parquet.ParquetWriter(self.part, table.schema)
        self.writer.write_table(table)

    def close(self, complete: bool) -> None:
        if self.writer is not None:
            self.writer.close()
        _finish({self.part: self.file}, complete)


class _Text:
    def write(self, ids: list[str], vectors: NDArray[np.float32]) -> None:
        form = " ".join(["%.9g"] * vectors.shape[1])
        sys.stdout.writelines(
            f"{_word(name, '-')} {form % tuple(row)}\n"
            for name, row in zip(ids, vectors, strict=True)
        )

    def close(self, complete: bool) -> None:
        sys.stdout.flush()


def _suffix(file: Path) -> str:
    if file.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{file}: unknown kind of embeddings file; its name must end in"
            f" {', '.join(SUFFIXES)} (or be -)"
        )
    return file.suffix.lower()


def _part(file: Path) -> Path:
    return file.with_name(f".{file.name}.{os.getpid()}.part")


def _finish(moves: dict[Path, Path], complete: bool) -> None:
    for part, file in moves.items():
        if complete:
            os.replace(part, file)
        else:
            part.unlink(missing_ok=True)


def _word(name: str, where: str) -> str:
    if not name or name.split() != [name]:
        raise UserError(
            f"{where}: the id {name!r} is empty or has white space, which this format cannot hold;"
            " use .npz"
        )
    return name


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            "parquet files need pyarrow: pip install 'speechssl[scale]', or choose .npz"
        ) from None
    return pyarrow, pyarrow.parquet


def _unique(where: str, ids: NDArray[np.str_]) -> NDArray[np.str_]:
    names, counts = np.unique(ids, return_counts=True)
    if not len(ids):
        raise UserError(f"{where}: holds no embeddings")
    if counts.max() > 1:
        twice = int((counts > 1).sum())
        raise UserError(
            f"{where}: {twice} ids occur twice (as {str(names[counts.argmax()])!r}); ids must be"
            " unique"
        )
    return ids


def _checked(where: str, rows: Iterable[Row]) -> Vectors:
    ids: list[str] = []
    vectors: list[NDArray[Any]] = []
    for name, vector in rows:
        if not len(vector):
            raise UserError(f"{where}: no numbers after {name[:60]!r}; is it an embeddings file?")
        if vectors and len(vector) != len(vectors[0]):
            raise UserError(
                f"{where}: {name!r} has {len(vector)} numbers where those before have"
                f" {len(vectors[0])}"
            )
        ids.append(name)
        vectors.append(vector)
    names = _unique(where, np.array(ids, dtype=str))
    return names, np.array(vectors, dtype=np.float32)


def _read_npz(file: Path) -> Vectors:
    try:
        with np.load(file, allow_pickle=False) as data:
            ids, vectors = data["ids"], np.asarray(data["embeddings"], dtype=np.float32)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        raise UserError(
            f"{file}: not a readable .npz with `ids` (strings) and `embeddings` (numbers)"
        ) from None
    if ids.ndim != 1 or vectors.ndim != 2 or len(ids) != len(vectors):
        raise UserError(
            f"{file}: needs ids (N,) and embeddings (N, D), has shapes {ids.shape} and"
            f" {vectors.shape}"
        )
    return ids.astype(str), vectors


def _read_parquet(file: Path) -> Vectors:
    arrow, parquet = _pyarrow()
    try:
        table = parquet.read_table(file, columns=["id", "embedding"]).combine_chunks()
        ids = np.array(table["id"].to_pylist(), dtype=str)
        lists = table["embedding"]
        vectors = (
            lists.combine_chunks().flatten().to_numpy().astype(np.float32).reshape(len(ids), -1)
        )
        sizes = arrow.compute.list_value_length(lists).to_numpy()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, arrow.ArrowException):
        raise UserError(
            f"{file}: not a parquet file with `id` (string) and `embedding` (equally long lists)"
        ) from None
    if len(sizes) and (sizes != vectors.shape[1]).any():
        raise UserError(f"{file}: the lists in `embedding` are not all equally long")
    return ids, vectors
