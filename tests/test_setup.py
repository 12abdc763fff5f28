"""The repository as a user first meets it: scripts, the paths they name, and an install without
extras.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parent.parent
FOLDERS = (".ci", "egs", "recipes", "tests")
SCRIPTS = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if (path.suffix == ".sh" or path == ROOT / ".ci" / "run") and "exp" not in path.parts
)
# paths of the repository as scripts and READMEs write them: from the root, or conf/... beside the
# script
NAMED = re.compile(
    r"(?<![\w./$}-])((?:egs|recipes|tests|speechssl|conf|local|steps)/[\w./-]+\.(?:sh|yaml|py|txt|md|tsv))\b"
)
PAGES = sorted(
    path
    for pattern in (
        "*.md",
        ".github/**/*.md",
        "egs/*/README.md",
        "recipes/**/README.md",
        "speechssl/**/README.md",
    )
    for path in ROOT.glob(pattern)
)
EXTRAS = (
    "IPython",
    "alembic",
    "av",
    "faiss",
    "kaldi_native_io",
    "mlflow",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "optuna",
    "pyarrow",
    "rich",
    "silero_vad",
    "sqlalchemy",
    "tensorboard",
    "wandb",
)
MINIMAL = """
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)

sys.meta_path.insert(0, Blocked())
import speechssl
count = 0
for module in pkgutil.walk_packages(speechssl.__path__, "speechssl."):
    importlib.import_module(module.name)
    count += 1
print(count)
"""


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("script", SCRIPTS, ids=relative)
def test_script_parses(script: Path) -> None:
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "page",
    [*SCRIPTS, *PAGES],
    ids=relative,
)
def test_every_path_named_exists(page: Path) -> None:
    named = set(NAMED.findall(page.read_text(encoding="utf-8")))
    missing = [
        name for name in named if not (ROOT / name).exists() and not (page.parent / name).exists()
    ]
    assert not missing, f"{relative(page)} names {missing}"


def test_ci_runs_the_checks() -> None:
    assert "tests/run.sh" in (ROOT / ".ci" / "run").read_text()


def test_every_module_imports_without_the_extras() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MINIMAL, *EXTRAS, "webdataset"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10


IMPORTED_BY_OTHERS = {
    "alembic": "mlflow, for a database as its store",
    "ipykernel": "jupyter, to run the notebooks of egs/notebooks",
    "nbclient": "egs/notebooks/execute.py",
    "nbformat": "egs/notebooks/execute.py",
    "onnx": "torch.onnx, for the export",
    "silero-vad": "found, not imported: its network is run by torch alone",
    "sqlalchemy": "mlflow, for a database as its store",
    "tensorboard": "torch.utils.tensorboard",
    "torchaudio": "speechbrain; its version must be torch's",
}
"""Dependencies that no line of the package imports, and who needs them."""

MODULES = {
    "faiss-cpu": "faiss", "grpcio": "grpc", "ipython": "IPython", "mlflow-skinny": "mlflow", "pillow": "PIL",
    "protobuf": "google", "pyyaml": "yaml", "scikit-learn": "sklearn", "silero-vad": "silero_vad",
}  # fmt: skip
"""What distributions are imported as, where that is another name."""

OF_ITS_OWN = {"federated": "recipes/federated/constraints.txt"}
"""Extras that want other versions than the rest, and what pins these in their own environment."""

NOT_DECLARED = {"pandas", "polars", "umap"}
"""Imported only if a user asks for data frames by name, or used if they happen to be there."""


def test_what_is_imported_is_declared_and_the_other_way_round() -> None:
    imported = set()
    for path in (ROOT / "speechssl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    imported -= {"speechssl", *sys.stdlib_module_names, *NOT_DECLARED}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for extra, requirements in project["optional-dependencies"].items():
        if extra not in ("dev", "all"):
            wanted += requirements
    declared = {normal(re.match(r"[\w.-]+", one).group()) for one in wanted}
    modules = {MODULES.get(name, name.replace("-", "_")) for name in declared}
    assert imported - modules == set(), "imported, and no dependency"
    unused = {
        name
        for name in declared - IMPORTED_BY_OTHERS.keys()
        if MODULES.get(name, name.replace("-", "_")) not in imported
    }
    assert unused == set(), "a dependency, and never imported"
    assert IMPORTED_BY_OTHERS.keys() <= declared


def test_all_is_all_the_extras() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    (everything,) = extras["all"]
    named = set(everything.partition("[")[2].rstrip("]").split(","))
    assert named == extras.keys() - {"all", "dev", *OF_ITS_OWN}


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "speechssl").rglob("*.py")}
    assert [relative(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_every_dependency_is_pinned_exactly() -> None:
    lines = (ROOT / "tests" / "constraints.txt").read_text().splitlines()
    for path in OF_ITS_OWN.values():
        lines += (ROOT / path).read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins), (
        "exact, and no local versions such as +cpu"
    )
    pinned = {normal(pin.partition("==")[0]) for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    names = {normal(re.match(r"[\w.-]+", name).group()) for name in wanted}
    assert names - pinned == {"speechssl"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_own_environment_is_used_and_nothing_is_installed(tmp_path: Path) -> None:
    """`source egs/setup.sh` with SPEECHSSL_PYTHON: its folder leads PATH."""
    script = f"source {ROOT}/egs/setup.sh log && command -v python"
    environment = {
        "PATH": "/usr/bin:/bin",
        "SPEECHSSL_PYTHON": sys.executable,
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == Path(sys.executable).parent


def test_environment_without_the_package_is_one_clear_line(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "SPEECHSSL_PYTHON": str(python)}
    script = f"source {ROOT}/egs/setup.sh log"
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "has no speechssl; run:" in done.stderr and done.stderr.count("\n") == 1


def test_no_two_test_modules_have_one_name() -> None:
    """Pytest imports them by that name alone."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)) > 100
