"""Ray: every recording once, also when a worker is killed; the embeddings of one process."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import ROOT, make_model, noise, write_audio

from speechssl.data.vectors.files import read_vectors
from speechssl.data.vectors.folder import VectorFolder
from speechssl.data.vectors.places import Place
from speechssl.embed import Embedder, embed_to_file
from speechssl.embed.lists import read_slice, slices
from speechssl.embed.on_ray import ChunkEmbedder, digests, find_chunks, part_name
from speechssl.embed.ray_cluster import RaySettings, cluster
from speechssl.embed.settings import EmbedSettings
from speechssl.embed.sources import collect
from speechssl.errors import UserError

arrow = pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    Embedder(make_model("ecapa", n_mels=40)).save_pretrained(folder)
    return folder


def write_corpus(folder: Path, count: int) -> Path:
    for number in range(count):
        write_audio(folder / f"{number:04d}.wav", noise(0.2 + 0.001 * (number % 50), seed=number))
    (folder / "empty.wav").write_bytes(b"")
    return folder


def assert_same(found: str | Path, expected: str | Path) -> None:
    ids, vectors = read_vectors(found)  # refuses an id that stands there twice
    names, matrix = read_vectors(expected)
    assert sorted(ids.tolist()) == sorted(names.tolist())
    vectors = vectors[np.argsort(ids)]
    matrix = matrix[np.argsort(names)]
    assert np.abs(vectors - matrix).max() < 1e-5 * np.abs(matrix).max()


def actor(model: Path, out: Path, done: tuple[str, ...] = (), **settings: Any) -> ChunkEmbedder:
    """What Ray starts in a process, without Ray."""
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    hashes = np.sort(digests(done))
    return ChunkEmbedder(files, str(out), EmbedSettings(**settings), hashes, threads=1)


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Let what an actor does run where Ray is not installed."""
    if "slow" not in request.keywords:
        monkeypatch.setattr("speechssl.embed.on_ray._fetched", lambda value: value)


def test_chunks_that_are_repeated_are_written_once(model: Path, tmp_path: Path) -> None:
    corpus, skipped = find_chunks([write_corpus(tmp_path / "c", 150)], EmbedSettings(), 2, [])
    assert corpus.count == 151 and len(corpus.chunks) == 3 and not skipped
    worker = actor(model, tmp_path / "e")
    for chunk in (*corpus.chunks, *corpus.chunks[1:]):  # as after a lost worker
        report = worker.embed(chunk)
    assert len(list((tmp_path / "e").iterdir())) == 3
    assert (report["written"], len(report["failed"])) == (22, 1)
    embed_to_file(model, [tmp_path / "c"], tmp_path / "e.npz")
    assert_same(tmp_path / "e", tmp_path / "e.npz")


def test_what_is_done_is_not_embedded_again(model: Path, tmp_path: Path) -> None:
    corpus, _ = find_chunks([write_corpus(tmp_path / "c", 20)], EmbedSettings(), 1, [])
    names = [utterance.id for chunk in corpus.chunks for utterance in chunk]
    report = actor(model, tmp_path / "e", tuple(names[:15])).embed(corpus.chunks[0])
    assert (report["done"], report["written"], report["recordings"]) == (15, 5, 21)
    assert sorted(VectorFolder(tmp_path / "e").ids()) == names[15:20]
    with pytest.raises(UserError, match="empty.wav"):
        actor(model, tmp_path / "e", keep_going=False).embed(corpus.chunks[0])


def test_names_of_files_follow_from_their_ids() -> None:
    assert part_name(["a", "b"]) == part_name(["a", "b"])
    assert len({part_name(ids) for ids in (["a", "b"], ["b", "a"], ["ab"], ["a\0b"])}) >= 3
    assert len(set(digests([f"u{n}" for n in range(10_000)]).tolist())) == 10_000


def write_list(target: Path, /, **columns: Any) -> Path:
    pytest.importorskip("pyarrow.parquet").write_table(
        arrow.table(columns), target, row_group_size=4
    )
    return target


