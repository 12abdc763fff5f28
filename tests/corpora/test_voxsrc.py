"""VoxSRC in miniature: the lists of several years over VoxCeleb1 and audio of their own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import trees
from builders import noise

from speechssl.__main__ import main
from speechssl.corpora import voxceleb1, voxsrc
from speechssl.data.manifest import read_manifest
from speechssl.data.trials import read_trials
from speechssl.data.validation import validate
from speechssl.errors import UserError

OUTSIDE = "voxceleb1_cd/id10300/000912.wav"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return trees.voxsrc(tmp_path / "voxsrc").root


def test_every_list_in_the_folder_gets_the_name_of_its_year(root, tmp_path, capsys):
    out = tmp_path / "out"
    manifest = voxsrc.prepare(root, out)
    assert manifest.ids == [
        "Track12_test_data/00001.wav",
        "VoxSRC2022_dev/dev_00000.wav",
        "VoxSRC2022_dev/dev_00001.wav",
        "eval_7.wav",
        "id10270/5r0dWxy17C8/00001.wav",
        "id10270/x6uYqmx31kE/00001.wav",
        "id10300/ize_eiCFEg0/00003.wav",
        OUTSIDE,
    ]
    assert sorted(path.name for path in out.glob("trials-*")) == [
        "trials-2020-val",
        "trials-2021-val",
        "trials-2022-val-fixed",
    ]
    assert (out / "trials-2021-val").read_text() == trees.VOXSRC_2021
    of_2020 = read_trials(out / "trials-2020-val")
    assert of_2020.enrol.tolist() == [
        "id10270/5r0dWxy17C8/00001.wav",
        "id10300/ize_eiCFEg0/00003.wav",
    ]
    assert of_2020.test.tolist() == [OUTSIDE, OUTSIDE]
    assert of_2020.target.tolist() == [False, True]
    assert (out / "pairs-2022-test").read_text() == "eval_7.wav Track12_test_data/00001.wav\n"
    speakers = read_manifest(out, "spk").labels["spk"]
    assert speakers[OUTSIDE] == "id10300"
    assert speakers["eval_7.wav"] == "eval_7.wav"
    said = capsys.readouterr().err
    assert "2020-val, 2 trials (others counted 263,485)" in said
    assert "2022-test, 1 trials, without answers: they can be scored, not measured" in said


def test_ids_are_those_that_voxceleb1_gives(root, tmp_path):
    inside = root / "voxceleb1"
    ours = {u.id: u.path for u in voxsrc.prepare(root, tmp_path / "ours", voxceleb1=inside)}
    theirs = {u.id: u.path for u in voxceleb1.prepare(root, tmp_path / "theirs", partial=True)}
    assert len(theirs) == 3
    assert theirs.items() <= ours.items()


def test_voxceleb1_may_lie_elsewhere_and_lists_be_named(root, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.move(root / "voxceleb1", elsewhere)
    mine = tmp_path / "my list.txt"
    mine.write_text(trees.VOXSRC_2021)
    with pytest.raises(UserError, match="none of the 3 files of the lists is there"):
        voxsrc.prepare(root, tmp_path / "out", lists=[mine])
    manifest = voxsrc.prepare(root, tmp_path / "out", lists=[mine], voxceleb1=elsewhere)
    assert len(manifest) == 3
    assert len(read_trials(tmp_path / "out/trials-my_list")) == 2


def test_bad_entries_are_left_out_counted_and_listed(root, tmp_path, capsys):
    (root / "VoxSRC2022_dev/dev_00001.wav").unlink()
    trees.put(root / "copy/VoxSRC2022_dev/dev_00000.wav", noise(0.6))
    with open(root / "voxsrc2021_val.txt", "a") as file:
        file.write("maybe a.wav b.wav\na.wav b.wav\n1 ../../../etc/passwd id10270/x/00001.wav\n")
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"4 utterances of trials have no audio"):
        voxsrc.prepare(root, out)
    capsys.readouterr()
    voxsrc.prepare(root, out, partial=True)
    rows = dict(line.split("\t") for line in (out / "skipped.tsv").read_text().splitlines())
    assert rows["voxsrc2021_val.txt:3"].startswith("wrong line: 'maybe a.wav b.wav'")
    assert rows["voxsrc2021_val.txt:4"].startswith("wrong line: 'a.wav b.wav'")
    assert rows["VoxSRC2022_dev/dev_00000.wav"].startswith("several files: such as")
    assert "3 files skipped (1 several files, 2 wrong line)" in capsys.readouterr().err
    missing = [line.split("\t")[0] for line in (out / "missing.tsv").read_text().splitlines()]
    assert missing == [
        "utterance",
        "../../../etc/passwd",
        "VoxSRC2022_dev/dev_00000.wav",
        "VoxSRC2022_dev/dev_00001.wav",
        "id10270/x/00001.wav",
    ]
    assert len(read_trials(out / "trials-2022-val-fixed")) == 1
    assert validate(out, read_audio=True) == []


def test_lists_that_cannot_be_told_apart_or_are_none(root, tmp_path):
    shutil.copy(root / "data/verif/trials.txt", root / "VoxSRC2020_master_data_verif_trials.txt")
    with pytest.raises(UserError, match="is called 2020-val, as"):
        voxsrc.prepare(root, tmp_path / "out")
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    with pytest.raises(UserError, match="no line is `1|0 file file`"):
        voxsrc.prepare(root, tmp_path / "out", lists=[empty])
    with pytest.raises(UserError, match="2019 was validated on VoxCeleb1's own"):
        voxsrc.prepare(root / "voxceleb1", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_as_a_user_types_it(root, tmp_path):
    """A list with answers is measured, a blind one is scored."""
    out = tmp_path / "data"
    assert main(["prepare", "voxsrc", str(root), str(out), "--check"]) == 0
    embeddings = tmp_path / "mfcc.npz"
    assert main(["embed", "mfcc", str(out), "--out", str(embeddings)]) == 0
    results = tmp_path / "results"
    command = ["evaluate", "verification", str(embeddings), "--out", str(results)]
    assert main([*command, "--trials", str(out / "trials-2021-val")]) == 0
    assert json.loads((results / "results.json").read_text())["trials"] == 2
    scores = tmp_path / "scores"
    blind = str(out / "pairs-2022-test")
    assert main(["score", str(embeddings), "--trials", blind, "--out", str(scores)]) == 0
    enrol, test, score = scores.read_text().split()
    assert (enrol, test) == ("eval_7.wav", "Track12_test_data/00001.wav")
    assert -1 <= float(score) <= 1
    assert main([*command, "--trials", blind]) == 2
