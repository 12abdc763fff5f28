"""A run while it goes on: what is read of its log, the frame in the terminal, the page."""

from __future__ import annotations

import http.client
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from speechssl.errors import UserError
from speechssl.files import RunFolder
from speechssl.report.watch.following import MOST_POINTS, LogFollower, Watched, watched
from speechssl.report.watch.frame import by_step, sparkline

ALARM = "collapse alarm: embeddings use 1.2 of 16 directions; likely cause: x; remedy: y"
HOSTILE = "[bold red]</script><script>alert(1)</script>\x1b[2J\u202e"


def entry(step: int, **more: Any) -> str:
    figures = {"epoch": step / 10, "loss": 10.0 / step, "lr": 1e-3, "utterances_per_second": 50.0}
    return json.dumps({"step": step, **figures, **more}) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    (run / "untrained").mkdir(parents=True)
    (run / "config.yaml").write_text("train: {epochs: 10, steps: null}\n")
    (run / "about.yaml").write_text("data: {utterances: 400}\n")
    (run / "untrained" / "config.yaml").write_text("about: {step: 0, steps: 100}\n")
    lines = [entry(step, **({"effective_rank": 9.0} if step % 2 else {})) for step in range(1, 21)]
    (run / "log.jsonl").write_text("".join(lines))
    return run


def shown(run: Watched, width: int = 120) -> str:
    pytest.importorskip("rich", reason="needs the extra log")
    from rich.console import Console

    from speechssl.report.watch.frame import frame

    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False, emoji=False)
    console.print(frame(run, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_time_left_is_the_steps_left_at_the_rate_of_now(folder: Path) -> None:
    run = watched(folder)
    # 400 utterances and 10 steps an epoch: 40 a step, 80 steps left, 50 utterances a second
    assert run.steps == 100 and run.log.step == 20
    assert run.seconds_left() == pytest.approx(80 * 40 / 50)
    assert "step 20 of 100, 64 s left" in shown(run)


def test_a_growing_log_is_read_on_and_one_that_was_cut_back_anew(folder: Path) -> None:
    log = folder / "log.jsonl"
    follower = LogFollower(log)
    assert follower.read() and not follower.read()
    whole = entry(21, loss=7.0)
    with log.open("a") as file:
        file.write(whole[:10])
        file.flush()
        assert follower.read() and follower.step == 20 and follower.broken == 0
        file.write(whole[10:])
    assert follower.read() and follower.series["loss"].points()[-1] == (21, 7.0)
    temporary = folder / "new"
    temporary.write_text(entry(1) + entry(2, loss=3.0))
    os.replace(temporary, log)
    assert follower.read() and follower.step == 2
    assert [value for _, value in follower.series["loss"].points()] == [10.0, 3.0]


def test_rare_figures_survive_the_thinning_of_a_long_log(tmp_path: Path) -> None:
    count = 10 * MOST_POINTS
    log = tmp_path / "log.jsonl"
    with log.open("w") as file:
        for step in range(1, count + 1):
            rare = {"rankme": float(step)} if step % 1000 == 7 else {}
            file.write(json.dumps({"step": step, "loss": float(step), **rare}) + "\n")
    follower = LogFollower(log)
    follower.read()
    losses = follower.series["loss"].points()
    assert MOST_POINTS / 2 <= len(losses) <= MOST_POINTS + 1 and losses[-1] == (count, count)
    assert [step for step, _ in losses] == sorted({step for step, _ in losses})
    assert [step for step, _ in follower.series["rankme"].points()] == list(range(7, count, 1000))


HOSTILE_LINES = {
    "not json": b"hello\n",
    "list": b"[1]\n",
    "no step": b'{"loss": 1}\n',
    "nan step": b'{"step": NaN, "loss": 1}\n',
    "deep": b"[" * 50_000 + b"\n",
    "long": b'{"step": 1, "x": "' + b"a" * 100_000 + b'"}\n',
    "very long": b"x" * 9_000_000 + b"\n",
    "binary": bytes(range(256)) + b"\n",
}


@pytest.mark.parametrize("name", HOSTILE_LINES)
def test_what_is_no_entry_is_counted_and_the_rest_is_shown(folder: Path, name: str) -> None:
    good = (folder / "log.jsonl").read_bytes()
    (folder / "log.jsonl").write_bytes(HOSTILE_LINES[name] + good + b'{"step": 9, "lo')
    run = watched(folder)
    assert run.log.broken in (1, 2) and run.log.step == 20  # bytes may hold a line's end
    text = shown(run)
    assert "lines are no entries" in text and "step 20 of 100" in text


def test_many_figures_and_alarms_and_odd_values_are_bounded(folder: Path) -> None:
    odd = {f"figure{number}": number for number in range(1000)}
    lines = [entry(30, loss=math.nan, kl=1e400, lr="high", alarms=[ALARM] * 500, **odd)]
    lines.append(json.dumps({"step": 31, "rankme": 10**400, "alarms": "no list"}) + "\n")
    with (folder / "log.jsonl").open("a") as file:
        file.writelines(lines)
    run = watched(folder)
    assert len(run.log.series) == 64 and len(run.log.alarms) == 200
    text = shown(run)
    assert "195 earlier alarms" in text and "nan" in text


def test_markup_and_control_characters_are_text(folder: Path) -> None:
    with (folder / "log.jsonl").open("a") as file:
        file.write(entry(21, alarms=[HOSTILE]))
    (folder / "config.yaml").write_text("train: !!python/object:os.system {}\n")
    run = watched(folder)
    text = shown(run)
    assert "\x1b" not in text and "\u202e" not in text and "[bold red]" in text
    assert "config.yaml" in text  # what could not be read is said
    pytest.importorskip("plotly", reason="needs the extra page")
    from speechssl.report.watch.page import page

    html = page(run, 10)
    assert "<script>alert" not in html and '<meta http-equiv="refresh" content="10">' in html


def test_a_run_that_has_ended_is_said_to_and_its_page_stays(folder: Path) -> None:
    (folder / "model").mkdir()
    for name in ("config.yaml", "weights.safetensors"):
        (folder / "model" / name).touch()
    run = watched(folder)
    assert run.seconds_left() is None and "finished" in shown(run)
    pytest.importorskip("plotly", reason="needs the extra page")
    from speechssl.report.watch.page import page

    assert 'http-equiv="refresh"' not in page(run, 10)


def test_before_the_first_entry_and_no_run_at_all(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run folder.*give .*/run$"):
        watched(folder.parent)
    (folder / "log.jsonl").unlink()
    assert "nothing logged yet" in shown(watched(folder))
    with pytest.raises(UserError, match="is no run folder.*give the --out"):
        watched(tmp_path)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], "▁▂▃▄▅▆▇█"),
        ([1.0, 1.0], "▅▅"),
        ([0.0, math.nan, 1.0], "▁·█"),
        ([], ""),
        ([math.nan], "·"),
        ([0.0, 0.0, 7.0, 7.0], "▁▁██"),
    ],
)
def test_a_curve_by_hand(values: list[float], expected: str) -> None:
    pytest.importorskip("rich", reason="needs the extra log")
    from speechssl.report.watch.frame import sparkline

    assert sparkline(values) == expected


