"""egs/real/short.py and beginnings.py: what is left when recordings are cut."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import soundfile
from builders import load_script, write_audio

import speechssl
from speechssl.data.manifest import read_manifest
from speechssl.evaluation.verification.scoring import unit

short = load_script("egs/real/short.py")
beginnings = load_script("egs/real/beginnings.py")


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


def test_beginnings_are_utterances_of_the_same_names(tmp_path, monkeypatch):
    """Of two segments of one file and another file; shorter ones are left whole."""
    source = tmp_path / "source"
    source.mkdir()
    for name, seconds in (("long", 4), ("short", 0.4)):
        wave = 0.1 * np.random.default_rng(0).standard_normal(round(seconds * 16000))
        write_audio(tmp_path / f"{name}.wav", wave.astype(np.float32))
    (source / "wav.scp").write_text(f"long {tmp_path}/long.wav\nshort {tmp_path}/short.wav\n")
    (source / "segments").write_text("a long 0.5 2.5\nb long 2 4\nc short 0 0.4\n")
    (source / "trials").write_text("a b target\na c nontarget\n")
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["x", str(source), str(out), "--seconds", "0.5", "1"])
    beginnings.main()
    found = {one.id: one for one in read_manifest(out).utterances}
    assert sorted(found) == ["a", "b", "c"]
    assert (found["a"].start, found["b"].start, found["c"].stop) == (0.5, 2.0, 0.4)
    lengths = [found[name].stop - found[name].start for name in "ab"]
    assert set(np.round(lengths, 6)) <= {0.5, 1.0}
    stated = dict(line.split() for line in (out / "utt2dur").read_text().splitlines())
    assert [float(stated[name]) for name in "ab"] == pytest.approx(lengths)
    assert (out / "trials").read_text() == "1 a b\n0 a c\n"


def test_two_versions_of_a_directory_can_lie_beside_each_other(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    write_audio(tmp_path / "one.wav", np.full(16000, 0.1, np.float32))
    (source / "wav.scp").write_text(f"a {tmp_path}/one.wav\nb {tmp_path}/one.wav\n")
    (source / "trials").write_text("1 a b\n")
    (source / "utt2spk").write_text("a anna\nb anna\n")
    out = tmp_path / "out"
    arguments = [str(source), str(out), "--seconds", "0.5", "--prefix", "calls/"]
    monkeypatch.setattr(sys, "argv", ["x", *arguments])
    beginnings.main()
    assert [one.id for one in read_manifest(out)] == ["calls/a", "calls/b"]
    assert (out / "trials").read_text() == "1 calls/a calls/b\n"
    assert (out / "utt2dur").read_text() == "calls/a 0.500\ncalls/b 0.500\n"
    assert (out / "utt2spk").read_text() == "calls/a anna\ncalls/b anna\n"


def test_two_channels_of_a_file_stay_two_recordings(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    wave = 0.1 * np.random.default_rng(0).standard_normal((16000, 2))
    soundfile.write(tmp_path / "call.wav", wave, 16000)
    (source / "wav.scp").write_text(f"left {tmp_path}/call.wav\nright {tmp_path}/call.wav\n")
    (source / "reco2channel").write_text("left 1\nright 2\n")
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["x", str(source), str(out), "--seconds", "0.5"])
    beginnings.main()
    found = [(one.id, one.channel, one.stop) for one in read_manifest(out)]
    assert found == [("left", 1, 0.5), ("right", 2, 0.5)]
