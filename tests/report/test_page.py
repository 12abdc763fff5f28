"""The page: one file without a network, whose figures are the experiments' and whose names are text."""

import base64
import errno
import io
import json
import re
import shutil
from html.parser import HTMLParser
from typing import Any

import numpy as np
import page_experiment as made
import plotly.graph_objects
import pytest
import soundfile
import yaml
from builders import readme_code
from page_experiment import experiment

from speechssl import metrics
from speechssl.cli.command import main
from speechssl.data.trials import read_trials
from speechssl.data.vectors.files import read_vectors
from speechssl.data.vectors.folder_writer import part_bytes
from speechssl.data.vectors.places import Place
from speechssl.errors import UserError
from speechssl.report.page import write
from speechssl.report.page.blocks import Chart, EmbeddingMap, plotly_text, shortened
from speechssl.report.page.drawing import log_axis
from speechssl.report.page.material import PageSettings, collect
from speechssl.report.page.projection import project
from speechssl.report.page.section import sections
from speechssl.report.page.sections import det
from speechssl.report.page.sections.confusion import MOST_CLASSES
from speechssl.report.page.sections.embedding_map import columns_of
from speechssl.report.page.write import script_json, write_page

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img/src=x/onerror=alert(2)>",
    "'\"><svg/onload=alert(3)>",
    "=cmd|'/c'!A1",
    "Robert');DROP/**/TABLE--",
    "\u202egnp.exe",
    "${7*7}{{7*7}}{%print(7)%}",
    "<b>bold</b><a/href='javascript:alert(4)'>x</a>",
    "x" * 1000,
)