def test_lists_are_read_a_slice_at_a_time(model: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "c", 9)
    paths = [str(tmp_path / f"c/{number:04d}.wav") for number in range(9)]
    ids = [f"n{number}" for number in range(9)]
    found = write_list(tmp_path / "list.parquet", id=ids, path=paths)
    pieces = slices(found, 3)
    assert [piece.rows for piece in pieces] == [3, 1, 3, 1, 1]
    read = [one for piece in pieces for one in read_slice(piece, remotes())]
    assert [(one.id, one.path) for one in read] == list(zip(ids, paths, strict=True))
    corpus, _ = find_chunks([found], EmbedSettings(), 1, [])
    assert corpus.count == 9
    for chunk in corpus.chunks:
        actor(model, tmp_path / "e").embed(chunk)
    embed_to_file(model, [found], tmp_path / "e.npz")
    assert_same(tmp_path / "e", tmp_path / "e.npz")
    pieces_of_files = write_list(
        tmp_path / "pieces.parquet", id=["a"], path=paths[:1], start=[0.05], stop=[0.15]
    )
    assert embed_to_file(model, [pieces_of_files], tmp_path / "p.npz").audio_seconds == (
        pytest.approx(0.1)
    )


def remotes() -> Any:
    from speechssl.audio.remotes import Remotes

    return Remotes()


@pytest.mark.parametrize(
    "columns",
    [
        {"id": ["a"]},
        {"id": [1], "path": ["x.wav"]},
        {"id": ["a"], "path": [None]},
        {"id": ["a"], "path": ["x\0.wav"]},
        {"id": ["a"], "path": ["x.wav"], "start": [float("nan")]},
        {"id": ["a"], "path": ["x.wav"], "start": [-1.0]},
        {"id": ["a" * 1_000_000], "path": ["x.wav"]},
        {"id": ["a"], "path": [["x.wav"]]},
    ],
)
def test_a_list_that_lies_is_one_line(tmp_path: Path, columns: dict[str, Any]) -> None:
    path = write_list(tmp_path / "list.parquet", **columns)
    with pytest.raises(UserError, match="list.parquet") as caught:
        read_slice(slices(path, 10)[0], remotes())
    assert len(str(caught.value)) < 500


def test_a_bad_row_of_a_list_costs_no_other(model: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "c", 2)
    paths = [str(tmp_path / "c/0000.wav"), None, str(tmp_path / "c/0001.wav")]
    found = write_list(tmp_path / "list.parquet", id=["a", "bad", "b"], path=paths)
    report = actor(model, tmp_path / "e").embed(slices(found, 10)[0])
    assert (report["recordings"], report["written"]) == (3, 2)
    assert [failure["id"] for failure in report["failed"]] == ["bad"]
    done = embed_to_file(model, [found], tmp_path / "e.npz", keep_going=True)
    assert (done.embedded, [failure.id for failure in done.failed]) == (2, ["bad"])


def test_a_list_without_rows_is_one_line(model: Path, tmp_path: Path) -> None:
    empty = write_list(tmp_path / "list.parquet", id=arrow.array([], arrow.string()), path=[])
    for out in ("e.npz", "e"):
        with pytest.raises(UserError, match="name no recordings"):
            embed_to_file(model, [empty], tmp_path / out)


def test_an_id_that_stands_twice_is_refused_in_whichever_slices(tmp_path: Path) -> None:
    write_corpus(tmp_path / "c", 6)
    paths = [str(tmp_path / f"c/{number:04d}.wav") for number in range(6)]
    ids = ["a", "b", "c", "d", "e", "a"]  # row groups of four: two slices
    one = write_list(tmp_path / "one.parquet", id=ids, path=paths)
    fine = write_list(tmp_path / "fine.parquet", id=["f", "g"], path=paths[:2])
    other = write_list(tmp_path / "other.parquet", id=["h", "g"], path=paths[:2])
    folder = tmp_path / "c"
    name = collect([folder])[0][3].id
    twin = write_list(tmp_path / "twin.parquet", id=[name], path=paths[:1])
    settings = EmbedSettings()
    with pytest.raises(UserError, match=r"the id 'a' stands in .*one\.parquet and once more"):
        find_chunks([one], settings, 1, [])
    with pytest.raises(UserError, match="the id 'g'"):
        find_chunks([fine, other], settings, 1, [])
    with pytest.raises(UserError, match=re.escape(f"the id {name!r}")):
        find_chunks([folder, twin], settings, 1, [])
    assert find_chunks([folder, fine], settings, 1, [])[0].count == 9


