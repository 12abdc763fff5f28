"""Embedding files whose headers lie: one line, and no more memory than the file is long allows."""

import io
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostile_audio
import numpy as np
import pytest
from hostile_runs import Cases, Runner

from speechssl.data.vectors.files import read_vectors, write_vectors

IDS = [f"u{number}" for number in range(12)]
VERBS = {
    "score": ["score", "FILE", "--trials", "TRIALS", "--out", "OUT"],
    "evaluate verification": [
        "evaluate", "verification", "FILE", "--trials", "TRIALS", "--replicates", "0", "--out", "OUT",
    ],
    "evaluate classification": [
        "evaluate", "classification", "FILE", "--labels", "LABELS", "--groups", "GROUPS",
        "--folds", "2", "--replicates", "0", "--out", "OUT",
    ],
    "cluster": ["cluster", "FILE", "n_clusters=2", "--out", "OUT"],
    "diagnose": ["diagnose", "FILE", "--out", "OUT"],
    "AS-norm": ["score", "GOOD", "--trials", "TRIALS", "--as-norm", "FILE", "--out", "OUT"],
}  # fmt: skip


def good_vectors() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)


def npy(header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """Return a .npy file with any header."""
    text = header.encode() + b"\n"
    width = "<H" if version == (1, 0) else "<I"
    return b"\x93NUMPY" + bytes(version) + struct.pack(width, len(text)) + text + data


def claim(descr: str, shape: str, data: bytes = bytes(64)) -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}", data)


