"""The curves of a run as a page that refreshes itself: a file, or served to this machine alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from speechssl import files
from speechssl.errors import UserError, writing
from speechssl.pools import start_thread
from speechssl.report.page import write
from speechssl.report.page.blocks import Block, Text
from speechssl.report.page.clips import Clips
from speechssl.report.page.material import Material, PageSettings, Run
from speechssl.report.page.sections import training
from speechssl.report.watch.following import Watched
from speechssl.report.watch.frame import duration

HOST = "127.0.0.1"
"""The only address that is listened on."""

_SECONDS_OF_A_REQUEST = 10


def page(run: Watched, seconds: float) -> str:
    """Return the page of a run: how far it is, its curves and alarms.

    Args:
        run: as it stands.
        seconds: after which the page loads itself anew; not if the run is finished.
    """
    shown = Run(run.name, dict(run.settings), dict(run.about), run.log.rows())
    material = Material([run.name], PageSettings(), Clips({}, 0), runs=[shown])
    blocks: list[Block] = [Text(_state(run), "note")]
    for note in run.notes:
        blocks.append(Text(note, "warning"))
    if run.log.broken:
        blocks.append(Text(f"{run.log.broken} lines of log.jsonl are no entries.", "warning"))
    blocks += training.build(material)
    built = [{"name": "training", "title": "Training", "blocks": blocks}]
    return write.render(material, built, refresh=0 if run.is_finished else max(1, round(seconds)))


def _state(run: Watched) -> str:
    said = f"Step {run.log.step:.0f}" + (f" of {run.steps:.0f}" if run.steps else "")
    left = run.seconds_left()
    if run.is_finished:
        return f"{said}; finished."
    since = run.seconds_since_last()
    said += f"; about {duration(left)} left" if left is not None else ""
    said += f"; last logged {duration(since)} ago" if since is not None else ""
    return f"{said}; page of {time.strftime('%H:%M:%S')}."


def write_page(run: Watched, out: Path, seconds: float) -> None:
    """Write the page to a file, whole or not at all.

    Raises:
        UserError: the disk refused.
    """
    with writing(out, "choose another --page"):
        out.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(out, page(run, seconds))


class _Handler(BaseHTTPRequestHandler):
    """Answers GET / with the page, and everything else with an error."""

    timeout = _SECONDS_OF_A_REQUEST
    server: _Server

    def do_GET(self) -> None:
        # A name that somebody else's site points at this machine is not ours to answer.
        host = self.headers.get("Host", "")
        if host not in (
            f"{HOST}:{self.server.server_port}",
            f"localhost:{self.server.server_port}",
        ):
            self.send_error(403)
            return
        if self.path != "/":
            self.send_error(404)
            return
        with self.server.lock:
            content = self.server.make().encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal shows the run."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    lock = threading.Lock()  # one page at a time

    def __init__(self, port: int, make: Callable[[], str]) -> None:
        super().__init__((HOST, port), _Handler)
        self.make = make

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a browser that has gone away is no error."""


def serve(make: Callable[[], str], port: int) -> _Server:
    """Serve a page on `HOST` from a thread of its own.

    Args:
        make: returns the page.
        port: 0: one that is free.

    Returns:
        The server: `server_port` says where, `shutdown()` ends it.

    Raises:
        UserError: the port is taken.
    """
    try:
        server = _Server(port, make)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"watch: port {port} cannot be used ({error}); give another --port"
        ) from error
    start_thread(server.serve_forever, name="page")
    return server
