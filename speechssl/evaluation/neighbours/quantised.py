"""faiss's inverted lists with product quantisation, over files that this package wrote and checked.

Jegou, Douze and Schmid 2011. Unit rows are shared out among L lists by their nearest centroid; what
is left of a row is stored as M bytes, each the nearest of 256 codewords for D / M of its numbers. A
search looks into the few lists whose centroids are nearest, in the files as they lie on disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl.errors import UserError
from speechssl.evaluation.neighbours import layout
from speechssl.evaluation.neighbours.layout import About
from speechssl.regular import refuse_special_file

Matrix = NDArray[np.float32]

_ITERATIONS = 8  # of k-means over the sample, for lists and codewords
_MOST_CODE_BYTES = 64
_NUMBERS_OF_A_BYTE = 4


def faiss_or_refuse() -> Any:
    """Return the module faiss; raise UserError if it is not installed."""
    try:
        import faiss
    except ImportError:
        raise UserError(
            "an index of a million embeddings or more needs faiss: pip install 'speechssl[scale]'"
        ) from None
    return faiss


def lists_for(rows: int) -> int:
    """Return L for N rows: the power of two nearest to 2 sqrt(N), 2048 for a million."""
    return int(2 ** round(np.log2(2 * rows**0.5)))


def code_bytes_for(dim: int) -> int:
    """Return M for D numbers: about a byte for 4 of them, at most 64, and a divisor of D."""
    most = max(1, min(_MOST_CODE_BYTES, dim // _NUMBERS_OF_A_BYTE))
    return max(count for count in range(1, most + 1) if dim % count == 0)


def train(sample: Matrix, lists: int, code_bytes: int, seed: int) -> tuple[Matrix, Matrix]:
    """Return centroids (L, D) and codebooks (M, 256, D / M), fitted on unit rows (n, D)."""
    faiss = faiss_or_refuse()
    dim = sample.shape[1]
    quantiser = faiss.IndexFlatIP(dim)
    index = faiss.IndexIVFPQ(quantiser, dim, lists, code_bytes, 8, faiss.METRIC_INNER_PRODUCT)
    for settings in (index.cp, index.pq.cp):
        settings.niter = _ITERATIONS
        settings.seed = seed
        settings.min_points_per_centroid = 1  # it warns on standard output
    index.cp.spherical = True
    index.train(sample)
    centroids: Matrix = quantiser.reconstruct_n(0, lists)
    codebooks: Matrix = faiss.vector_to_array(index.pq.centroids)
    return centroids, codebooks.reshape(code_bytes, layout.CODES, dim // code_bytes)


class ShardWriter:
    """Collects the rows of a shard in memory, M + 8 bytes each, and writes them by list.

    Args:
        centroids: (L, D).
        codebooks: (M, 256, D / M).
    """

    def __init__(self, centroids: Matrix, codebooks: Matrix) -> None:
        self._lists = len(centroids)
        self._code_bytes = len(codebooks)
        self._index = _empty(_quantiser(centroids), codebooks)

    def add(self, rows: Matrix) -> None:
        """Add unit rows (n, D)."""
        self._index.add(rows)

    def write(self, folder: Path, shard: int) -> None:
        """Write the lists and their sizes; the shard is empty afterwards."""
        faiss = faiss_or_refuse()
        inverted = self._index.invlists
        sizes = np.array([inverted.list_size(one) for one in range(self._lists)], np.int64)
        with (folder / layout.lists_file(shard)).open("wb") as file:
            for one, size in enumerate(sizes.tolist()):
                if size:
                    codes = faiss.rev_swig_ptr(inverted.get_codes(one), size * self._code_bytes)
                    file.write(codes.tobytes())
                    file.write(faiss.rev_swig_ptr(inverted.get_ids(one), size).tobytes())
        np.save(folder / layout.sizes_file(shard), sizes)
        self._index.reset()


class Quantised:
    """An `ivfpq` index that is open for search.

    Args:
        folder: of the index.
        about: what `index.json` holds.

    Raises:
        UserError: a file is missing, or not of the size that follows from `about`.
    """

    def __init__(self, folder: Path, about: About) -> None:
        numbers = about.dim // about.code_bytes
        book_shape = (about.code_bytes, layout.CODES, numbers)
        centroids = layout.mapped(folder / layout.CENTROIDS, (about.lists, about.dim), "float32")
        codebooks = layout.mapped(folder / layout.CODEBOOKS, book_shape, "float32")
        # One for all shards: with a thousand of them, 65,536 centroids each would be 50 GB.
        quantiser = _quantiser(np.array(centroids))
        self._shards = []
        for shard, rows in enumerate(about.shards):
            index = _empty(quantiser, np.array(codebooks))
            # faiss holds bare pointers: the lists must live as long as their index.
            self._shards.append((index, _attach(index, folder, shard, rows, about)))
        self._rows = about.shards
        self.probes = about.probes

    def candidates(self, queries: Matrix, count: int) -> NDArray[np.int64]:
        """Return the rows (Q, `count`) with the most similar codes; -1 where there are fewer.

        Raises:
            UserError: a list names a row that its shard has not.
        """
        faiss = faiss_or_refuse()
        first = 0
        all_cosines = []
        all_rows = []
        parameters = faiss.SearchParametersIVF(nprobe=self.probes)
        for (index, _), size in zip(self._shards, self._rows, strict=True):
            cosines, rows = index.search(queries, min(count, size), params=parameters)
            if rows.max(initial=-1) >= size or rows.min(initial=0) < -1:
                raise UserError("the index names rows that it has not; build it again")
            cosines[rows < 0] = -np.inf
            all_cosines.append(cosines)
            all_rows.append(np.where(rows < 0, -1, rows + first))
            first += size
        joined = np.hstack(all_rows)
        order = np.argsort(-np.hstack(all_cosines), axis=1, kind="stable")[:, :count]
        return np.take_along_axis(joined, order, 1)


def _quantiser(centroids: Matrix) -> Any:
    """Return faiss's index of the centroids (L, D)."""
    faiss = faiss_or_refuse()
    quantiser = faiss.IndexFlatIP(centroids.shape[1])
    quantiser.add(centroids)
    return quantiser


