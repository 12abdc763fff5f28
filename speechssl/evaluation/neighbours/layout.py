"""The files of an index, and what is checked before one is used.

An index may be somebody else's. Its files are plain arrays, each of whose sizes follows from
`index.json`; nothing in them is run, and faiss never parses one: it is given arrays that were
checked, and memory that was mapped. (faiss's own format is read by C++ code that trusts it.)

| file               | holds                                                                          |
|--------------------|--------------------------------------------------------------------------------|
| `index.json`       | `About`; written last, so while it exists all files belong to it                |
| `ids.bin`          | all ids in UTF-8, one behind the other                                          |
| `id-ends.npy`      | (N,) int64, byte at which each ends                                             |
| `mean.npy`         | (D,) float32 that is subtracted from embeddings before they are scaled          |
| `vectors-S.npy`    | (n, D) unit rows of shard S: float32 (`flat`) or float16 (`ivfpq`)              |
| `centroids.npy`    | (L, D) float32, directions of the lists of `ivfpq`                              |
| `codebooks.npy`    | (M, 256, D / M) float32, of the product quantiser                               |
| `sizes-S.npy`      | (L,) int64, rows in each list of shard S                                        |
| `lists-S.bin`      | for each list its codes (n, M) uint8, then the rows (n,) int64 that they are of |
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from speechssl import foreign_json
from speechssl.audio.tables import MAX_ID
from speechssl.errors import UserError
from speechssl.files import write_text
from speechssl.regular import refuse_special_file

LAYOUT = 1
"""Higher where an older package could not read the files."""

ABOUT = "index.json"
IDS = "ids.bin"
ID_ENDS = "id-ends.npy"
MEAN = "mean.npy"
CENTROIDS = "centroids.npy"
CODEBOOKS = "codebooks.npy"

_OF_A_SHARD = re.compile(r"(vectors|sizes)-\d{5}\.npy|lists-\d{5}\.bin")
_MOST_DIM = 1 << 16
_MOST_LISTS = 1 << 24
_MOST_ROWS = 1 << 40
_MOST_OF_CENTROIDS = 1 << 28  # numbers, 1 GB: they are held in memory, and a file may be sparse

_MOST_OF_SHARDS = 1 << 33  # bytes of memory for the lists and codebooks of all shards

CODES = 256
"""Codewords of each part of a vector: a code is a byte."""


def vectors_file(shard: int) -> str:
    """Return the name of the file of a shard's rows."""
    return f"vectors-{shard:05d}.npy"


def sizes_file(shard: int) -> str:
    """Return the name of the file of the sizes of a shard's lists."""
    return f"sizes-{shard:05d}.npy"


def lists_file(shard: int) -> str:
    """Return the name of the file of a shard's lists."""
    return f"lists-{shard:05d}.bin"


def shard_files(folder: Path) -> list[Path]:
    """Return the files of all shards in a folder."""
    return [path for path in folder.iterdir() if _OF_A_SHARD.fullmatch(path.name)]


@dataclass(frozen=True)
class About:
    """What `index.json` holds.

    Attributes:
        kind: `flat` is exact; `ivfpq` looks into the nearest lists and compares codes first.
        dim: D.
        shards: rows of each shard.
        lists: L; 0 for `flat`.
        code_bytes: M; 0 for `flat`.
        probes: lists that a search looks into; 0 for `flat`.
        has_mean: whether a mean is subtracted.
        source: the embeddings that it is of, for people.
        recall: share of the 10 nearest others of `recall_queries` embeddings that a search finds.
        recall_queries: how many were tried.
    """

    kind: Literal["flat", "ivfpq"]
    dim: int
    shards: tuple[int, ...]
    lists: int = 0
    code_bytes: int = 0
    probes: int = 0
    has_mean: bool = False
    source: str = ""
    recall: float = 1.0
    recall_queries: int = 0

    @property
    def rows(self) -> int:
        """N, of all shards."""
        return sum(self.shards)

    def write(self, folder: Path) -> None:
        """Write `index.json`."""
        text = json.dumps({"layout": LAYOUT, **asdict(self)}, indent=2)
        write_text(folder / ABOUT, text + "\n")