def saved(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npz(ids: bytes, embeddings: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("ids.npy", ids)
        archive.writestr("embeddings.npy", embeddings)
    return file.getvalue()


class Touch:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def bombs() -> Iterator[tuple[str, str, bytes]]:
    """Yield name, ending and bytes of files that become hundreds of times as long in memory."""
    ids = saved(np.array(IDS))
    good = saved(good_vectors())
    zeros = claim("'<f4'", "(12, 15000000)", bytes(12 * 15000000 * 4))
    yield "a bomb", ".npz", npz(ids, zeros, zipfile.ZIP_DEFLATED)
    yield "a bomb of bzip2", ".npz", npz(ids, zeros, zipfile.ZIP_BZIP2)
    many = claim("'<U1000'", "(180000,)", bytes(720_000_000))
    yield "a bomb of ids", ".npz", npz(many, good, zipfile.ZIP_DEFLATED)
    yield "a line of 50 megabytes", ".ark", b"u0 [ " + b"1 " * 25_000_000 + b"]\n"
    yield "a bomb", ".parquet", parquet_bomb()


def npz_files(ran: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of .npz files that are not what they claim; `ran` is made by their code."""
    ids = saved(np.array(IDS))
    good = saved(good_vectors())
    yield "a terabyte of numbers", npz(ids, claim("'<f4'", "(12, 20000000000)"))
    yield "more numbers than 64 bits count", npz(ids, claim("'<f4'", f"({2**40}, {2**40})"))
    yield "a negative shape", npz(ids, claim("'<f4'", "(-1, 4)"))
    yield "a shape of words", npz(ids, claim("'<f4'", "('a', 'b')"))
    yield "a shape of floats", npz(ids, claim("'<f4'", "(1e9, 4.0)"))
    yield "a shape of 60 axes", npz(ids, claim("'<f4'", "(1,) * 60"))
    yield "ids of a gigabyte each", npz(claim("'<U250000000'", "(12,)"), good)
    yield "ids beyond 32 bits", npz(claim("'<U99999999999'", "(12,)"), good)
    yield "objects", npz(ids, saved(np.array([[Touch(ran)] * 4] * 12, object)))
    yield "ids that are objects", npz(saved(np.array([Touch(ran)] * 12, object)), good)
    yield "a type with fields", npz(ids, claim("[('a', '<f4'), ('b', 'O')]", "(12,)"))
    yield "dates", npz(ids, saved(np.zeros((12, 4), "datetime64[s]")))
    yield "complex numbers", npz(ids, saved(good_vectors() * 1j))
    yield "void", npz(ids, claim("'V1000000000'", "(12, 4)"))
    yield "strings in the place of numbers", npz(ids, saved(np.array([["1"] * 4] * 12)))
    yield "a header that is deep", npz(ids, npy("(" * 5000 + ")" * 5000))
    yield "a header that computes", npz(ids, npy("{'descr': '<f4', 'x': 9**9**9}"))
    yield "a header of a gigabyte", npz(ids, b"\x93NUMPY\2\0" + struct.pack("<I", 1 << 30) + b"{}")
    yield "a version to come", npz(ids, b"\x93NUMPY\x09\0" + good[8:])
    yield "ids in two axes", npz(saved(np.array(IDS).reshape(3, 4)), good)
    yield "numbers in three axes", npz(ids, saved(good_vectors()[None]))
    yield "a number alone", npz(ids, saved(np.float32(1)))
    yield "no axis", npz(ids, claim("'<f4'", "()"))
    yield "no zip file", b"PK\3\4" + bytes(1000)
    yield "an empty zip file", b"PK\5\6" + bytes(18)
    yield "names that lead elsewhere", named_elsewhere(ids, good)
    yield (
        "not encrypted, it says it is",
        npz(ids, good).replace(b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0"),
    )


def named_elsewhere(ids: bytes, good: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("../../ids.npy", "/tmp/ids.npy", "ids.npy/../x.npy"):
            archive.writestr(name, ids)
        archive.writestr("embeddings.npy", good)
    return file.getvalue()


def kaldi_files(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yield name, ending and bytes of Kaldi archives and indices."""
    one = b"u0 \0BFV \4" + struct.pack("<i", 4) + bytes(16)
    for dim in (-1, -(2**31), 0, 1 << 20, 2**31 - 1):
        for kind in (b"FV ", b"DV "):
            data = b"u0 \0B" + kind + b"\4" + struct.pack("<i", dim) + bytes(64)
            yield f"{kind.decode().strip()} of {dim} numbers", ".ark", data
    for kind in (b"FM ", b"CM ", b"XX ", b"\0\0\0"):
        yield f"kind {kind!r}", ".ark", b"u0 \0B" + kind + b"\4" + struct.pack("<i", 4) + bytes(64)
    yield "an integer of another width", ".ark", one.replace(b"\4", b"\x08", 1)
    yield "an id of a megabyte", ".ark", b"u" * (1 << 20) + one[2:]
    yield "an id of a megabyte, text", ".ark", b"u" * (1 << 20) + b" [ 1 2 ]\nu1 [ 1 2 ]\n"
    yield "words for numbers", ".ark", b"u0 [ 1 one 2 ]\n"
    yield "numbers beyond a float", ".ark", b"".join(b"u%d [ 1e999 nan ]\n" % i for i in range(12))
    yield "an archive of one vector twice", ".ark", one + one
    ark = folder / "good-for-scp.ark"
    ark.write_bytes(b"u0 \0BFV \4" + struct.pack("<i", 1 << 18) + bytes(1 << 20))
    many = b"".join(b"u%d %s:3\n" % (i, os.fsencode(ark)) for i in range(5000))
    yield "an index that names a vector again and again", ".scp", many
    other = ark.with_name("other.ark")
    other.write_bytes(ark.read_bytes())
    again = b"".join(
        b"u%d %s:3\nv%d %s:3\n" % (i, bytes(ark), i, bytes(other)) for i in range(2000)
    )
    yield "two archives in turn", ".scp", again
    for place in ("9" * 30, "9" * 5000, "-3", "", "1e3", "\u00b2"):
        yield f"offset {place[:40]!r}", ".scp", f"u0 {ark}:{place}\n".encode()
    elsewhere = ["/dev/zero:0", "/dev/stdin:0", f"{folder}:0", "http://127.0.0.1:9/a.ark:0"]
    for place in (*elsewhere, "cat a |", "\0:0"):
        yield f"archive {place!r}", ".scp", f"u0 {place}\n".encode()
    yield "a folder in the place of a name", ".scp", f"u0 {'x' * 5000}:0\n".encode()


def parquet_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of parquet files of other types, and of numbers that repeat."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def table(ids: Any, embeddings: Any) -> bytes:
        file = io.BytesIO()
        parquet.write_table(arrow.table({"id": ids, "embedding": embeddings}), file)
        return file.getvalue()

    names = arrow.array(IDS)
    lists = arrow.array(good_vectors().tolist())
    yield "ids that are numbers", table(arrow.array(range(12)), lists)
    yield "ids that are bytes", table(arrow.array([b"\xff"] * 12), lists)
    yield "ids that are missing", table(arrow.array([None, *IDS[1:]]), lists)
    yield "an id of a megabyte", table(arrow.array(["u" * (1 << 20), *IDS[1:]]), lists)
    yield "lists of words", table(names, arrow.array([["a"]] * 12))
    yield "lists of lists", table(names, arrow.array([[[1.0]]] * 12))
    yield "lists of records", table(names, arrow.array([[{"a": 1.0}]] * 12))
    yield "lists that are missing", table(names, arrow.array([None, *good_vectors().tolist()[1:]]))
    yield "numbers that are missing", table(names, arrow.array([[None, 1.0]] * 12))
    yield "numbers that are no lists", table(names, arrow.array(range(12)))
    yield "lists of other lengths", table(names, arrow.array([[1.0]] * 11 + [[1.0, 2.0]]))
    yield "empty lists", table(names, arrow.array([[]] * 12, arrow.list_(arrow.float32())))
    yield (
        "other columns",
        io.BytesIO(table(names, lists)).getvalue().replace(b"embedding", b"embeddinG"),
    )


def parquet_bomb() -> bytes:
    """Return 160,000 vectors of 1000 zeros, which a dictionary keeps in a few kB."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = 2000
    values = arrow.array(np.zeros(rows * 1000, np.float32))
    lists = arrow.FixedSizeListArray.from_arrays(values, 1000).cast(arrow.list_(arrow.float32()))
    ids = arrow.array([f"u{number}" for number in range(rows)])
    bomb = arrow.table({"id": ids, "embedding": lists})
    file = io.BytesIO()
    with parquet.ParquetWriter(file, bomb.schema, compression="zstd") as writer:
        for _ in range(80):
            writer.write_table(bomb)
    return file.getvalue()


def battery(root: Path, with_bombs: bool = False) -> list[tuple[str, str, Path]]:
    """Write every file; return kind, name and path of each."""
    found = []
    files = [("npz", name, ".npz", data) for name, data in npz_files(root / "ran")]
    files += [("Kaldi", *rest) for rest in kaldi_files(root)]
    files += [("parquet", name, ".parquet", data) for name, data in parquet_files(root)]
    if with_bombs:
        files += [("bombs", *rest) for rest in bombs()]
    for number, (kind, name, ending, data) in enumerate(files):
        path = root / f"{number:03d}{ending}"
        path.write_bytes(data)
        found.append((kind, name, path))
    for number, (name, data) in enumerate(parquet_files(root)):
        found.append(("folder", name, in_folder(root / f"folder-{number:03d}", data)))
    return found


def in_folder(folder: Path, data: bytes) -> Path:
    """Write a file beside a good one into a folder of embeddings."""
    write_vectors(folder / "z.parquet", [f"z{name}" for name in IDS], good_vectors())
    (folder / "a.parquet").write_bytes(data)
    return folder


def mutants(root: Path, count: int, seed: int) -> list[tuple[str, str, Path]]:
    """Write broken copies of a good file of each format."""
    found = []
    for kind, ending in (("npz", ".npz"), ("Kaldi", ".ark"), ("parquet", ".parquet")):
        good = root / f"good{ending}"
        write_vectors(good, IDS, good_vectors())
        broken = hostile_audio.mutants(good.read_bytes(), count, seed)
        for number, (attack, data) in enumerate(broken):
            path = root / f"{number:04d}{ending}"
            path.write_bytes(data)
            found.append((kind, f"{attack} ({number})", path))
            if kind == "parquet":
                folder = in_folder(root / f"folder-{number:04d}", data)
                found.append(("folder", f"{attack} ({number})", folder))
    return found


@pytest.fixture
def world(tmp_path: Path) -> Path:
    write_vectors(tmp_path / "good-beside.npz", IDS, good_vectors())
    trials = []
    for number, name in enumerate(IDS[1:]):
        kind = "target" if number % 2 else "nontarget"
        trials.append(f"{IDS[0]} {name} {kind}\n")
    (tmp_path / "trials").write_text("".join(trials))
    (tmp_path / "labels").write_text("".join(f"{name} {i % 2}\n" for i, name in enumerate(IDS)))
    (tmp_path / "groups").write_text("".join(f"{name} {i // 3}\n" for i, name in enumerate(IDS)))
    (tmp_path / "files").mkdir()
    return tmp_path


def command(verb: str, world: Path, file: Path, out: Path) -> list[str]:
    places = {
        "FILE": file,
        "TRIALS": world / "trials",
        "LABELS": world / "labels",
        "GROUPS": world / "groups",
        "GOOD": world / "good-beside.npz",
        "OUT": out,
    }
    return [str(places.get(word, word)) for word in VERBS[verb]]


@pytest.mark.parametrize("verb", VERBS)
def test_a_good_file_is_read(verb: str, world: Path, runner: Runner) -> None:
    """Or else every command below would be refused whatever the file."""
    out = world / "out"
    good = world / "good-beside.npz"
    if verb == "AS-norm":
        good = world / "cohort.npz"
        write_vectors(good, [f"c{name}" for name in IDS], good_vectors()[::-1] + 1)
    outcome = runner.run(command(verb, world, good, out), out=out)
    assert outcome.code == 0, outcome.stderr
    assert outcome.problems == []


def test_files_that_lie(world: Path, runner: Runner, cases: Cases) -> None:
    try_all(runner, cases, world, battery(world / "files"), list(VERBS)[:1], must_refuse=True)
    assert not (world / "files" / "ran").exists()
    cases.hold()


def test_broken_files(world: Path, runner: Runner, cases: Cases) -> None:
    try_all(runner, cases, world, mutants(world / "files", 3, seed=0), list(VERBS)[:1])
    cases.hold()


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_many_files_to_every_verb(verb: str, world: Path, runner: Runner, cases: Cases) -> None:
    try_all(
        runner, cases, world, battery(world / "files", with_bombs=True), [verb], must_refuse=True
    )
    try_all(runner, cases, world, mutants(world / "files", 30, seed=1), [verb])
    cases.hold()


def try_all(
    runner: Runner,
    cases: Cases,
    world: Path,
    files: list[tuple[str, str, Path]],
    verbs: list[str],
    must_refuse: bool = False,
) -> None:
    """Give every file to every verb.

    Args:
        runner: runs the commands.
        cases: counts them.
        world: the folder of the trials and labels.
        files: kind, name and path.
        verbs: of `VERBS`.
        must_refuse: a file that is read counts as not held.
    """
    for kind, name, path in files:
        for verb in verbs:
            out = world / "out"
            outcome = runner.run(command(verb, world, path, out), out=out)
            problem = outcome.problem(refused=True if must_refuse else None)
            cases.record(f"embeddings: {kind}", f"{name}, {verb}", problem)


@pytest.mark.parametrize("ending", [".npz", ".ark", ".parquet"])
def test_what_is_compressed_by_others_is_read(ending: str, tmp_path: Path) -> None:
    ids = [f"u{number:06d}" for number in range(20_000)]
    vectors = np.repeat(good_vectors()[:1], len(ids), axis=0)
    path = tmp_path / f"a{ending}"
    write_vectors(path, ids, vectors)
    if ending == ".npz":
        np.savez_compressed(path, ids=np.array(ids), embeddings=vectors)
    read_ids, read = read_vectors(path)
    assert read_ids.tolist() == ids
    np.testing.assert_array_equal(read, vectors)
