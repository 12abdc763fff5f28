"""Addresses in a data directory of somebody else's: nobody is asked, nothing is run."""

import contextlib
import http.server
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import make_model
from hostile_runs import Cases

from speechssl import conf, config
from speechssl.audio import members, reading
from speechssl.audio.remotes import Remote, Remotes
from speechssl.data.manifest import read_manifest
from speechssl.errors import UserError
from speechssl.files import RunFolder
from speechssl.train.resuming import same_settings
from speechssl.train.settings import resolve

ONE_STEP = ["--out", "OUT", "train.steps=1", "train.batch_size=4"]
VERBS = {
    "validate": ["validate", "DATA"],
    "validate, with audio": ["validate", "DATA", "--read-audio"],
    "embed": ["embed", "mfcc", "DATA", "--out", "OUT.npz"],
    "shard": ["shard", "DATA", "OUT"],
    "train": ["train", "dino-small", "data.train=[DATA]", "--out", "OUT", "train.steps=1"],
    "train, with noise": [
        "train",
        "dino-small",
        "data.train=[GOOD]",
        "augment.noise=DATA",
        *ONE_STEP,
    ],
    "finetune": [
        "finetune",
        "MODEL",
        "DATA",
        "--labels",
        "DATA/utt2spk",
        "--groups",
        "DATA/utt2spk",
    ],
    "diagnose": ["diagnose", "MODEL", "DATA"],
    "prepare": ["prepare", "folder", "DATA", "OUT"],
}
ADDRESSES = {
    "http": "http://127.0.0.1:{port}/a.tar:0:100.flac",
    "http, no archive": "http://127.0.0.1:{port}/a.wav",
    "ftp": "ftp://127.0.0.1:{port}/a.tar:0:100.flac",
    "s3 at an endpoint": "s3://127.0.0.1:{port}/a.tar:0:100.flac",
    "a chain": "simplecache::http://127.0.0.1:{port}/a.tar:0:100.flac",
    "an archive of an archive": "zip://a.tar::http://127.0.0.1:{port}/b.zip:0:100.flac",
    "a reference": "reference://a.tar:0:100.flac",
    "a local file by its scheme": "file:///etc/passwd.tar:0:100.flac",
    "memory": "memory://a.tar:0:100.flac",
    "upper case": "HTTP://127.0.0.1:{port}/a.tar:0:100.flac",
    "for FFmpeg": "http://127.0.0.1:{port}/a.m4a",
    "for FFmpeg, tcp": "tcp://127.0.0.1:{port}/a.m4a",
    "for FFmpeg, no slashes": "concat:http:127.0.0.1:{port}|a.m4a",
}


@contextlib.contextmanager
def listener() -> Iterator[tuple[int, list[str]]]:
    """A port of this machine, and whoever has connected to it."""
    connections: list[str] = []
    server = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, who = server.accept()
            except OSError:
                return
            connections.append(str(who))
            connection.close()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server.getsockname()[1], connections
    finally:
        server.close()


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_asks_a_host_that_the_data_name(tmp_path: Path, voices: Path, verb: str) -> None:
    with listener() as (port, connections):
        data = tmp_path / "data"
        data.mkdir()
        lines = [f"u{i} {a.format(port=port)}" for i, a in enumerate(ADDRESSES.values())]
        (data / "wav.scp").write_text("\n".join(lines) + "\n")
        (data / "utt2dur").write_text("".join(f"u{i} 3.0\n" for i in range(len(lines))))
        (data / "utt2spk").write_text("".join(f"u{i} {i % 2}\n" for i in range(len(lines))))
        rows = [f"{line.split(None, 1)[1]}\n" for line in lines]
        (data / "utterances.tsv").write_text("".join(["path\n", *rows]))
        if "MODEL" in VERBS[verb]:
            make_model().save(tmp_path / "model")
        places = {"GOOD": voices / "train", "MODEL": tmp_path / "model", "OUT": tmp_path / "out"}
        done = run(VERBS[verb], {"DATA": data, **places})
        assert connections == []
    assert "Traceback" not in done.stderr
    assert done.returncode != 0


