"""`--out FOLDER`: the embeddings of one file, in many; a broken run goes on, also behind an address."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import ROOT, make_model, noise, write_audio
from numpy.typing import NDArray

from speechssl.cli.command import main
from speechssl.data.vectors.files import read_vectors
from speechssl.data.vectors.places import Place
from speechssl.embed import Embedder, embed_to_file, outputs
from speechssl.embed.folders import means_folder
from speechssl.errors import UserError

pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    Embedder(make_model("ecapa", n_mels=40)).save_pretrained(folder)
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Seven recordings and one empty file."""
    for number in range(7):
        write_audio(tmp_path / f"corpus/{number}.wav", noise(0.4 + 0.2 * number, seed=number))
    (tmp_path / "corpus/empty.wav").write_bytes(b"")
    return tmp_path / "corpus"


def by_id(path: Path | str) -> dict[str, NDArray[np.float32]]:
    ids, vectors = read_vectors(path)
    return dict(zip(ids.tolist(), vectors, strict=True))


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, vector in expected.items():
        assert np.abs(found[name] - vector).max() < 1e-5 * np.abs(vector).max()


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_folder_holds_what_a_file_holds(
    model: Path, corpus: Path, tmp_path: Path, jobs: int
) -> None:
    file = embed_to_file(model, [corpus], tmp_path / "e.npz")
    folder = embed_to_file(model, [corpus], tmp_path / "e", jobs=jobs)
    assert file is not None and folder is not None
    assert folder.embedded == file.embedded == 7
    assert folder.audio_seconds == pytest.approx(file.audio_seconds)
    assert_same(by_id(tmp_path / "e"), by_id(tmp_path / "e.npz"))
    assert (tmp_path / "e.failed").read_text() == (tmp_path / "e.npz.failed").read_text()
    assert folder.failed_list == str(tmp_path / "e.failed")
    left = [path.name for path in (tmp_path / "e").iterdir() if path.suffix != ".parquet"]
    assert left == ["_made_by.json"]
    with pytest.raises(UserError, match="--resume"):
        embed_to_file(model, [corpus], tmp_path / "e")


def test_a_broken_run_goes_on_and_new_recordings_are_added(
    model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Embedder.stream
    seen: list[int] = []

    def broken(self: Embedder, utterances: Any, **settings: Any) -> Any:
        for number, result in enumerate(stream(self, utterances, **settings)):
            if number == 4:
                raise KeyboardInterrupt
            yield result

    def counted(self: Embedder, utterances: Any, **settings: Any) -> Any:
        for result in stream(self, utterances, **settings):
            seen.append(result[0])
            yield result

    monkeypatch.setattr(Embedder, "stream", broken)
    with pytest.raises(KeyboardInterrupt):
        embed_to_file(model, [corpus], tmp_path / "e")
    done = len(by_id(tmp_path / "e"))
    assert 0 < done < 7
    monkeypatch.setattr(Embedder, "stream", counted)
    summary = embed_to_file(model, [corpus], tmp_path / "e", resume=True)
    assert summary is not None and summary.embedded == 7
    assert len(seen) == 8 - done
    embed_to_file(model, [corpus], tmp_path / "whole.npz")
    assert_same(by_id(tmp_path / "e"), by_id(tmp_path / "whole.npz"))
    write_audio(corpus / "new.wav", noise(0.5, seed=99))
    seen.clear()
    summary = embed_to_file(model, [corpus], tmp_path / "e", resume=True)
    assert summary is not None and summary.embedded == 8 and len(seen) == 2
    with pytest.raises(UserError, match="another model"):
        embed_to_file(model, [corpus], tmp_path / "e", resume=True, max_seconds=7.0)


KILLED = """
import os, signal, sys
from speechssl.embed import embed_to_file
from speechssl.data.vectors import folder_writer

folder_writer.FolderWriter.__init__.__defaults__ = (1, 120.0)  # a file for each utterance
replace = os.replace
count = 0


def counted(*arguments):
    global count
    count += 1
    if count == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*arguments)


os.replace = counted
embed_to_file(sys.argv[1], [sys.argv[2]], sys.argv[3], resume=True)
"""


@pytest.mark.slow
def test_a_killed_run_leaves_whole_files(model: Path, corpus: Path, tmp_path: Path) -> None:
    embed_to_file(model, [corpus], tmp_path / "whole.npz")
    expected = by_id(tmp_path / "whole.npz")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for death in (1, 2, 4, 6, 8):
        out = tmp_path / f"e{death}"
        command = [sys.executable, "-c", KILLED, str(model), str(corpus), str(out), str(death)]
        ended = subprocess.run(command, env=environment, capture_output=True, timeout=120)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        embed_to_file(model, [corpus], out, resume=True)
        assert_same(by_id(out), expected)
        assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_windows_lie_in_the_folder_too(model: Path, tmp_path: Path) -> None:
    write_audio(tmp_path / "r.wav", noise(3.0))
    embed_to_file(model, [tmp_path / "r.wav"], tmp_path / "e", window=1.0, hop=1.0)
    embed_to_file(model, [tmp_path / "r.wav"], tmp_path / "e.npz", window=1.0, hop=1.0)
    assert_same(by_id(tmp_path / "e"), by_id(tmp_path / "e.npz"))
    table = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "e").sort_by("start")
    assert table["stop"].to_pylist() == [1.0, 2.0, 3.0]


