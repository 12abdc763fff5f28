"""CN-Celeb in miniature: the real layout, the lists in the real form."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import trees
from builders import RATE, noise

from speechssl.__main__ import main
from speechssl.corpora import cn_celeb
from speechssl.data.manifest import read_manifest
from speechssl.data.trials import read_enrolment, read_trials
from speechssl.data.validation import validate
from speechssl.errors import UserError

TESTS = ["test/id00800-singing-01-005.wav", "test/id00999-live_broadcast-02-001.wav"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return trees.cn_celeb(tmp_path / "corpus").root


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is published, brought down to the size of the tree."""
    monkeypatch.setattr(cn_celeb, "TRIALS", (3, 2))
    monkeypatch.setattr(cn_celeb, "SPEAKERS", 4)
    monkeypatch.setattr(cn_celeb, "UTTERANCES", 6)
    monkeypatch.setattr(cn_celeb, "TEST_GENRES", {"singing": 1, "live_broadcast": 1})


def test_the_evaluation_has_its_trials_models_and_labels(root, tmp_path, complete, capsys):
    out = tmp_path / "out"
    manifest = cn_celeb.prepare(root, out)
    assert manifest.ids == [
        "enroll/id00800-enroll.wav",
        "enroll/id00999-enroll.wav",
        "id00800/interview-01-001.wav",
        "id00800/singing-03-001.wav",
        "id00999/speech-01-002.wav",
        *TESTS,
    ]
    labels = read_manifest(out, "all").labels
    assert [labels["spk"][name] for name in TESTS] == ["id00800", "id00999"]
    assert [labels["genre"][name] for name in TESTS] == ["singing", "live_broadcast"]
    assert labels["session"][TESTS[1]] == "id00999-live_broadcast-02"
    assert labels["genre"]["enroll/id00800-enroll.wav"] == "mixed"
    assert labels["genre"]["enroll/id00999-enroll.wav"] == "speech"
    assert read_enrolment(out / "enrol2utt") == {
        "id00800-enroll": ["enroll/id00800-enroll.wav"],
        "id00999-enroll": ["enroll/id00999-enroll.wav"],
    }
    assert read_enrolment(out / "enrol2utt-map")["id00800-enroll"] == [
        "id00800/interview-01-001.wav",
        "id00800/singing-03-001.wav",
    ]
    trials = read_trials(out / "trials")
    assert trials.enrol.tolist() == ["id00800-enroll", "id00800-enroll", "id00999-enroll"]
    assert trials.test.tolist() == [TESTS[0], TESTS[1], TESTS[1]]
    assert trials.target.tolist() == [True, False, True]
    said = capsys.readouterr().err
    assert "3 trials, 2 of them targets, as published" in said
    assert "not as published" not in said
    assert not (out / "missing.tsv").exists()


def test_the_training_part_is_what_the_lists_name(root, tmp_path, complete, capsys):
    manifest = cn_celeb.prepare(root, tmp_path / "out", part="dev")
    assert manifest.ids == [
        "id00012/singing-01-001.wav",
        "id00012/singing-02-001.wav",
        "id00013/vlog-01-001.wav",
    ]
    assert set(manifest.labels["session"].values()) == {
        "id00012-singing-01",
        "id00012-singing-02",
        "id00013-vlog-01",
    }
    assert "CN-Celeb1, complete" in capsys.readouterr().err
    assert not (tmp_path / "out/trials").exists()


def test_cn_celeb2_beside_it_is_trained_on_too(root, tmp_path, complete, capsys):
    second = root / "CN-Celeb2_flac"
    trees.put(second / "data/id10000/play-01-001.flac")
    (second / "spk.lst").write_text("id10000\nid10001\n")
    both = cn_celeb.prepare(root, tmp_path / "out", part="dev")
    assert both.ids[-1] == "id10000/play-01-001.wav"
    assert len(both) == 4
    assert "1 of 2 files of" in capsys.readouterr().err  # id10001 has no audio
    alone = cn_celeb.prepare(second, tmp_path / "alone", part="dev")
    assert alone.ids == ["id10000/play-01-001.wav"]
    with pytest.raises(UserError, match=r"eval/lists/trials\.lst"):
        cn_celeb.prepare(second, tmp_path / "none")


def test_other_counts_are_refused_unless_partial(root, tmp_path, capsys):
    with pytest.raises(UserError, match=r"3 trials, 2 of them targets, where 3,484,292 and 17,755"):
        cn_celeb.prepare(root, tmp_path / "out")
    with pytest.raises(UserError, match=r"6 utterances of 4 speakers, where CN-Celeb1 has 126,532"):
        cn_celeb.prepare(root, tmp_path / "out", part="dev")
    assert not (tmp_path / "out").exists()
    cn_celeb.prepare(root, tmp_path / "out", partial=True)
    said = capsys.readouterr().err
    assert "not comparable" in said
    assert "genre: interview 0 of 6175" in said


