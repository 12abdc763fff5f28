"""Lhotse's manifests, written by hand and by Lhotse, and hostile ones."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
import trees
from builders import noise
from trees import lhotse_recording, lhotse_supervision, put, write_jsonl

from speechssl.__main__ import main
from speechssl.corpora import lhotse, lhotse_manifests
from speechssl.data.manifest import read_manifest
from speechssl.data.validation import validate
from speechssl.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return trees.lhotse(tmp_path / "manifests").root


def reasons(out: Path) -> dict[str, str]:
    """Place or id -> reason, of what was left out."""
    lines = (out / "skipped.tsv").read_text().splitlines()
    return dict(line.split("\t") for line in lines[1:])


def test_supervisions_are_utterances_and_parts_of_files_segments(root, tmp_path):
    out = tmp_path / "out"
    lhotse.prepare(root, out)
    read = read_manifest(out, "all")
    spans = {u.id: (Path(u.path).name, round(u.start, 3), u.stop) for u in read}
    assert spans == {
        "s1": ("r1.wav", 0, 1.0),
        "s2": ("r2.wav", 0, 1.0),
        "s3": ("r3.wav", 0, 1.25),
        "s4": ("r3.wav", 1.5, 3.0),
    }
    assert read.labels == {
        "spk": {"s1": "ann", "s2": "Bob_B.", "s3": "ann", "s4": "ann"},
        "gender": {"s1": "f", "s2": "m", "s3": "f", "s4": "f"},
        "language": dict.fromkeys(["s1", "s2", "s3", "s4"], "English"),
        "emotion": {"s1": "happy", "s2": "happy", "s3": "happy", "s4": "very sad"},
    }
    assert validate(out, read_audio=True) == []
    names = [line.split()[0] for line in (out / "wav.scp").read_text().splitlines()]
    assert names == ["r1", "r2", "r3"]


def test_recordings_alone_are_whole_files(root, tmp_path):
    manifest = lhotse.prepare(root / "tiny_recordings_all.jsonl.gz", tmp_path / "out")
    assert manifest.ids == ["r1", "r2", "r3"]
    assert not (tmp_path / "out/segments").exists()
    assert [round(u.seconds, 3) for u in manifest] == [1.0, 1.0, 3.0]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".json.gz", ".jsonl.gz"])
def test_cuts_of_every_form(root, tmp_path, suffix):
    recording = lhotse_recording(root / "audio/r3.wav", 3.0)
    cut = {"type": "MonoCut", "start": 0.5, "duration": 2.0, "channel": 0, "recording": recording}
    one = lhotse_supervision("x", "r3")
    other = lhotse_supervision("y", "r3", speaker="bob", start=1.0)
    rows = [
        cut | {"id": "c one", "supervisions": [one], "custom": {"room": "hall"}},
        cut | {"id": "c2", "supervisions": [one, other]},
        cut | {"id": "c3", "supervisions": [], "type": "Cut"},
        {"id": "mixed", "type": "MixedCut", "tracks": []},
        {"id": "c4", "type": "MonoCut", "start": 0, "duration": 1.0, "channel": 0},
    ]
    path = tmp_path / f"my_cuts{suffix}"
    if ".jsonl" in suffix:
        write_jsonl(path, rows)
    else:
        data = json.dumps(rows).encode()
        path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    out = tmp_path / "out"
    manifest = lhotse.prepare(path, out)
    assert manifest.ids == ["c2", "c3", "c_one"]
    assert {(u.start, u.stop) for u in manifest} == {(0.5, 2.5)}
    assert manifest.labels["spk"] == {"c_one": "ann"}  # c2 has two speakers
    assert manifest.labels["gender"] == {"c_one": "f", "c2": "f"}
    assert manifest.labels["room"] == {"c_one": "hall"}
    assert reasons(out)[f"{path.name}:4"].startswith("computed cut: MixedCut")
    assert reasons(out)[f"{path.name}:5"].startswith("no recording")


def test_cuts_beside_recordings_must_be_chosen(root, tmp_path):
    cut = {"type": "MonoCut", "id": "c", "start": 0, "duration": 3.0, "channel": 0}
    cut["recording"] = lhotse_recording(root / "audio/r3.wav", 3.0)
    write_jsonl(root / "tiny_cuts_all.jsonl.gz", [cut])
    with pytest.raises(UserError, match=r"holds cuts \(tiny_cuts_all.jsonl.gz\) beside"):
        lhotse.prepare(root, tmp_path / "out")
    chosen = [Path("tiny_cuts_all.jsonl.gz")]
    assert lhotse.prepare(root, tmp_path / "out", manifests=chosen).ids == ["c"]


def test_relative_paths_begin_where_the_user_says(root, tmp_path, monkeypatch):
    rows = [lhotse_recording(Path("audio/r1.wav"), 1.0), lhotse_recording(Path("audio/r9.wav"), 1)]
    path = write_jsonl(tmp_path / "recordings.jsonl", rows)
    with pytest.raises(UserError, match=r"none of 2 .*no such file: audio/r1.wav; relative paths"):
        lhotse.prepare(path, tmp_path / "out")
    assert lhotse.prepare(path, tmp_path / "out", audio=root).ids == ["r1"]
    monkeypatch.chdir(root)
    assert lhotse.prepare(path, tmp_path / "out").ids == ["r1"]
    assert "--audio" in reasons(tmp_path / "out")["r9"]


def test_addresses_and_commands_only_where_they_were_allowed(root, tmp_path, monkeypatch):
    def source(name, kind, place):
        recording = lhotse_recording(Path(f"{name}.wav"), 2.0)
        return recording | {"sources": [{"type": kind, "channels": [0], "source": place}]}

    marker = tmp_path / "ran"
    rows = [
        lhotse_recording(root / "audio/r1.wav", 1.0),
        source("web", "url", "https://example.org/data/a.flac"),
        source("other", "url", "https://elsewhere.org/a.flac"),
        source("hidden", "file", "s3://bucket/a.flac"),
        source("command", "command", f"touch {marker}; cat {root}/audio/r1.wav"),
        source("two lines", "command", f"touch {marker}\ntrue"),
        source("pipe", "file", f"touch {marker} |"),
        source("memory", "memory", "UklGRg=="),
        source("up", "file", "../../etc/passwd"),
    ]
    path = write_jsonl(tmp_path / "recordings.jsonl", rows)
    out = tmp_path / "out"
    assert lhotse.prepare(path, out).ids == ["r1"]
    kinds = {name: reason.partition(":")[0] for name, reason in reasons(out).items()}
    assert kinds == {
        "web": "address",
        "other": "address",
        "hidden": "address",
        "command": "shell pipe",
        "two_lines": "shell pipe",
        "pipe": "no such file",
        "memory": "other source",
        "up": "outside the folder of the audio",
    }
    allowed = lhotse.prepare(path, out, remote=["https://example.org/data/"], allow_pipes=True)
    assert [(u.id, u.seconds) for u in allowed] == [("command", 2.0), ("r1", 1.0), ("web", 2.0)]
    assert not marker.exists()  # nothing was run, nobody was asked
    wav_scp = (out / "wav.scp").read_text().splitlines()
    assert wav_scp[0] == f"command touch {marker}; cat {root}/audio/r1.wav |"
    assert wav_scp[2] == "web https://example.org/data/a.flac"
    with pytest.raises(UserError, match="shell pipe"):
        read_manifest(out)


def test_channels_of_a_recording(tmp_path):
    stereo = put(tmp_path / "stereo.wav", np.stack([noise(1), noise(1, seed=1)], axis=1))
    array = put(tmp_path / "array.wav", np.stack([noise(1, seed=n) for n in range(3)], axis=1))
    left = put(tmp_path / "left.wav")
    right = put(tmp_path / "right.wav")
    both = {"sources": [{"type": "file", "channels": [0, 1], "source": str(stereo)}]}
    parts = {
        "sources": [
            {"type": "file", "channels": [0], "source": str(left)},
            {"type": "file", "channels": [1], "source": str(right)},
        ]
    }
    three = {"sources": [{"type": "file", "channels": [4, 2, 7], "source": str(array)}]}
    recordings = [
        lhotse_recording(Path("three"), 1.0, **three),
        lhotse_recording(Path("both"), 1.0, **both),
        lhotse_recording(Path("parts"), 1.0, **parts),
    ]
    supervisions = [
        lhotse_supervision("all", "both", channel=[0, 1]),
        lhotse_supervision("first", "both", channel=0),
        lhotse_supervision("second", "both", channel=[1]) | {"start": 0.2, "duration": 0.5},
        lhotse_supervision("seven", "three", channel=7),
        lhotse_supervision("pair", "three", channel=[4, 7]),
        lhotse_supervision("none", "both", channel=7),
        lhotse_supervision("right", "parts", channel=1),
        lhotse_supervision("two", "parts", channel=[0, 1]),
    ]
    folder = tmp_path / "manifests"
    write_jsonl(folder / "recordings.jsonl", recordings)
    write_jsonl(folder / "supervisions.jsonl", supervisions)
    out = tmp_path / "out"
    manifest = lhotse.prepare(folder, out)
    assert len(manifest) == 5
    found = {u.id: (Path(u.path).name, u.channel) for u in read_manifest(out)}
    assert found == {
        "all": ("stereo.wav", None),
        "first": ("stereo.wav", 1),
        "second": ("stereo.wav", 2),
        "right": ("right.wav", None),
        "seven": ("array.wav", 3),  # its place in the file
    }
    assert reasons(out)["pair"].startswith("some channels of several: [4, 7] of [4, 2, 7]")
    assert reasons(out)["none"].startswith("no file")
    assert reasons(out)["two"].startswith("several files")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": ""}, "wrong entry: no id"),
        ({"id": "x" * 1001}, "wrong entry: no id"),
        ({"id": 7}, "wrong entry: no id"),
        ({"start": -1}, "wrong entry: start"),
        ({"start": "0"}, "wrong entry: start"),
        ({"duration": 0}, "wrong entry: duration"),
        ({"duration": True}, "wrong entry: duration"),
        ({"duration": float("inf")}, "wrong entry: duration"),
        ({"duration": float("nan")}, "wrong entry: duration"),
        ({"duration": 10**400}, "wrong line"),
        ({"duration": 9.0}, "outside its file"),
        ({"start": 2.0}, "outside its file"),
        ({"recording_id": "nobody"}, "no recording"),
        ({"id": "s1"}, "id twice"),
    ],
)
def test_a_bad_supervision_is_left_out(root, tmp_path, changes, reason):
    path = root / "tiny_supervisions_all.jsonl.gz"
    good = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    write_jsonl(path, [*good, lhotse_supervision("bad", "r1", **changes)])
    out = tmp_path / "out"
    assert lhotse.prepare(root, out).ids == ["s1", "s2", "s3", "s4"]
    (said,) = reasons(out).values()
    assert said.startswith(reason) or (reason == "wrong line" and said.startswith("wrong"))


@pytest.mark.parametrize(
    "changes",
    [
        {"sources": []},
        {"sources": 5},
        {"sources": [7]},
        {"sources": [{"type": "file", "source": "a"}]},
        {"sources": [{"type": "file", "channels": ["0"], "source": "a"}]},
        {"sources": [{"type": "file", "channels": [0], "source": 5}]},
        {"sources": [{"type": "file", "channels": [0], "source": "a\0b"}]},
        {"sources": [{"type": "file", "channels": [0], "source": "\ud800"}]},
        {"sources": [{"type": "file", "channels": [0], "source": "/dev/zero"}]},
        {"sources": [{"type": "file", "channels": [0], "source": "/tmp"}]},
        {"transforms": 5},
        {"transforms": [{"name": "Speed", "kwargs": {"factor": 1.1}}]},
        {"transforms": ["x"]},
        {"duration": None},
        {"id": ["r"]},
        {"sources": None, "type": ["MonoCut"]},
    ],
)
def test_a_bad_recording_is_left_out(root, tmp_path, changes):
    good = lhotse_recording(root / "audio/r1.wav", 1.0)
    bad = lhotse_recording(root / "audio/r2.wav", 1.0, **changes)
    resampled = lhotse_recording(root / "audio/r3.wav", 3.0, transforms=[{"name": "Resample"}])
    path = write_jsonl(tmp_path / "recordings.jsonl", [good, bad, resampled])
    assert lhotse.prepare(path, tmp_path / "out").ids == ["r1", "r3"]
    assert len(reasons(tmp_path / "out")) == 1


def test_a_fifo_blocks_nobody(root, tmp_path):
    os.mkfifo(tmp_path / "fifo.wav")
    rows = [
        lhotse_recording(root / "audio/r1.wav", 1.0),
        lhotse_recording(tmp_path / "fifo.wav", 1),
    ]
    path = write_jsonl(tmp_path / "recordings.jsonl", rows)
    assert lhotse.prepare(path, tmp_path / "out").ids == ["r1"]
    os.mkfifo(tmp_path / "x.jsonl")
    with pytest.raises(UserError, match="FIFO"):
        lhotse.prepare(tmp_path / "x.jsonl", tmp_path / "out")


def test_labels_never_choose_a_path_and_are_plain_text(root, tmp_path):
    custom = {
        "../../evil": "x",
        "spk": "x",
        "dur": "9",
        "two words": "x",
        "long": "x" * 1001,
        "number": 5,
        "lines": " one\n two\ud800 ",
    }
    supervision = lhotse_supervision("s", "r1", speaker="a\tb\nc", gender=None, custom=custom)
    path = root / "tiny_supervisions_all.jsonl.gz"
    write_jsonl(path, [supervision])
    out = tmp_path / "out"
    lhotse.prepare(root, out)
    assert read_manifest(out, "all").labels == {
        "spk": {"s": "a_b_c"},
        "language": {"s": "English"},
        "lines": {"s": "one two?"},
    }
    assert not (tmp_path / "evil").exists()


def test_lines_that_are_no_objects_are_left_out_up_to_a_limit(root, tmp_path, monkeypatch):
    monkeypatch.setattr(lhotse_manifests, "_LONGEST_LINE", 600)
    monkeypatch.setattr(lhotse_manifests, "_MOST_BAD_LINES", 5)
    good = json.dumps(lhotse_recording(root / "audio/r1.wav", 1.0))
    bad = ["not JSON", "[1, 2]", "[" * 500, '"' + "x" * 5000 + '"']
    path = tmp_path / "recordings.jsonl"
    path.write_text("\n".join([good, "", *bad, '{"id": "alien"}']))
    out = tmp_path / "out"
    assert lhotse.prepare(path, out).ids == ["r1"]
    assert list(reasons(out)) == [f"recordings.jsonl:{number}" for number in (3, 4, 5, 6, 7)]
    assert reasons(out)["recordings.jsonl:6"] == "wrong line: over 600 bytes"
    assert len(bad) == 4  # and an empty line
    path.write_text("\n".join([good, *bad, *bad]))
    with pytest.raises(UserError, match="over 5 lines are no JSON objects"):
        lhotse.prepare(path, out)


def test_a_manifest_of_nothing_usable_does_not_fill_the_memory(root, tmp_path, monkeypatch):
    monkeypatch.setattr(lhotse_manifests, "_MOST_LEFT_OUT", 1000)
    good = lhotse_recording(root / "audio/r1.wav", 1.0)
    for filling in ({}, good, {"sources": []}):
        path = write_jsonl(tmp_path / "recordings.jsonl.gz", [good, *[filling] * 1001])
        with pytest.raises(UserError, match=r"over 1,000 entries .* first, recordings.jsonl.gz:2"):
            lhotse.prepare(path, tmp_path / "out")


def test_what_unpacks_to_far_more_than_it_is_worth_is_not_read(root, tmp_path, monkeypatch):
    monkeypatch.setattr(lhotse_manifests, "_SMALLEST_LIMIT", 100_000)
    good = json.dumps(lhotse_recording(root / "audio/r1.wav", 1.0)).encode()
    path = tmp_path / "recordings.jsonl.gz"
    path.write_bytes(gzip.compress(good + b"\n" + b" " * 5_000_000))
    limit = f"{100 * path.stat().st_size:,}"
    with pytest.raises(UserError, match=f"unpacks to over {limit} bytes"):
        lhotse.prepare(path, tmp_path / "out")
    path.write_bytes(gzip.compress(good + b"\n" * 1_000_000))
    with pytest.raises(UserError, match=r"over 10,000 lines are no JSON objects"):
        lhotse.prepare(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.jsonl.gz", b"\x1f\x8b broken", "cannot be read"),
        ("a.jsonl.gz", gzip.compress(b'{"sources": []}\n' * 999, mtime=0)[:-20], "cannot be read"),
        ("a.jsonl.gz", b"plain text", "cannot be read"),
        ("a.json", b'{"id": 1}', "no JSON list"),
        ("a.json", b"[" * 100_000, "no JSON list"),
        ("a.jsonl", b"", "holds no manifest of recordings or cuts"),
        ("a.jsonl", b'{"num_features": 80, "recording_id": "r"}\n', "holds no manifest"),
    ],
)
def test_damaged_manifests_are_one_line(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=words) as caught:
        lhotse.prepare(tmp_path, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_as_a_user_types_it(root, tmp_path):
    out = tmp_path / "data"
    assert main(["prepare", "lhotse", str(root), str(out), "--check"]) == 0
    assert main(["validate", str(out)]) == 0
    embeddings = tmp_path / "mfcc.npz"
    assert main(["embed", "mfcc", str(out), "--out", str(embeddings)]) == 0
    with np.load(embeddings) as found:
        assert found["ids"].tolist() == ["s1", "s2", "s3", "s4"]


def test_an_allowed_command_gives_the_audio_of_its_file(root, tmp_path):
    """The same embedding, whichever of the two the manifest names."""
    command = lhotse_recording(Path("piped"), 1.0)
    source = {"type": "command", "channels": [0], "source": f"cat {root / 'audio/r1.wav'}"}
    command["sources"] = [source]
    path = write_jsonl(
        tmp_path / "recordings.jsonl", [lhotse_recording(root / "audio/r1.wav", 1.0), command]
    )
    out = tmp_path / "data"
    assert main(["prepare", "lhotse", str(path), str(out), "--allow-pipes"]) == 0
    embeddings = tmp_path / "mfcc.npz"
    embed = ["embed", "mfcc", str(out), "--out", str(embeddings)]
    assert main([*embed, "--allow-pipes"]) == 0
    with np.load(embeddings) as found:
        assert found["ids"].tolist() == ["piped", "r1"]
        np.testing.assert_allclose(*found["embeddings"], atol=1e-5)


def test_manifests_that_lhotse_writes(root, tmp_path):
    """Lhotse itself writes recordings, supervisions and cuts of the same files."""
    real = pytest.importorskip("lhotse")
    recordings = real.RecordingSet.from_recordings(
        real.Recording.from_file(path) for path in sorted((root / "audio").glob("*.wav"))
    )
    supervisions = real.SupervisionSet.from_segments(
        [
            real.SupervisionSegment("u1", "r1", 0.0, 1.0, speaker="ann", gender="f"),
            real.SupervisionSegment(
                "u3", "r3", 0.5, 2.0, speaker="bob", language="German", custom={"emotion": "sad"}
            ),
        ]
    )
    folder = tmp_path / "written"
    folder.mkdir()
    recordings.to_file(folder / "x_recordings.jsonl.gz")
    supervisions.to_file(folder / "x_supervisions.jsonl.gz")
    from_pair = lhotse.prepare(folder, tmp_path / "out")
    cuts = real.CutSet.from_manifests(recordings, supervisions).trim_to_supervisions()
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    from_cuts = lhotse.prepare(tmp_path / "cuts.jsonl.gz", tmp_path / "out2")
    spans = {(Path(u.path).name, u.start, u.seconds) for u in from_pair}
    assert spans == {("r1.wav", 0.0, 1.0), ("r3.wav", 0.5, 2.0)}
    assert {(Path(u.path).name, u.start, u.seconds) for u in from_cuts} == spans
    assert from_pair.labels["emotion"] == {"u3": "sad"}
    for manifest in (from_pair, from_cuts):
        assert sorted(manifest.labels["spk"].values()) == ["ann", "bob"]
        assert list(manifest.labels["language"].values()) == ["German"]