class Page(HTMLParser):
    """Tags with their attributes, the visible text, and the JSON of the script elements."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)
        self.text = " ".join(self.words)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.words.append(data)

    def charts(self):
        """Return what each chart and map draws."""
        found = []
        for script in self.scripts:
            if script.startswith('{"variants"') or script.startswith('{"maps"'):
                found.append(json.loads(script))
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    exp = experiment(root / "exp")
    folder = made.data(root, made.ids())
    page = root / "page.html"
    material = write_page(
        [exp], page, data=[folder], chosen=PageSettings(map_method="pca", clips=5)
    )
    return {"exp": exp, "data": folder, "file": page, "material": material, "root": root}


@pytest.fixture(scope="module")
def page(world):
    return Page(world["file"].read_text(encoding="utf-8"))


def test_every_section_has_something_to_show(world, page):
    assert world["material"].notes == []
    shown = {attributes.get("id") for tag, attributes in page.tags if tag == "section"}
    assert shown == sections().keys() - {"left_out"}


def test_it_asks_no_host_for_anything(world, page):
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, name, value[:80])
        assert not [name for name in attributes if name.startswith("on")]
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "script-src 'unsafe" not in policy and "connect-src" not in policy
    assert world["file"].stat().st_size < 25e6


def test_every_chart_is_one_that_plotly_knows(page):
    charts = [chart for chart in page.charts() if "variants" in chart]
    assert len(charts) >= 10
    for chart in charts:
        for traces in chart["variants"]:
            plotly.graph_objects.Figure(traces, chart["layout"])


def test_figures_are_those_of_the_evaluation(world, page):
    folder = world["exp"] / "eval" / "untrained" / "list"
    trials = read_trials(folder / "scored_trials")
    scores = np.loadtxt(folder / "scores", usecols=2)
    eer = metrics.eer(scores, trials.target)
    results = json.loads((folder / "results.json").read_text())
    assert results["eer"] == pytest.approx(eer, abs=0.05)
    assert f"{results['eer']:.2f} [" in page.text
    assert f"EER {eer:.2f} %" in "".join(page.scripts)
    low, high = results["eer_interval"]
    assert f"[{low:.2f}, {high:.2f}]" in page.text


def test_worst_trials_are_the_extremes(world):
    folder = world["exp"] / "eval" / "trained" / "list"
    trials = read_trials(folder / "scored_trials")
    scores = np.loadtxt(folder / "scores", usecols=2)
    section = sections()["worst_trials"]
    highest, lowest = section.build(world["material"])
    assert highest.pairs[0].heading == f"score {scores[~trials.target].max():.3f}"
    assert lowest.pairs[0].heading == f"score {scores[trials.target].min():.3f}"
    assert highest.pairs[0].enrol.clip and highest.pairs[0].enrol.picture.startswith("data:image")


def test_many_error_curves_share_the_points_of_the_page(world, monkeypatch):
    folder = world["exp"]
    fine = _longest_curve(folder)
    monkeypatch.setattr(det, "MOST_POINTS", 0)  # as if there were very many
    monkeypatch.setattr(det, "FEWEST_POINTS", 5)
    assert _longest_curve(folder) == 5 and fine > 5


def _longest_curve(folder):
    (chart,) = det.build(collect([folder], [], PageSettings(), 0))
    traces = [trace for variant in chart.variants.values() for trace in variant]
    return max(len(trace["x"]) for trace in traces if "hovertemplate" in trace)


def test_only_settings_that_differ_are_listed(page):
    assert "method.prototypes" in page.text and "77" in page.text
    assert "method.name" not in page.text and "data.train" not in page.text


def test_of_a_single_run_what_is_no_default_is_listed(tmp_path):
    made.run(tmp_path / "exp", "only", prototypes=77)
    write_page([tmp_path / "exp"], tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "method.prototypes" in page.words and "encoder.width" in page.words
    assert "method.hidden" not in page.text and "method.name" not in page.text


def test_alarms_are_explained(page):
    for word in ("one way", "no centre", "raise it"):
        assert word in page.words


def test_labels_clusters_and_sets_colour_the_map(world, page):
    menu = re.search(r'<select class="which">(.*?)</select>', world["file"].read_text())[1]
    (drawn,) = [chart["maps"] for chart in page.charts() if "maps" in chart]
    maps = dict(zip(re.findall(r">([^<]+)</option>", menu), drawn, strict=True))
    fields = maps["trained"]["fields"]
    assert {"speaker", "emotion", "cluster (rounds/round-1/clusters)"} <= fields.keys()
    assert sorted(fields["emotion"]["names"]) == ["angry", "calm"]
    first = maps["trained"]["ids"].index("s0-u0")
    speaker = fields["speaker"]
    assert speaker["names"][speaker["codes"][first]] == "speaker0"
    assert sum(bool(key) for key in maps["trained"]["clips"]) >= 5


def test_menus_keep_their_order_where_names_are_numbers():
    # As keys of an object JavaScript would give 8 before 16: one would be shown as the other.
    names = ["16", "8"]
    chart = Chart("Errors", "", {name: [{"name": name}] for name in names})
    assert [traces[0]["name"] for traces in chart.data()["variants"]] == names
    drawn = EmbeddingMap("Map", "", {name: {"ids": [name]} for name in names})
    assert [one["ids"] for one in drawn.data()["maps"]] == [["16"], ["8"]]


def test_clips_are_opus_of_the_right_length(world):
    addresses = world["material"].clips.addresses
    assert len(addresses) >= 5
    for address in addresses.values():
        content = base64.b64decode(address.removeprefix("data:audio/ogg;base64,"))
        info = soundfile.info(io.BytesIO(content))
        assert info.subtype == "OPUS" and info.duration == pytest.approx(0.5, abs=0.01)


def test_hostile_names_are_text(tmp_path):
    names = [f"{HOSTILE[place % len(HOSTILE)]}-{place}"[-1000:] for place in range(30)]
    names = [name.replace(" ", "_") for name in names]
    labels = ["</script><script>alert(5)</script>", "<img src=x onerror=alert(6)>"]
    exp = experiment(tmp_path / "<i>exp<", names, labels)
    made.run(exp, "<script>alert(7)<", "collapse alarm: <script>alert(8)</script>" + "y" * 10_000)
    folder = made.data(tmp_path, names)
    write_page(
        [exp], tmp_path / "page.html", data=[folder], chosen=PageSettings(map_method="pca", clips=3)
    )
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    kinds = [attributes.get("type") for tag, attributes in page.tags if tag == "script"]
    assert kinds.count(None) == 2  # Plotly and ours
    assert set(kinds) == {None, "application/json"}
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
    assert {tag for tag, _ in page.tags}.isdisjoint({"svg", "iframe", "object", "b", "i"})
    assert all((a.get("src") or "data:").startswith("data:") for _, a in page.tags)
    assert "\u202e" not in text and "49" not in page.text
    for chart in page.charts():
        for traces in chart.get("variants", []):
            assert "<b>" not in json.dumps(traces)
            plotly.graph_objects.Figure(traces, chart["layout"])


def test_a_damaged_file_is_named_and_nothing_else_is_lost(tmp_path):
    exp = experiment(tmp_path / "exp")
    (exp / "eval/trained/list/results.json").write_text("{")
    (exp / "dino/config.yaml").write_text("a: &x [*x]")
    (exp / "rounds/pseudolabel.json").write_text('{"rounds": [7, {"clusters": "x"}], "chosen": {}}')
    (exp / "diagnose/dino/diagnostics.json").write_text('{"figures": {"a": 3, "b": {"value": []}}}')
    (exp / "probe/emotion/results.json").write_text('{"labels": [1], "confusion": [["x"]]}')
    (exp / "eval/untrained/list/det.json").write_text('{"fnr_interval": [[1, "x"], 3]}')
    material = write_page([exp], tmp_path / "page.html", chosen=PageSettings(map_method="pca"))
    assert len(material.notes) == 2
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "Left out" in page.words and "untrained (floor)" in page.text


def test_several_experiments_stand_side_by_side(tmp_path):
    first = experiment(tmp_path / "a")
    second = experiment(tmp_path / "b")
    out = tmp_path / "page.html"
    write_page([first, second], out, chosen=PageSettings(map_method="pca", clips=0), audio=False)
    page = Page(out.read_text(encoding="utf-8"))
    boxes = [a["value"] for tag, a in page.tags if a.get("type") == "checkbox"]
    assert {"a: trained", "b: trained", "a: dino", "b: dino"} <= set(boxes)


def test_a_folder_of_embeddings_is_shown_as_a_file_is(tmp_path):
    pytest.importorskip("pyarrow")
    exp = experiment(tmp_path / "exp")
    chosen = PageSettings(map_method="pca", clips=0)
    before = write_page([exp], tmp_path / "file.html", chosen=chosen, audio=False)
    file = exp / "embeddings/trained/test.npz"
    ids, matrix = read_vectors(file)
    folder = exp / "embeddings/trained/test"
    for first in (0, 11):
        last = 11 if first == 0 else len(ids)
        names = ids[first:last].tolist()
        data = part_bytes(names, matrix[first:last], [1.0] * len(names))
        Place(folder).write(f"part-{first}.parquet", data)
    file.unlink()
    after = write_page([exp], tmp_path / "folder.html", chosen=chosen, audio=False)
    assert after.notes == before.notes
    pages = [Page((tmp_path / f"{name}.html").read_text("utf-8")) for name in ("file", "folder")]
    assert pages[0].charts() == pages[1].charts()


def test_the_command_writes_the_page_without_audio(world, tmp_path, capsys):
    out = tmp_path / "p.html"
    words = ["report", world["exp"], "--html", out, "--no-audio", "--map", "pca", "--data"]
    assert main([*map(str, words), str(world["data"])]) == 0
    assert "0 clips" in capsys.readouterr().out
    assert "data:audio" not in out.read_text(encoding="utf-8")


def test_mistakes_are_one_line(world, tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="no folder"):
        write_page([tmp_path / "nowhere"], tmp_path / "page.html")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no log.jsonl"):
        write_page([tmp_path / "empty"], tmp_path / "page.html")
    assert main(["report", str(world["exp"]), str(world["exp"])]) == 2
    assert "--html" in capsys.readouterr().err
    monkeypatch.setattr(write, "MOST_BYTES", 1000)
    with pytest.raises(UserError, match="--no-audio"):
        write_page([world["exp"]], tmp_path / "page.html", chosen=PageSettings(map_method="pca"))
    assert not (tmp_path / "page.html").exists()


def test_json_in_a_script_element_cannot_end_it():
    value = {"</script>": ["<!--", "\u2028", "\udcff", float("nan"), np.float32(2), np.arange(2)]}
    text = script_json(value)
    assert re.fullmatch(r"[ -~]*", text) and not set("<>&") & set(text)
    assert json.loads(text) == {"</script>": ["<!--", "\u2028", "\udcff", None, 2.0, [0, 1]]}


def test_long_names_keep_their_ends():
    assert shortened("a" * 5000 + "end").endswith("end") and len(shortened("a" * 5000)) <= 121
    assert plotly_text("<b>&\n") == "&lt;b&gt;&amp;\\n"


def test_a_map_keeps_groups_together_and_takes_a_collapsed_model():
    rows = made.embeddings(0.05)
    points, made_by = project(rows, "tsne")
    centres = points.reshape(made.SPEAKERS, made.EACH, 2).mean(1)
    nearest = np.linalg.norm(points[:, None] - centres[None], axis=2).argmin(1)
    assert (nearest == np.arange(30) // made.EACH).all() and made_by.startswith("t-SNE")
    assert np.isfinite(project(np.ones((20, 4), np.float32), "tsne")[0]).all()
    assert np.isfinite(project(np.ones((1, 4), np.float32), "pca")[0]).all()


def test_the_section_of_the_readme_is_shown(world):
    (example,) = readme_code("report/page")
    names: dict[str, Any] = {}
    exec(example, names)
    (table,) = names["SECTION"].build(world["material"])
    assert [list(row.cells) for row in table.rows] == [["dino", "100"], ["other", "100"]]


WRONG = (
    None,
    True,
    -1,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "<b>x",
    [],
    [1, "a"],
    {},
    {"a": []},
)


def places(held, path=()):
    """Yield the way to every value of a JSON document."""
    yield path
    inside = held.items() if isinstance(held, dict) else ()
    if isinstance(held, list):
        inside = enumerate(held[:2])
    for key, value in inside:
        yield from places(value, (*path, key))


def replaced(held, path, value):
    if not path:
        return value
    changed = held.copy()
    changed[path[0]] = replaced(held[path[0]], path[1:], value)
    return changed


FILES = (
    "eval/trained/list/results.json",
    "eval/trained/list/det.json",
    "rounds/pseudolabel.json",
    "probe/emotion/results.json",
    "diagnose/dino/diagnostics.json",
    "dino/log.jsonl",
    "dino/about.yaml",
    "dino/config.yaml",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_wrong_value_anywhere_is_a_note_or_nothing(tmp_path, name):
    exp = experiment(tmp_path / "exp")
    for folder in ("embeddings", "rounds/round-0", "rounds/round-1"):
        shutil.rmtree(exp / folder)
    path = exp / name
    good = path.read_text()
    held = yaml.safe_load(good.splitlines()[0] if name.endswith(".jsonl") else good)
    if name.endswith(".jsonl"):
        held["alarms"] = ["collapse alarm: x"]
    for place in places(held):
        for value in WRONG:
            path.write_text(json.dumps(replaced(held, place, value)) + "\n")
            material = collect([exp], [], PageSettings(), 0)
            for section in sections().values():
                blocks = section.build(material)
                script_json([block.data() for block in blocks if hasattr(block, "data")])


def test_ticks_of_a_logarithmic_axis_are_few_and_inside_its_decades():
    few = log_axis("share", 0.012, 1.0)
    assert few["ticktext"][:4] == ["0.01", "0.02", "0.05", "0.1"]
    many = log_axis("share", 1e-8, 1.0)
    assert many["ticktext"] == [
        "1e-08",
        "1e-07",
        "1e-06",
        "1e-05",
        "0.0001",
        "0.001",
        "0.01",
        "0.1",
        "1",
    ]


def test_classes_with_long_names_have_short_ones_on_the_axes_and_none_twice(tmp_path):
    exp = experiment(tmp_path / "exp", labels=["a" * 500, "a" * 600])
    material = collect([exp], [], PageSettings(), 0)
    (trace,) = sections()["confusion"].build(material)[1].variants["probe/emotion"]
    assert len(set(trace["x"])) == 2 and max(map(len, trace["x"])) < 40


def test_numbers_that_are_no_scores_are_left_out(tmp_path):
    exp = experiment(tmp_path / "exp")
    path = exp / "eval/trained/list/scores"
    lines = path.read_text().splitlines()
    ends = [f"{line.rpartition(' ')[0]} {sign}1e308" for line, sign in zip(lines, ("", "-"))]
    path.write_text("\n".join([*ends, *lines[2:]]) + "\n")
    write_page([exp], tmp_path / "page.html", audio=False, chosen=PageSettings(map_method="pca"))
    assert "numbers that are no scores" in (tmp_path / "page.html").read_text()


def test_a_classification_of_many_classes_has_its_row_and_a_word_why_no_table(tmp_path):
    exp = tmp_path / "exp"
    made.run(exp, "only")
    count = MOST_CLASSES + 1
    held = {
        "labels": [f"c{place:02d}" for place in range(count)],
        "confusion": np.eye(count, dtype=int).tolist(),
        "macro_f1": 0.987,
    }
    (exp / "probe" / "speaker").mkdir(parents=True)
    (exp / "probe" / "speaker" / "results.json").write_text(json.dumps(held))
    table, note = sections()["confusion"].build(collect([exp], [], PageSettings(), 0))
    assert list(table.rows[0].cells[:3]) == ["probe/speaker", "-", "0.987"]
    assert note.text == "probe/speaker: 61 classes; the confusion of at most 60 is drawn."


def test_without_embeddings_the_page_says_how_to_get_a_map(tmp_path):
    made.run(tmp_path / "exp", "only")
    material = collect([tmp_path / "exp"], [], PageSettings(), 0)
    (hint,) = sections()["embedding_map"].build(material)
    assert "EXP/embeddings/NAME/SET.npz" in hint.text


def test_a_damaged_result_is_left_out_of_the_table_with_a_warning(tmp_path, capsys):
    exp = experiment(tmp_path / "exp")
    (exp / "eval/trained/list/results.json").write_text("{")
    assert main(["report", str(exp)]) == 0
    told = capsys.readouterr()
    assert "untrained" in told.out and "trained/list/results.json" in told.err
    assert told.err.count("\n") == 1 and told.err.endswith("evaluate again; left out\n")
    (exp / "eval/untrained/list/results.json").write_text("[]")
    assert main(["report", str(exp)]) == 2


def test_flags_of_the_page_are_not_passed_over_without_it(world, capsys):
    assert main(["report", str(world["exp"]), "--no-audio"]) == 2
    assert "--no-audio is for the page; give --html FILE" in capsys.readouterr().err
    assert main(["report", str(world["exp"]), "--html", "/proc/page.html", "--map", "pca"]) == 2
    assert "choose another --html" in capsys.readouterr().err


def test_a_folder_that_may_not_be_read_is_one_line(world, tmp_path, monkeypatch, capsys):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("speechssl.files.os.scandir", refuse)
    for words in (["report"], ["report", "--html", str(tmp_path / "p.html")], ["watch"]):
        assert main([words[0], str(world["exp"]), *words[1:]]) == 2
        told = capsys.readouterr().err
        assert "cannot be read (Permission denied)" in told and told.count("\n") == 1


def test_ids_that_are_paths_are_coloured_by_folder_and_speakers_of_one_utterance_are_no_field():
    names = ["a/1.wav", "a/2.wav", "b/1.wav", "3.wav"]
    columns = columns_of(names, {"speaker": {name: name for name in names}})
    assert list(columns) == ["folder"]
    assert columns["folder"]["names"][columns["folder"]["codes"][0]] == "a"
    assert columns_of(["a/1.wav", "a/2.wav"], {}) == {}