def read_about(folder: Path) -> About:
    """Read `index.json`; every number in it is one that an index can have.

    Raises:
        UserError: it is missing, not JSON, of a newer package, or a number is out of range.
    """
    path = folder / ABOUT
    if not path.is_file():
        raise UserError(f"{folder}: no index ({ABOUT} is missing); make one by `speechssl index`")
    held = foreign_json.read(path)
    if not isinstance(held, dict) or held.get("layout") != LAYOUT:
        raise UserError(f"{path}: not an index of layout {LAYOUT}; build it again")
    shards = _shards(path, held.get("shards"))
    kind = held.get("kind")
    if kind not in ("flat", "ivfpq"):
        raise UserError(f"{path}: its kind is {str(kind)[:40]!r}; build it again")
    dim = _check(path, "dim", held.get("dim"), 1, _MOST_DIM)
    least = 0 if kind == "flat" else 1
    lists = _check(path, "lists", held.get("lists"), least, _MOST_LISTS)
    code_bytes = _check(path, "code_bytes", held.get("code_bytes"), least, dim)
    probes = _check(path, "probes", held.get("probes"), least, max(1, lists))
    if lists * dim > _MOST_OF_CENTROIDS:
        raise UserError(f"{path}: {lists} lists of {dim} numbers are no index; build it again")
    if kind == "ivfpq":
        if dim % code_bytes:
            raise UserError(
                f"{path}: codes of {code_bytes} bytes for {dim} numbers; build it again"
            )
        # faiss holds 32 bytes a list and a copy of the codebooks for each shard.
        if len(shards) * (32 * lists + 4 * CODES * dim) > _MOST_OF_SHARDS:
            raise UserError(
                f"{path}: {len(shards)} shards of {lists} lists need more than"
                f" {_MOST_OF_SHARDS / 1e9:.0f} GB of memory; build it again with larger shards"
            )
    recall = held.get("recall")
    known = isinstance(recall, int | float) and 0 <= recall <= 1
    return About(
        kind=kind,
        dim=dim,
        shards=shards,
        lists=lists,
        code_bytes=code_bytes,
        probes=probes,
        has_mean=held.get("has_mean") is True,
        source=str(held.get("source", ""))[:1000],
        recall=float(recall) if known else 0.0,  # type: ignore[arg-type]
    )


def _shards(path: Path, value: Any) -> tuple[int, ...]:
    """Return the rows of each shard; raise UserError for what is no list of such numbers."""
    if not isinstance(value, list) or not 1 <= len(value) <= 1 << 16:
        raise UserError(f"{path}: its shards are no list of numbers; build it again")
    return tuple(_check(path, "a shard", rows, 1, _MOST_ROWS) for rows in value)


def _check(path: Path, what: str, value: Any, least: int, most: int) -> int:
    """Return a whole number from `least` to `most`; raise UserError for anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UserError(f"{path}: {what} is {str(value)[:40]!r}; build the index again")
    return value


def mapped(path: Path, shape: tuple[int, ...], kind: str) -> NDArray[Any]:
    """Map an array into memory.

    Args:
        path: a .npy file.
        shape: that it must have.
        kind: NumPy type that it must have.

    Raises:
        UserError: it is missing, another array, or cut off.
    """
    refuse_special_file(path)
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:  # NumPy has a dozen kinds for damage
        raise UserError(f"{path}: missing or damaged; build the index again") from None
    if array.shape != shape or array.dtype != np.dtype(kind) or not array.flags.c_contiguous:
        raise UserError(
            f"{path}: holds {array.dtype} {array.shape}, not {kind} {shape}; build the index again"
        )
    return array


class Ids:
    """The ids of an index, by row; they stay on disk.

    Args:
        folder: of the index.
        rows: N.

    Raises:
        UserError: a file is missing or damaged.
    """

    def __init__(self, folder: Path, rows: int) -> None:
        self._path = folder / IDS
        refuse_special_file(self._path)
        self._ends = mapped(folder / ID_ENDS, (rows,), "int64")
        try:
            self._data = np.memmap(self._path, np.uint8, "r")
        except (OSError, ValueError):
            raise UserError(f"{self._path}: missing or empty; build the index again") from None

    def __getitem__(self, row: int) -> str:
        """Return the id of a row."""
        begin = int(self._ends[row - 1]) if row else 0
        end = int(self._ends[row])
        if not 0 <= begin <= end <= len(self._data) or end - begin > 4 * MAX_ID:
            raise UserError(f"{self._path}: the id of row {row} is damaged; build the index again")
        return bytes(self._data[begin:end]).decode("utf-8", "surrogateescape")
