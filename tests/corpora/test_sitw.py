"""SITW in miniature: the real layout, the lists in the form that its readme describes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import trees
from builders import RATE, noise

from speechssl.__main__ import main
from speechssl.corpora import sitw
from speechssl.data.manifest import read_manifest
from speechssl.data.trials import read_enrolment, read_trials
from speechssl.data.validation import validate
from speechssl.errors import UserError

SPANS = ["audio/zgjnl.flac-00000500-00001250", "audio/zgjnl.flac-00002000-00004010"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return trees.sitw(tmp_path / "corpus").root


def test_models_spans_trials_and_labels(root, tmp_path, capsys):
    out = tmp_path / "out"
    sitw.prepare(root, out)
    found = {u.id: u for u in read_manifest(out)}
    assert sorted(found) == [
        "audio/mihtz.flac",
        "audio/nkuzl.flac",
        "audio/unotx.flac",
        *SPANS,
    ]
    assert (found[SPANS[0]].start, found[SPANS[0]].stop) == (0.5, 1.25)
    assert (found[SPANS[1]].start, found[SPANS[1]].stop) == (2.0, 4.0)  # cut at the file's end
    assert validate(out, read_audio=True) == []
    assert read_enrolment(out / "enrol2utt-core") == {"12013": ["audio/unotx.flac"]}
    assert read_enrolment(out / "enrol2utt-assist") == {"45205": SPANS}
    names = sorted(path.name for path in out.glob("trials-*"))
    assert names == [
        "trials-assist-multi",
        "trials-assist-multi.10s",
        "trials-core-core",
        "trials-core-multi",
    ]
    multi = read_trials(out / "trials-core-multi")
    assert multi.enrol.tolist() == ["12013", "12013"]
    assert multi.test.tolist() == ["audio/mihtz.flac", "audio/nkuzl.flac"]
    assert multi.target.tolist() == [True, False]
    labels = read_manifest(out, "all").labels
    assert labels["spk"][SPANS[0]] == labels["spk"]["audio/nkuzl.flac"] == "PNTR"
    of_one = {label: values["audio/unotx.flac"] for label, values in labels.items()}
    assert of_one == {
        "spk": "ZPYJ",
        "gender": "m",
        "microphone": "video",
        "session": "605273",
        "numspk": "1",
        "artifact": "codec,reverb",
        "level": "3",
        "environment": "interview",
    }
    assert "core-multi.lst: 2 trials, 1 of them targets" in capsys.readouterr().err


def test_bad_entries_are_left_out_counted_and_listed(root, tmp_path, capsys):
    top = root / "eval"
    (top / "audio/nkuzl.flac").unlink()
    soundfile.write(top / "audio/unotx.flac", np.zeros(RATE), RATE)
    with open(top / "lists/enroll-assist.lst", "a") as file:
        file.write("45205 audio/zgjnl.flac 9 10\n45205 audio/zgjnl.flac 2 x\n")
        file.write("45205 audio/zgjnl.flac 3\n45206 ../../secret.flac 1 2\n")
    with open(top / "keys/meta.lst", "a") as file:
        file.write("audio/unotx.flac X f video 1 0 1 1 clean 0 home\nshort line\n")
    (top / "keys/strange.lst").write_text("1 2 tgt\n")
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"4 utterances of trials have no audio .* leave them out"):
        sitw.prepare(root, out, check=True)
    capsys.readouterr()
    sitw.prepare(root, out, check=True, partial=True)
    rows = dict(line.split("\t") for line in (out / "skipped.tsv").read_text().splitlines())
    assert rows["eval/audio/unotx.flac"].startswith("silent")
    assert rows["audio/zgjnl.flac-00009000-00010000"].startswith("outside its file: 9 to 10 s")
    assert rows["enroll-assist.lst:4"].startswith("wrong line")
    assert rows["enroll-assist.lst:5"].startswith("wrong line")
    assert rows["meta.lst:5"] == "file twice: audio/unotx.flac"
    assert rows["meta.lst:6"].startswith("wrong line: 'short line'")
    assert rows["strange.lst"].startswith("other name")
    missing = [line.split("\t")[0] for line in (out / "missing.tsv").read_text().splitlines()]
    assert missing == [
        "utterance",
        "../../secret.flac-00001000-00002000",
        "audio/nkuzl.flac",
        "audio/unotx.flac",
        "audio/zgjnl.flac-00009000-00010000",
    ]
    assert read_enrolment(out / "enrol2utt-assist") == {"45205": SPANS}
    assert not (out / "enrol2utt-core").exists()
    assert [path.name for path in out.glob("trials-*")] == ["trials-assist-multi"]
    assert validate(out, read_audio=True) == []


def test_without_meta_labels_are_unknown(root, tmp_path, capsys):
    (root / "eval/keys/meta.lst").unlink()
    manifest = sitw.prepare(root, tmp_path / "out")
    assert set(manifest.labels["gender"].values()) == {"unknown"}
    assert manifest.labels["spk"][SPANS[0]] == manifest.labels["spk"][SPANS[1]]
    assert len(set(manifest.labels["spk"].values())) == 4
    assert "labels are unknown" in capsys.readouterr().err


def test_the_other_part_and_other_layouts_are_refused(root, tmp_path):
    with pytest.raises(UserError, match="holds no dev/lists/enroll-core.lst"):
        sitw.prepare(root, tmp_path / "out", part="dev")
    (root / "eval").rename(root / "dev")
    assert len(sitw.prepare(root.parent, tmp_path / "out", part="dev")) == 5
    for path in (root / "dev/keys").glob("*-*.lst"):
        path.unlink()
    (root / "dev/keys/aux/assist-multi.10s.lst").unlink()
    with pytest.raises(UserError, match=r"no key such as core-core\.lst"):
        sitw.prepare(root, tmp_path / "out", part="dev")


def test_as_a_user_types_it(root, tmp_path):
    """Speakers differ in the colour of their noise, so MFCC statistics know them."""
    audio = root / "eval/audio"
    for path in audio.glob("*.flac"):
        samples = noise(4.0, seed=len(path.name))
        if path.stem in ("unotx", "mihtz"):
            samples = 0.1 * np.cumsum(samples) / np.abs(np.cumsum(samples)).max()
        soundfile.write(path, samples, RATE)
    out = tmp_path / "data"
    assert main(["prepare", "sitw", str(root), str(out)]) == 0
    assert main(["validate", str(out)]) == 0
    embeddings = tmp_path / "mfcc.npz"
    assert main(["embed", "mfcc", str(out), "--out", str(embeddings)]) == 0
    for condition, enrolment in (("core-multi", "core"), ("assist-multi", "assist")):
        results = tmp_path / condition
        command = ["evaluate", "verification", str(embeddings), "--out", str(results)]
        command += ["--trials", str(out / f"trials-{condition}")]
        command += ["--enrol", str(out / f"enrol2utt-{enrolment}")]
        assert main(command) == 0
        measured = json.loads((results / "results.json").read_text())
        assert (measured["trials"], measured["enrolled_models"]) == (2, 1)
        assert measured["eer"] == 0.0