def run(
    words: list[str], places: dict[str, Path], **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the command, with paths in the places of the words in capitals."""
    for name, path in places.items():
        words = [word.replace(name, str(path)) for word in words]
    command = [sys.executable, "-m", "speechssl", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_a_list_on_standard_input_asks_nobody(tmp_path: Path) -> None:
    with listener() as (port, connections):
        lines = [f"{address}\n".format(port=port) for address in ADDRESSES.values()]
        words = ["embed", "mfcc", "-", "--out", "OUT.npz"]
        done = run(words, {"OUT": tmp_path / "out"}, input="".join(lines))
        assert connections == []
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_the_store_that_the_user_named_is_asked(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    with listener() as (port, connections):
        (tmp_path / "wav.scp").write_text(f"u ftp://127.0.0.1:{port}/a.tar:0:9.flac\n")
        (tmp_path / "utt2spk").write_text("u u\n")
        words = ["validate", "DATA", "--remote", f"ftp://127.0.0.1:{port}/"]
        done = run(words, {"DATA": tmp_path})
        assert len(connections) == 1
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


PLAYLISTS = {
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}/a.ts\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{url}/a.wav'\n",
    "DASH": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"'
    ' mediaPresentationDuration="PT9S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">'
    '<Period><AdaptationSet mimeType="audio/mp4"><Representation id="1" bandwidth="1">'
    "<BaseURL>{url}/a.mp4</BaseURL><SegmentBase/></Representation></AdaptationSet></Period></MPD>",
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio {port} RTP/AVP 0\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_in_the_place_of_audio_asks_nobody(tmp_path: Path, name: str) -> None:
    pytest.importorskip("av")
    with listener() as (port, connections):
        text = PLAYLISTS[name].format(url=f"http://127.0.0.1:{port}", port=port)
        file = tmp_path / "a.m4a"
        file.write_text(text)
        archive = tmp_path / "a.tar"
        archive.write_text(text)
        for path in (str(file), f"{archive}:0:{len(text)}.m4a"):
            with pytest.raises(UserError, match=r"\A[^\n]*\Z"):
                reading.info(path)
        assert connections == []


@contextlib.contextmanager
def server(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[int]:
    """A web server of this machine, and its port; `answer` writes what it says to GET and HEAD."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield running.server_port
    finally:
        running.shutdown()
        running.server_close()


ELSEWHERE = [
    "http://127.0.0.1:{port}/a.tar",
    "//127.0.0.1:{port}/a.tar",
    "http://user@127.0.0.1:{port}/a.tar",
    "ftp://127.0.0.1:{port}/a.tar",
]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_host_cannot_send_on_to_another(status: int, cases: Cases) -> None:
    pytest.importorskip("aiohttp", reason="http needs the extra scale")
    for location in ELSEWHERE:
        with listener() as (port, connections):

            def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
                handler.send_response(status)
                handler.send_header("Location", location.format(port=port))  # noqa: B023
                handler.send_header("Content-Length", "0")
                handler.end_headers()

            with server(answer) as own_port:
                address = f"http://127.0.0.1:{own_port}/a.tar"
                problem = refused(lambda: members.archive_size(Remote(address)))  # noqa: B023
                problem += refused(lambda: reading.info(Remote(f"{address}:0:9.flac")))  # noqa: B023
                whole = f"http://127.0.0.1:{own_port}/a.flac"
                problem += refused(lambda: reading.info(Remote(whole)))  # noqa: B023
            problem += "".join(f"a request from {who}" for who in connections)
        cases.record("redirects", f"{status} to {location}", problem)
    cases.hold()


def refused(read: Callable[[], object]) -> str:
    """Return "" if a UserError of one line is raised, and otherwise what happened."""
    try:
        read()
    except UserError as error:
        said = "sends on to another address" in str(error) and "\n" not in str(error)
        return "" if said else f"says {error}"
    return "it was read"


@pytest.mark.parametrize("verb", ["validate", "embed", "shard", "train"])
def test_no_verb_follows_a_host_that_was_named(verb: str, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="http needs the extra scale")
    asked: list[str] = []
    with listener() as (port, connections):

        def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
            asked.append(handler.path)
            handler.send_response(302)
            handler.send_header("Location", f"http://127.0.0.1:{port}{handler.path}")
            handler.end_headers()

        with server(answer) as own_port:
            store = f"http://127.0.0.1:{own_port}/"
            data = tmp_path / "data"
            data.mkdir()
            (data / "wav.scp").write_text(
                "".join(f"u{i} {store}a.tar:{i}:9.flac\n" for i in range(4))
            )
            (data / "utt2dur").write_text("".join(f"u{i} 3.0\n" for i in range(4)))
            (data / "utt2spk").write_text("".join(f"u{i} {i}\n" for i in range(4)))
            allowed = [f"data.remote=[{store}]"] if verb == "train" else ["--remote", store]
            done = run([*VERBS[verb], *allowed], {"DATA": data, "OUT": tmp_path / "out"})
        assert connections == []
    assert asked, "the store that was named was not even asked"
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_store_without_ranges_is_refused() -> None:
    """As `python -m http.server`: it answers with the whole archive, which is not the member."""
    pytest.importorskip("aiohttp", reason="http needs the extra scale")

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(bytes(1000))

    with (
        server(answer) as port,
        pytest.raises(UserError, match="more than the bytes that were asked for"),
    ):
        members.Member(Remote(f"http://127.0.0.1:{port}/a.tar"), 10, 20, ".flac").open()


def test_the_listener_would_have_noticed() -> None:
    with listener() as (port, connections):
        socket.create_connection(("127.0.0.1", port)).close()
        deadline = 100
        while not connections and deadline:
            deadline -= 1
            threading.Event().wait(0.02)
        assert len(connections) == 1


@pytest.mark.parametrize(
    ("prefixes", "address", "allowed"),
    [
        ([], "s3://bucket/a.tar", False),
        (["s3://bucket/"], "s3://bucket/a.tar", True),
        (["s3://bucket"], "s3://bucket/a.tar", True),
        (["s3://bucket"], "s3://bucket-of-another/a.tar", False),
        (["s3://bucket/x"], "s3://bucket/y/a.tar", False),
        (["s3://bucket/x"], "s3://bucket/x/../y/a.tar", False),
        (["https://host"], "https://host@evil/a.tar", False),
        (["https://host/"], "https://host.evil/a.tar", False),
        (["https://host/"], "http://host/a.tar", False),
        (["s3://bucket/"], "simplecache::s3://bucket/a.tar", False),
        (["s3://bucket/"], "s3://bucket/a.tar::http://evil/b", False),
        (["s3://bucket/"], "S3://bucket/a.tar", False),
        (["s3://"], "s3://any/a.tar", True),
    ],
)
def test_what_a_prefix_allows(prefixes: list[str], address: str, allowed: bool) -> None:
    assert Remotes(prefixes).allow(address) == allowed


@pytest.mark.parametrize(
    "prefix", ["reference://x/", "bucket/", "zip://a::http://b/", "://", "file:///"]
)
def test_a_prefix_that_names_no_store_is_refused(prefix: str) -> None:
    with pytest.raises(UserError):
        Remotes([prefix])


def test_what_the_user_named_is_read(tmp_path: Path) -> None:
    (tmp_path / "wav.scp").write_text(
        "a s3://bucket/a.tar:512:1000.flac\nb s3://other/b.tar:0:9.flac\n"
    )
    (tmp_path / "utt2dur").write_text("a 1.0\nb 1.0\n")
    manifest = read_manifest(
        tmp_path, on_bad="skip", remotes=Remotes(["s3://bucket/"]), check_files=False
    )
    assert [utterance.id for utterance in manifest.utterances] == ["a"]
    assert "--remote s3://other/" in manifest.skipped[0][1]


def test_a_run_may_be_resumed_with_another_permission(tmp_path: Path) -> None:
    path = str(conf.locate("dino-small"))
    started = resolve(path, ["data.train=[x]"])
    config.write(started, RunFolder(tmp_path).config)
    asked = resolve(path, ["data.train=[x]", "data.remote=[s3://bucket/]"])
    assert same_settings(RunFolder(tmp_path), asked).data.remote == ("s3://bucket/",)


def test_data_remote_is_checked_before_anything_is_read() -> None:
    with pytest.raises(UserError, match="--remote|data.remote"):
        resolve(str(conf.locate("dino-small")), ["data.train=[x]", "data.remote=[file:///]"])
