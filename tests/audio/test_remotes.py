"""Addresses without a host, and recordings behind addresses: read as files are, or refused in a line."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from builders import noise, write_audio

from speechssl.audio import reading
from speechssl.audio.remotes import Remote, Remotes
from speechssl.data.manifest import read_manifest
from speechssl.data.validation import validate
from speechssl.embed.sources import collect
from speechssl.errors import UserError

RATE = 16000


@pytest.mark.parametrize(
    ("prefix", "address", "allowed"),
    [
        ("s3://", "s3://bucket/a.tar", True),
        ("s3://", "s3:///bucket/a.tar", False),
        ("https://", "https:///host/a.wav", False),
        ("https://", "https://:443/a.wav", False),
        ("https://", "https://host:443/a.wav", True),
        ("https://", "https://?/host/a.wav", False),
        ("hdfs://", "hdfs:///folder/a.wav", True),
        ("hdfs:///folder/", "hdfs:///folder/a.wav", True),
        ("hdfs:///folder/", "hdfs:///other/a.wav", False),
        ("hdfs:///folder/", "hdfs://host/folder/a.wav", False),
    ],
)
def test_only_hdfs_has_addresses_without_a_host(prefix: str, address: str, allowed: bool) -> None:
    assert Remotes([prefix]).allow(address) == allowed


@pytest.mark.parametrize("prefix", ["s3:///", "s3:///bucket/", "https://:80/", "https://@/"])
def test_a_prefix_without_a_host_is_refused(prefix: str) -> None:
    with pytest.raises(UserError, match="names no host or bucket after"):
        Remotes([prefix])


@contextlib.contextmanager
def web(folder: Path, *, ranges: bool) -> Iterator[tuple[str, list[str]]]:
    """A web server of this machine's `folder`: its address, and the requests that it got."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range") if ranges else None
            asked.append(f"{self.command} {self.path} {wanted}")
            file = folder / self.path[1:]
            if not file.is_file():
                self.send_error(404)
                return
            data = file.read_bytes()
            code = 200
            if wanted:
                first, last = wanted.removeprefix("bytes=").split("-")
                total = len(data)
                data = data[int(first) : int(last) + 1]
                code = 206
            self.send_response(code)
            if wanted:
                self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_port}/", asked
    finally:
        running.shutdown()
        running.server_close()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_recording_behind_an_address_is_read_as_it_is(tmp_path: Path, ranges: bool) -> None:
    pytest.importorskip("aiohttp", reason="http needs the extra scale")
    write_audio(tmp_path / "a.flac", noise(1.0, seed=1))
    write_audio(tmp_path / "b.wav", noise(0.7, seed=2))
    with web(tmp_path, ranges=ranges) as (store, asked):
        (tmp_path / "wav.scp").write_text(f"a {store}a.flac\nb {store}b.wav\ngone {store}c.wav\n")
        found = read_manifest(tmp_path, on_bad="skip", remotes=Remotes([store]))
        assert [utterance.id for utterance in found.utterances] == ["a", "b"]
        assert [utterance.seconds for utterance in found.utterances] == [1.0, 0.7]
        ((name, reason),) = found.skipped
        assert name == "gone" and "c.wav: no such file" in reason
        asked.clear()
        for utterance in found.utterances:
            local = tmp_path / utterance.path.rpartition("/")[2]
            here = reading.read(str(local), RATE)
            np.testing.assert_array_equal(reading.read(utterance.path, RATE), here)
        assert len(asked) == 2  # one request a file
        (problem,) = [
            line for line in validate(tmp_path, remotes=Remotes([store])) if "wav.scp" in line
        ]
        assert "'gone'" in problem and "no such file" in problem
        with pytest.raises(UserError, match="--remote http"):
            read_manifest(tmp_path)
        (one,), _ = collect([f"{store}a.flac"], remotes=Remotes([store]))
        assert one.id == "a.flac" and reading.info(one.path).seconds == 1.0
        with pytest.raises(UserError, match="if you name its store: --remote"):
            collect([f"{store}a.flac"])


def test_of_a_large_recording_behind_an_address_parts_are_read(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="http needs the extra scale")
    samples = noise(150.0, seed=3)
    write_audio(tmp_path / "long.wav", samples)
    assert (tmp_path / "long.wav").stat().st_size > 4.5e6
    with web(tmp_path, ranges=True) as (store, asked):
        read = reading.read(Remote(f"{store}long.wav"), RATE, 140.0, 141.0)
        here = reading.read(str(tmp_path / "long.wav"), RATE, 140.0, 141.0)
        np.testing.assert_array_equal(read, here)
        assert all("bytes=" in line for line in asked if line.startswith("GET"))
    with (
        web(tmp_path, ranges=False) as (store, _),
        pytest.raises(UserError, match="no ranges"),
    ):
        reading.read(Remote(f"{store}long.wav"), RATE, 140.0, 141.0)


def test_a_store_that_is_silent_is_one_line() -> None:
    pytest.importorskip("aiohttp", reason="http needs the extra scale")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/a.wav"
        with pytest.raises(UserError, match="check that it can be reached") as caught:
            reading.info(Remote(address))
    assert "\n" not in str(caught.value)