def test_bad_entries_are_left_out_counted_and_listed(root, tmp_path, complete, capsys):
    top = root / "CN-Celeb_flac"
    (top / "eval/test/id00999-live_broadcast-02-001.flac").unlink()
    soundfile.write(top / "eval/enroll/id00999-enroll.flac", np.zeros(RATE), RATE)
    trees.put(top / "eval/test/recording.flac")
    with open(top / "eval/lists/trials.lst", "a") as file:
        file.write("id00800-enroll test/id00800-singing-01-005.wav maybe\nwhat is this\n\n")
    with open(top / "eval/lists/enroll.lst", "a") as file:
        file.write("id00800-enroll enroll/id00999-enroll.wav\n")
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"2 utterances of trials have no audio .*2 of 3 of trials"):
        cn_celeb.prepare(root, out, check=True)
    capsys.readouterr()
    cn_celeb.prepare(root, out, partial=True, check=True)
    assert len(read_trials(out / "trials")) == 1
    assert list(read_enrolment(out / "enrol2utt")) == ["id00800-enroll"]
    rows = dict(line.split("\t") for line in (out / "skipped.tsv").read_text().splitlines())
    assert rows["trials.lst:4"].startswith("wrong line: 'id00800-enroll test")
    assert rows["trials.lst:5"].startswith("wrong line: 'what is this'")
    assert rows["enroll.lst:3"].startswith("model twice")
    assert rows["CN-Celeb_flac/eval/test/recording.flac"].startswith("other name")
    assert rows["CN-Celeb_flac/eval/enroll/id00999-enroll.flac"].startswith("silent")
    said = capsys.readouterr().err
    assert "5 files skipped (1 model twice, 1 other name, 1 silent, 2 wrong line)" in said
    missing = (out / "missing.tsv").read_text().splitlines()
    assert missing == [
        "utterance\tlists",
        "enroll/id00999-enroll.wav\tenrol2utt",
        "test/id00999-live_broadcast-02-001.wav\ttrials",
    ]


def test_a_later_run_leaves_nothing_of_an_earlier_one(root, tmp_path, complete):
    out = tmp_path / "out"
    cn_celeb.prepare(root, out)
    cn_celeb.prepare(root, out, part="dev")
    assert not list(out.glob("trials*")) and not list(out.glob("enrol2utt*"))


def test_validate_looks_at_the_enrolment(root, tmp_path, complete):
    out = tmp_path / "out"
    cn_celeb.prepare(root, out)
    assert validate(out) == []
    (out / "enrol2utt").write_text("id00800-enroll enroll/id00800-enroll.wav enroll/gone.wav\n")
    (out / "enrol2utt-map").write_text("id00800-enroll\n")
    gone, empty, unknown = validate(out)
    assert "names unknown utterance 'enroll/gone.wav'" in gone
    assert "has no utterance" in empty
    assert "names unknown utterance 'id00999-enroll'" in unknown


def test_converted_audio_and_wav_beside_flac_count_once(root, tmp_path, complete):
    test = root / "CN-Celeb_flac/eval/test"
    trees.put(test / "id00800-singing-01-005.wav", noise(0.6))
    manifest = cn_celeb.prepare(root, tmp_path / "out")
    paths = {utterance.id: utterance.path for utterance in manifest}
    assert paths[TESTS[0]].endswith("005.wav")
    assert paths[TESTS[1]].endswith("001.flac")


@pytest.mark.parametrize("enrolment", ["enrol2utt", "enrol2utt-map"])
def test_as_a_user_types_it(root, tmp_path, enrolment, capsys):
    """Each speaker has a colour of noise of its own, so MFCC statistics know them."""
    top = root / "CN-Celeb_flac"
    for path in top.rglob("*.flac"):
        speaker = next(word for word in ("id00800", "id00999", "id0001") if word in str(path))
        samples = noise(0.6, seed=len(str(path)))
        if speaker == "id00800":
            samples = 0.1 * np.cumsum(samples) / np.abs(np.cumsum(samples)).max()
        soundfile.write(path, samples, RATE)
    shutil.rmtree(top / "dev")
    out = tmp_path / "data"
    assert main(["prepare", "cn_celeb", str(root), str(out), "--partial"]) == 0
    assert main(["validate", str(out)]) == 0
    embeddings = tmp_path / "mfcc.npz"
    assert main(["embed", "mfcc", str(out), "--out", str(embeddings)]) == 0
    results = tmp_path / "results"
    command = ["evaluate", "verification", str(embeddings), "--trials", str(out / "trials")]
    command += ["--enrol", str(out / enrolment), "--out", str(results)]
    command += ["--speakers", str(out), "--split", str(out / "utt2genre")]
    assert main(command) == 0
    measured = json.loads((results / "results.json").read_text())
    assert measured["trials"] == 3
    assert measured["enrolled_models"] == 2
    assert measured["eer"] == 0.0
    # Both models are of other genres than every test: live_broadcast, singing.
    (row,) = measured["split"]["rows"]
    assert (row["targets"], row["nontargets"]) == ("different", "different")
    assert (row["target_trials"], row["nontarget_trials"]) == (2, 1)
