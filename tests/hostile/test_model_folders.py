"""Model folders made by somebody else: data, never code; a hostile one is one line, and no memory.

Every folder below is opened in one process whose memory is limited; each must end in a UserError of
one line (or load, where it says so), and nothing outside the package may be imported.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from speechssl.model import Model

SECTION_VALUES = [3, "x", [1, 2], None, {"name": 3}, {"name": ["a"]}, {"name": None}, True, 1.5]

ENCODERS = {
    # code that the folder would like to run
    "a module beside it": {"name": "evil:PART"},
    "a callable of python": {"name": "os:_exit"},
    "a callable of python, with settings": {"name": "code:interact", "local": {}},
    "a module of the package that is no part": {"name": "speechssl.config:read"},
    "a path": {"name": "../../evil"},
    "a hidden module": {"name": "__init__"},
    "a null byte": {"name": "ec\0apa"},
    "not in the folder": {"name": "dino"},
    # sizes that no weights back up
    "embedding of a terabyte": {"embedding_dim": 1 << 36},
    "width of a terabyte": {"width": 1 << 24},
    "attention of a terabyte": {"attention_channels": 1 << 34},
    "mfa of a terabyte": {"mfa_channels": 1 << 33},
    "se of a terabyte": {"se_channels": 1 << 34},
    "kernel of a terabyte": {"kernel_sizes": [(1 << 31) + 1, 3, 3, 3, 1]},
    "beyond 64 bits": {"embedding_dim": 1 << 70},
    # sizes that mean nothing
    "embedding 0": {"embedding_dim": 0},
    "embedding negative": {"embedding_dim": -4},
    "embedding a float": {"embedding_dim": 1.5},
    "embedding a word": {"embedding_dim": "many"},
    "embedding nothing": {"embedding_dim": None},
    "width 0": {"width": 0},
    "width negative": {"width": -8},
    "scale 0": {"scale": 0},
    "scale negative": {"scale": -8},
    "dilation 0": {"dilations": [1, 0, 3, 4, 1]},
    "dilation negative": {"dilations": [1, -2, 3, 4, 1]},
    "dilation immense": {"dilations": [1, 1 << 40, 3, 4, 1]},
    "two dilations": {"dilations": [1, 0]},
    "no dilations": {"dilations": [], "kernel_sizes": []},
    "kernel 0": {"kernel_sizes": [0, 3, 3, 3, 1]},
    "kernel negative": {"kernel_sizes": [-3, 3, 3, 3, 1]},
    "kernels a number": {"kernel_sizes": 5},
    "kernels of words": {"kernel_sizes": ["a", "b", "c", "d", "e"]},
    "kernels nested": {"kernel_sizes": [[5], [3], [3], [3], [1]]},
    "se 0": {"se_channels": 0},
    "attention negative": {"attention_channels": -1},
    "mfa 0": {"mfa_channels": 0},
    "pooling unknown": {"pooling": "mystery"},
    "an unknown key": {"colour": "red"},
    "another encoder": {"name": "resnet"},
    "resnet without end": {"name": "resnet", "blocks": [1 << 40, 1, 1, 1]},
    "resnet of nothing": {"name": "resnet", "blocks": [0, 0, 0, 0]},
    "resnet of a terabyte": {"name": "resnet", "channels": [1 << 30, 1, 1, 1]},
    "resnet of negative channels": {"name": "resnet", "channels": [-1, 2, 3, 4]},
}

FEATURES = {
    "rate of a terabyte": {"sample_rate": 1 << 40},
    "rate 0": {"sample_rate": 0},
    "rate negative": {"sample_rate": -16000},
    "rate a word": {"sample_rate": "fast"},
    "rate not a number": {"sample_rate": float("nan")},
    "mels of a terabyte": {"n_mels": 1 << 36},
    "mels 0": {"n_mels": 0},
    "f_min not a number": {"f_min": float("nan")},
    "f_max infinite": {"f_max": float("inf")},
    "f_max below f_min": {"f_min": 4000.0, "f_max": 100.0},
    "floor 0": {"floor": 0.0},
    "floor not a number": {"floor": float("nan")},
    "context immense": {"context": 1 << 62},
    "context negative": {"context": -3},
    "normalise unknown": {"normalise": "mystery"},
    "preemphasis not a number": {"preemphasis": float("nan")},
    "an unknown key": {"colour": "red"},
    "a front end of one's own": {"name": "evil:PART"},
}

TEXTS = {
    "empty": "",
    "a list": "- 1\n- 2\n",
    "a scalar": "7\n",
    "not YAML": "a: [1, 2\n",
    "tabs": "a:\n\t- b\n",
    "null bytes": "a: \0\n",
    "not UTF-8": b"a: \xff\xfe\n",
    "a tag that makes objects": "encoder: !!python/object/apply:os.system ['touch ran']\n",
    "aliases that multiply": "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(
        f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "an alias of itself": "encoder: &e\n  name: ecapa\n  x: *e\n",
    "deep": "a: " + "[" * 100_000 + "]" * 100_000,
    "a million layers": f"encoder: {{name: ecapa, kernel_sizes: {[1] * 1_000_000}}}\n",
    "as many layers as fit": f"encoder: {{name: ecapa, kernel_sizes: [{'1,' * 500_000}]}}\n",
    "a key that is a list": "? [1, 2]\n: 3\n",
    "a key that is a number": "3: 4\nencoder: {name: ecapa}\n",
}

CHILD = """
import json, resource, sys, traceback
from pathlib import Path
import speechssl.model, speechssl.encoders.ecapa, speechssl.encoders.resnet, speechssl.features.logmel
from speechssl.errors import UserError
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
resource.setrlimit(resource.RLIMIT_CPU, (240, 240))
for folder in sorted(Path(sys.argv[1]).iterdir()):
    try:
        speechssl.model.Model.load(folder)
        outcome = "loaded"
    except UserError as error:
        outcome = "refused " + str(error)
    except BaseException as error:
        outcome = "escaped " + repr(error)[:300] + traceback.format_exc()[-300:]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([folder.name, outcome, peak, "evil" in sys.modules]), flush=True)
