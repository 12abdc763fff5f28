"""egs/front: the picture of the README shows what the logs and embeddings hold."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from builders import ROOT, load_script, noise, run_script, write_audio

from speechssl.corpora import synthetic
from speechssl.errors import UserError

picture = load_script("egs/front/picture.py")


def write_log(path: Path, ranks: dict[int, float], alarms: tuple[int, ...] = ()) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"step": 1, "loss": 0.5}]  # a step at which the monitor did not look
    for step, rank in ranks.items():
        row = {"step": step, "projection_rank": rank}
        rows.append({**row, "alarms": ["collapse alarm"]} if step in alarms else row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_curve_is_the_log_and_its_first_alarm(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.jsonl", {5: 90.0, 10: 60.0, 15: 30.0, 20: 20.0}, (15, 20))
    curve = picture.read_curve(log)
    assert curve.steps.tolist() == [5, 10, 15, 20]
    assert curve.ranks.tolist() == [90.0, 60.0, 30.0, 20.0]
    assert curve.alarm == 15
    healthy = picture.read_curve(write_log(tmp_path / "other.jsonl", {5: 90.0, 10: 89.0}))
    assert healthy.alarm is None


def test_a_log_without_ranks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no projection_rank"):
        picture.read_curve(write_log(tmp_path / "log.jsonl", {}))


def drawn(folder: Path) -> list[bytes]:
    """Draw twelve points of two speakers and two runs; return both files."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(12, 2)).astype(np.float32)
    curves = {
        "without": picture.read_curve(
            write_log(folder / "a" / "log.jsonl", {5: 9.0, 9: 2.0}, (9,))
        ),
        "with": picture.read_curve(write_log(folder / "b" / "log.jsonl", {5: 9.0, 9: 8.0})),
    }
    for name, colour in picture.TEXT.items():
        picture.draw(folder / name, colour, "map", points, ["s1", "s2"] * 6, curves)
    return [(folder / name).read_bytes() for name in picture.TEXT]


def test_both_pictures_are_drawn_and_the_same_each_time(tmp_path: Path) -> None:
    light, dark = drawn(tmp_path / "one")
    assert drawn(tmp_path / "two") == [light, dark]
    assert light != dark
    assert b"<dc:date>" not in light
    for text in (light, dark):
        uses = ElementTree.fromstring(text).findall(".//{http://www.w3.org/2000/svg}use")
        points = [use for use in uses if "fill" in use.get("style", "")]
        assert len(points) >= 12


def test_the_pictures_of_the_readme_are_small_and_harmless() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in picture.TEXT:
        path = ROOT / "egs" / "front" / name
        assert f'"egs/front/{name}"' in readme
        assert path.stat().st_size < 300_000
        text = path.read_text(encoding="utf-8")
        assert "<script" not in text and "<image" not in text  # shapes alone: no sound, no pixels


@pytest.mark.slow
def test_the_script_in_miniature(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "mine"
    rows = "path\tspeaker\n"
    for number in range(12):
        write_audio(folder / f"{number}.wav", noise(1, seed=number))
        rows += f"{number}.wav\ts{number % 3}\n"
    (folder / "utterances.tsv").write_text(rows)
    voices = tmp_path / "exp" / "voices"  # in place of the hundred that the script would generate
    synthetic.prepare(
        str(tmp_path / "exp" / "audio"), str(voices), speakers=8, evaluation_speakers=2,
        utterances=4, shortest=1.0, longest=1.4,
    )  # fmt: skip
    words = ["--data", tmp_path / "data", "--set", "mine", "--exp", tmp_path / "exp"]
    words += ["--out", tmp_path / "out", "train.steps=4", "train.batch_size=8"]
    words += ["monitor.every=1", "encoder.width=16", "encoder.embedding_dim=16"]
    done = run_script("egs/front/run.sh", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in picture.TEXT:
        assert (tmp_path / "out" / name).stat().st_size > 5000