def _empty(quantiser: Any, codebooks: Matrix) -> Any:
    """Return faiss's index with the lists of `quantiser` and codebooks, and no rows."""
    faiss = faiss_or_refuse()
    index = faiss.IndexIVFPQ(
        quantiser, quantiser.d, quantiser.ntotal, len(codebooks), 8, faiss.METRIC_INNER_PRODUCT
    )
    faiss.copy_array_to_vector(np.ascontiguousarray(codebooks).ravel(), index.pq.centroids)
    index.is_trained = True
    return index


def _attach(index: Any, folder: Path, shard: int, rows: int, about: About) -> Any:
    """Map the lists of a shard into an empty index; return what must live as long as it.

    faiss reads list i at byte sum(sizes[:i]) x (M + 8): the sizes are checked against the file.
    """
    faiss = faiss_or_refuse()
    path = folder / layout.lists_file(shard)
    sizes = np.array(layout.mapped(folder / layout.sizes_file(shard), (about.lists,), "int64"))
    expected = rows * (about.code_bytes + 8)
    in_range = bool((sizes >= 0).all() and (sizes <= rows).all())
    refuse_special_file(path)
    if not in_range or int(sizes.sum()) != rows:
        raise UserError(f"{folder / layout.sizes_file(shard)}: damaged; build the index again")
    if not path.is_file() or path.stat().st_size != expected:
        raise UserError(f"{path}: has not the {expected} bytes of its rows; build the index again")
    lists = faiss.OnDiskInvertedLists()
    lists.nlist = about.lists
    lists.code_size = about.code_bytes
    lists.filename = str(path)
    lists.read_only = True
    lists.totsize = expected
    lists.lists.resize(about.lists)
    counts = sizes.astype(np.uint64)  # alive during the call: faiss gets a bare pointer
    lists.set_all_lists_sizes(faiss.swig_ptr(counts))
    lists.do_mmap()
    index.replace_invlists(lists, False)
    index.ntotal = rows
    return lists