"""


def tiny() -> Model:
    torch.manual_seed(0)
    return Model({"n_mels": 20}, {"name": "ecapa", "width": 8, "embedding_dim": 4, "scale": 4})


def battery(root: Path) -> int:
    """Write one folder for each attack; return how many."""
    tiny().save(root / "good")
    text = (root / "good/config.yaml").read_text()
    weights = [path for path in (root / "good").iterdir() if path.name != "config.yaml"][0]
    changed: dict[str, str | bytes] = dict(TEXTS)
    for section, cases in (("encoder", ENCODERS), ("features", FEATURES)):
        for name, settings in cases.items():
            config = yaml.safe_load(text)
            if settings.get("name") == "resnet":
                config[section] = {}  # the settings of ECAPA are none of its own
            config[section].update(settings)
            changed[f"{section}, {name}"] = yaml.safe_dump(config)
        for number, value in enumerate(SECTION_VALUES):
            config = yaml.safe_load(text)
            config[section] = value
            changed[f"{section}, no section {number}"] = yaml.safe_dump(config)
    for number, value in enumerate(SECTION_VALUES[:-2]):
        config = yaml.safe_load(text)
        config["about"] = value
        changed[f"about {number}"] = yaml.safe_dump(config)
    for number, (name, content) in enumerate(changed.items()):
        folder = root / f"{number:03d} {name.replace('/', ' ')}"
        folder.mkdir()
        (folder / weights.name).write_bytes(weights.read_bytes())
        (folder / "evil.py").write_text("raise SystemExit('ran')\nPART = print\n")
        data = content if isinstance(content, bytes) else content.encode()
        (folder / "config.yaml").write_bytes(data)
    return len(changed)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> list[tuple[str, str, int, bool]]:
    """Folder, what came of it, the peak memory so far (kB), whether its module was imported."""
    root = tmp_path_factory.mktemp("folders")
    count = battery(root)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(root)], capture_output=True, text=True, cwd=root
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == count + 1, done.stderr[-2000:] + str(rows[-1:])
    return rows


def test_the_folder_that_is_right_loads(outcomes):
    assert [row[1] for row in outcomes if row[0] == "good"] == ["loaded"]


def test_every_hostile_folder_is_one_line(outcomes):
    harmless = ("about", "encoder, no section 3", "features, no section 3")
    bad = []
    for name, outcome, *_ in outcomes:
        loads_rightly = name == "good" or any(word in name for word in harmless)
        if outcome == "loaded" and loads_rightly:
            continue
        if not outcome.startswith("refused ") or "\n" in outcome or len(outcome) > 1000:
            bad.append((name, outcome))
    assert not bad, "\n".join(f"{name}: {outcome}" for name, outcome in bad)


def test_nothing_beside_a_model_is_imported(outcomes):
    assert not any(imported for *_, imported in outcomes)


def test_no_folder_takes_memory(outcomes):
    peaks = [peak for _, _, peak, _ in outcomes]
    assert max(peaks) - peaks[0] < 300_000  # kB; the longest of the texts is parsed meanwhile