def test_curves_stand_below_each_other_by_their_steps() -> None:
    pytest.importorskip("rich", reason="needs the extra log")
    from speechssl.report.watch.frame import by_step

    every = [(float(step), float(step)) for step in range(1, 9)]
    assert by_step(every, 8, 4) == [1.5, 3.5, 5.5, 7.5]  # two in each span
    rare = by_step([(4.0, 10.0), (8.0, 20.0)], 8, 4)
    assert math.isnan(rare[0]) and rare[1:] == [
        10,
        10,
        20,
    ]  # from step 4 on, until it is measured again
    broken = by_step([(2.0, 1.0), (4.0, math.nan)], 8, 4)
    assert broken[0] == 1 and all(map(math.isnan, broken[1:]))
    assert by_step([], 0, 2)[0] != by_step([], 0, 2)[0]


def test_a_change_of_a_percent_is_drawn_small() -> None:
    pytest.importorskip("rich", reason="needs the extra log")
    from speechssl.report.watch.frame import sparkline

    assert sparkline([84.0, 84.4, 84.1]) == "▄▅▄"
    assert sparkline([84.0, 8.4]) == "█▁"


def test_it_fits_a_narrow_terminal(folder: Path) -> None:
    for width in (40, 80, 200):
        assert max(map(len, shown(watched(folder), width).splitlines())) <= width


def get(port: int, path: str, host: str | None = None, method: str = "GET") -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    answer.read()
    return answer


def test_the_server_has_one_page_for_this_machine(folder: Path) -> None:
    from speechssl.report.watch.page import serve

    server = serve(lambda: "<p>page</p>", 0)
    try:
        assert server.server_address[0] == "127.0.0.1"
        port = server.server_port
        answer = get(port, "/")
        assert answer.status == 200 and answer.headers["Cache-Control"] == "no-store"
        for path in ("/config.yaml", "/../log.jsonl", "/?x", "/%2e%2e/"):
            assert get(port, path).status == 404
        assert get(port, "/", host="evil.example:80").status == 403
        assert get(port, "/", method="POST").status == 501
        with pytest.raises(UserError, match="give another --port"):
            serve(str, port)
    finally:
        server.shutdown()
        server.server_close()


def command(*words: object) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "speechssl", "watch", *map(str, words)]
    return subprocess.run(call, capture_output=True, text=True, timeout=60)


def test_the_command_prints_a_frame_and_writes_a_page(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("rich", reason="needs the extra log")
    done = command(folder, "--once")
    assert done.returncode == 0, done.stderr
    assert "step 20 of 100" in done.stdout and "\x1b" not in done.stdout
    into_a_pipe = command(folder)
    assert into_a_pipe.returncode == 0 and "step 20 of 100" in into_a_pipe.stdout
    pytest.importorskip("plotly", reason="needs the extra page")
    page = tmp_path / "page.html"
    done = command(folder, "--page", page, "--once")
    assert done.returncode == 0, done.stderr
    assert "Effective rank" in page.read_text() and 'http-equiv="refresh"' in page.read_text()


def test_figures_near_the_largest_number_have_a_curve() -> None:
    assert sparkline([1e308, -1e308]) == "█▁"
    assert by_step([(1.0, 1e308), (2.0, 1e308)], 2.0, 1) == [1e308]


def test_a_log_that_would_never_end_is_one_line(folder: Path) -> None:
    log = RunFolder(folder).log
    log.unlink()
    log.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="is a device"):
        watched(folder)
