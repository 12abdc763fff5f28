"""egs/real/short.py: what is left when one side of each trial is cut."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import write_audio

import speechssl
from speechssl.evaluation.verification.scoring import unit

SCRIPT = Path(__file__).parents[2] / "egs" / "real" / "short.py"
SPEC = importlib.util.spec_from_file_location("short", SCRIPT)
assert SPEC is not None and SPEC.loader is not None
short = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(short)


def test_only_the_second_side_is_cut(tmp_path, monkeypatch, capsys):
    """The table is what the embeddings of files, cut by hand, give at the threshold."""
    rng = np.random.default_rng(0)
    embedder = speechssl.load("mfcc")
    lines = []
    whole = []
    cut = []
    for number in range(3):
        samples = (0.1 + 0.02 * number) * rng.standard_normal(16000).cumsum().astype(np.float32)
        samples /= 4 * np.abs(samples).max()
        write_audio(tmp_path / f"{number}.wav", samples)
        write_audio(tmp_path / f"cut{number}.wav", samples[:8000])
        whole.append(tmp_path / f"{number}.wav")
        cut.append(tmp_path / f"cut{number}.wav")
        lines.append(f"u{number} {tmp_path}/{number}.wav\n")
    data = tmp_path / "data"
    data.mkdir()
    (data / "wav.scp").write_text("".join(lines))
    (data / "trials").write_text("u0 u1 target\nu1 u0 nontarget\nu0 u2 nontarget\nu0 gone target\n")
    cosines = unit(embedder.embed(whole)) @ unit(embedder.embed(cut)).T
    threshold = float(cosines[0, 1])  # not rejected at it; the others as they come
    accepted = 50.0 * sum(cosines[pair] >= threshold for pair in ((1, 0), (0, 2)))
    words = ["x", "mfcc", str(data), "--seconds", "0.5", "--threshold", str(threshold - 1e-6)]
    monkeypatch.setattr(sys, "argv", words)
    short.main()
    row = capsys.readouterr().out.splitlines()[2].split(" | ")
    assert row[0] == "| data" and row[1] == "0.5"
    assert float(row[3]) == 0.0
    assert float(row[4].rstrip(" |")) == pytest.approx(accepted, abs=0.1)


def test_a_shorter_recording_is_left_as_it_is():
    one = speechssl.data.manifest.Utterance("a", "a.wav", start=1.0, stop=2.0, seconds=1.0)
    assert short.beginning(one, 3.0) is one and short.beginning(one, math.inf) is one
    assert short.beginning(one, 0.25).stop == 1.25