@pytest.fixture
def bucket(memory_bucket: str) -> str:
    """A folder in it."""
    return f"{memory_bucket}/deep"


def test_behind_an_address_it_is_the_same(
    model: Path, corpus: Path, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = f"{bucket}/e"
    summary = embed_to_file(model, [corpus], out)
    assert summary is not None and summary.failed_list == f"{bucket}/e.failed"
    embed_to_file(model, [corpus], tmp_path / "e.npz")
    assert_same(by_id(out), by_id(tmp_path / "e.npz"))
    with pytest.raises(UserError, match="--resume"):
        embed_to_file(model, [corpus], out)
    assert embed_to_file(model, [corpus], out, resume=True).embedded == 7  # type: ignore[union-attr]
    assert not list(tmp_path.glob("s3*"))


@pytest.mark.slow
def test_a_server_of_s3_is_written_and_read(
    model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real requests of the package that users install, to a server on loopback."""
    pytest.importorskip("moto", reason="needs moto[s3,server]")
    pytest.importorskip("s3fs")
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.syspath_prepend(str(ROOT))
    from egs.bench.object_store import server

    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "")  # so that they are taken away again
    fsspec.register_implementation("s3", "s3fs.S3FileSystem", clobber=True)
    with server(latency=0.0):
        fsspec.filesystem("s3").mkdir("bucket")
        out = "s3://bucket/deep/e"
        embed_to_file(model, [corpus], out)
        embed_to_file(model, [corpus], tmp_path / "e.npz")
        assert_same(by_id(out), by_id(tmp_path / "e.npz"))
        write_audio(corpus / "new.wav", noise(0.5, seed=99))
        summary = embed_to_file(model, [corpus], out, resume=True)
        assert summary is not None and summary.embedded == 8
        failed = fsspec.filesystem("s3").cat_file("bucket/deep/e.failed").decode()
        assert failed.startswith("empty.wav\t")
        assert main(["cluster", out, "n_clusters=2", "--out", str(tmp_path / "c")]) == 0
        assert len((tmp_path / "c/utt2cluster").read_text().splitlines()) == 8


def test_what_means_a_folder(tmp_path: Path) -> None:
    for name in ("emb", "emb/", "deep/emb", "emb.v2/", "s3://b/emb", "gs://b/x.parquet/"):
        assert means_folder(name), name
    for name in ("e.npz", "e.csv", "-", "deep.er/e.parquet"):
        assert not means_folder(name), name
    with pytest.raises(UserError, match="s3://b/e/"):
        means_folder("s3://b/e.npz")
    (tmp_path / "there.v2").mkdir()
    assert means_folder(str(tmp_path / "there.v2"))
    for name in ("s3:/b/e", "s3:b/e", "https:/host/e"):
        with pytest.raises(UserError, match=r"(s3|https)://(b|host)/e, or \./"):
            means_folder(name)
    assert means_folder("./s3:/b/e") and means_folder("C:/e") and means_folder("10:30/e")
    with pytest.raises(UserError, match="give the path, /tmp/e"):
        Place("file:///tmp/e")


WRITERS = {
    "train": ["train", "CONFIG"],
    "average": ["average", "RUN"],
    "score": ["score", "E", "--trials", "T"],
    "evaluate": ["evaluate", "verification", "E", "--trials", "T"],
    "classification": ["evaluate", "classification", "E", "--labels", "L", "--groups", "G"],
    "cluster": ["cluster", "E"],
    "calibrate": ["calibrate", "MODEL", "E", "--trials", "T"],
    "register": ["register", "MODEL", "A"],
    "diarize": ["diarize", "MODEL", "A"],
    "diagnose": ["diagnose", "E"],
    "export": ["export", "MODEL", "--to", "onnx"],
    "pseudolabel": ["pseudolabel", "CONFIG"],
    "prepare": ["prepare", "folder", "A"],
}


@pytest.mark.parametrize("verb", WRITERS)
def test_other_verbs_refuse_an_address_before_they_begin(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    out = ["s3://bucket/x"] if verb == "prepare" else ["--out", "s3://bucket/x"]
    assert main([*WRITERS[verb], *out]) == 2
    error = capsys.readouterr().err
    assert "s3://bucket/x" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_lists_lie_beside_the_folder_and_never_in_place_of_a_bucket(tmp_path, monkeypatch):
    for name in ("s3://bucket", "s3://bucket/"):
        with pytest.raises(UserError, match="is a whole bucket"):
            outputs.FolderOutput(name)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert outputs.FolderOutput("./").failed_list == str(tmp_path / "here.failed")
    assert outputs.FolderOutput("e/").failed_list == "e.failed"
