"""Means of scalars, and a log that a resumed run continues."""

import io
import json

import pytest
import torch

from speechssl.files import RunFolder
from speechssl.train.logs import Log, Meter


def test_a_meter_gives_the_mean_since_the_last_reading():
    meter = Meter()
    assert meter.read() == {}
    for value in (1.0, 2.0, 6.0):
        meter.add({"loss": torch.tensor(value), "kl": torch.tensor(-value)})
    assert meter.read() == pytest.approx({"loss": 3.0, "kl": -3.0})
    assert meter.read() == {}
    meter.add({"loss": torch.tensor(5.0)})
    assert meter.read() == {"loss": 5.0}


def test_a_meter_does_not_change_what_it_was_given():
    meter, value = Meter(), torch.tensor(1.0)
    meter.add({"loss": value})
    meter.add({"loss": value})
    assert value.item() == 1.0 and meter.read()["loss"] == 1.0


def written(tmp_path):
    return [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]


def test_one_object_a_line_with_five_digits(tmp_path, capsys):
    log = Log(RunFolder(tmp_path), 10, 0)
    log.write(1, {"loss": 1.23456789, "alarms": ["x"]})
    log.write(2, {"loss": 2e-9})
    log.close()
    assert written(tmp_path) == [
        {"step": 1, "loss": 1.2346, "alarms": ["x"]},
        {"step": 2, "loss": 2e-9},
    ]
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("step 1/10  loss 1.235  ") and "step 2/10  loss 2e-09" in second


def test_a_resumed_run_cuts_off_what_was_logged_after_its_state_and_half_a_line(tmp_path):
    log = Log(RunFolder(tmp_path), 10, 0)
    for step in range(1, 7):
        log.write(step, {"loss": float(step)})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    log = Log(RunFolder(tmp_path), 10, 4)
    log.write(5, {"loss": 50.0})
    log.close()
    assert [(line["step"], line["loss"]) for line in written(tmp_path)] == [
        (1, 1),
        (2, 2),
        (3, 3),
        (4, 4),
        (5, 50),
    ]


def test_a_fresh_run_starts_a_fresh_log(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')
    Log(RunFolder(tmp_path), 10, 0).close()
    assert written(tmp_path) == []


def test_other_processes_write_nothing(tmp_path, capsys):
    log = Log(RunFolder(tmp_path), 10, 0, active=False)
    log.write(1, {"loss": 1.0})
    log.say("hello")
    log.tick()
    log.close()
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().err == ""


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("plain", [False, True])
def test_on_a_terminal_there_is_one_readable_line_and_alarms_are_red(tmp_path, monkeypatch, plain):
    monkeypatch.delenv("NO_COLOR", raising=False)
    if plain:
        monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    log = Log(RunFolder(tmp_path), 10, 0)
    log.write(1, {"loss": 1.23456789, "effective_rank": 9.876, "data_wait": 0.256, "lr": 1e-3})
    assert log.bar.postfix == "loss 1.235  rank 9.88  wait 26%  lr 0.001"
    log.write(2, {"loss": 2.0}, ["collapse alarm: x"])
    assert log.bar.postfix.startswith("loss 2  rank 9.88")  # the rank is measured more rarely
    log.close()
    said = terminal.getvalue()
    assert ("\x1b[1;31mcollapse alarm: x\x1b[0m" in said) == (not plain)
    assert "collapse alarm: x" in said and ("\x1b[31m" in said) == (not plain)
    assert written(tmp_path)[1]["alarms"] == ["collapse alarm: x"]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_line_of_a_terminal_fits_into_its_width(tmp_path, monkeypatch, width):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("speechssl.train.logs._columns", lambda: width)
    monkeypatch.setenv("COLUMNS", str(width))
    log = Log(RunFolder(tmp_path), 1000, 0)
    figures = {"loss": 5.825, "teacher_entropy": 3.9, "kl": 1.92, "effective_rank": 83.9}
    figures |= {"utterances_per_second": 33.2, "data_wait": 0.01, "lr": 2.5e-4}
    log.write(1, figures)
    shown = str(log.bar)
    log.close()
    assert len(shown) <= width
    assert "loss 5.825  entropy 3.9" in shown
    assert ("lr 0.00025" in shown) == (width == 200)
    assert ("33.2 utt/s" in shown) == (width > 60)