def test_addresses_and_pipes_in_a_list_are_not_followed(model: Path, tmp_path: Path) -> None:
    paths = ["s3://bucket/a.wav", "touch ran |", "http://127.0.0.1:9/a.wav"]
    path = write_list(tmp_path / "list.parquet", id=["a", "b", "c"], path=paths)
    with pytest.raises(UserError, match="none of 3"):
        embed_to_file(model, [path], tmp_path / "e.npz")
    assert not Path("ran").exists()


def test_without_ray_it_says_what_to_install(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from speechssl.embed.corpus import embed_corpus

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"speechssl\[ray\]"):
        embed_corpus(model, [tmp_path], tmp_path / "e", ray=RaySettings())
    with pytest.raises(UserError, match="leave --jobs"):
        embed_corpus(model, [tmp_path], tmp_path / "e", jobs=2)
    with pytest.raises(UserError, match="writes a folder"):
        embed_corpus(model, [tmp_path], tmp_path / "e.npz", ray=RaySettings())


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(model: Path, tmp_path: Path) -> None:
    """The command on a cluster of two workers, one of them killed with -9 in the middle."""
    pytest.importorskip("ray")
    corpus = write_corpus(tmp_path / "c", 600)
    out = tmp_path / "e"
    command = [sys.executable, "-m", "speechssl", "embed", str(model), str(corpus)]
    command += ["--engine", "ray", "--workers", "2", "--device", "cpu", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        killed = kill_one_worker(process.pid, Place(out))
        error = process.communicate(timeout=280)[1]
    assert killed and process.returncode == 0, error
    assert "embedded 600 of 601" in error
    embed_to_file(model, [corpus], tmp_path / "e.npz", device="cpu")
    assert_same(out, tmp_path / "e.npz")
    (next(out.glob("*.parquet"))).unlink()
    subprocess.run([*command, "--resume"], env=environment, check=True, timeout=280)
    assert_same(out, tmp_path / "e.npz")


def kill_one_worker(driver: int, place: Place) -> bool:
    """Kill one actor of ours once the first file is written; return whether there was one."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        if any(entry.name.endswith(".parquet") for entry in place.files()):
            for status in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    name = status.read_bytes()
                except OSError:
                    continue
                if (
                    name.startswith(b"ray::")
                    and b"MapWorker" in name
                    and _descends(status.parent, driver)
                ):
                    os.kill(int(status.parent.name), 9)
                    return True
        time.sleep(0.02)
    return False


def _descends(process: Path, ancestor: int) -> bool:
    """True if a process was started by another one, or by one that it started."""
    number = int(process.name)
    while number > 1:
        if number == ancestor:
            return True
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        number = int(fields[1])
    return False


def test_an_address_where_nobody_answers_is_one_line_at_once(model: Path, tmp_path: Path) -> None:
    """Ray itself tries for minutes, without an end."""
    pytest.importorskip("ray")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound and not listened to: nobody else takes the port
        port = probe.getsockname()[1]
        started_at = time.monotonic()
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
            with (
                pytest.raises(UserError, match=f"{address}: nobody answers there .*ray start"),
                cluster(RaySettings(address)),
            ):
                pass
    assert time.monotonic() - started_at < 5 and not (tmp_path / "e").exists()


@pytest.mark.slow
def test_a_run_on_ray_that_is_asked_to_end_ends_in_order(model: Path, tmp_path: Path) -> None:
    """With the exit code of every other command, not by an abort; and `--resume` goes on."""
    pytest.importorskip("ray")
    corpus = write_corpus(tmp_path / "c", 600)
    out = tmp_path / "e"
    command = [sys.executable, "-m", "speechssl", "embed", str(model), str(corpus)]
    command += ["--engine", "ray", "--workers", "1", "--device", "cpu", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while not list(out.glob("*.parquet")) and process.poll() is None:
            time.sleep(0.02)
        process.terminate()
        error = process.communicate(timeout=100)[1]
    assert process.returncode == 143 and "speechssl: terminated" in error, error
    assert "PC: @" not in error
    subprocess.run([*command, "--resume"], env=environment, check=True, timeout=280)
    assert len(set(VectorFolder(out).ids())) == VectorFolder(out).rows == 600
