"""The torchaudio guard and the allocator, each in a process of its own; figures."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from speechssl import compat

BROKEN = """
from pathlib import Path
{failure}
_IS_TORCHAUDIO_EXT_AVAILABLE = True
fail_if_no_align = lambda function: function
"""

WORKERS = """
import speechssl
import sys, torch

class Waves(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        import torchaudio, speechbrain
        from torchaudio._extension import _IS_TORCHAUDIO_EXT_AVAILABLE, fail_if_no_align
        return torchaudio.functional.amplitude_to_DB(torch.ones(3), 20.0, 1e-10, 0.0)

if __name__ == "__main__":
    loader = torch.utils.data.DataLoader(Waves(), 2, num_workers=1, multiprocessing_context=sys.argv[1])
    print(sum(len(batch) for batch in loader))
"""


def run(code: str, *arguments: str, first: Path | None = None) -> str:
    """Standard output of a fresh interpreter; ``first`` is put at the front of its path."""
    prefix = f"import sys; sys.path.insert(0, {str(first)!r})\n" if first else ""
    done = subprocess.run(
        [sys.executable, "-c", prefix + code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def fake_torchaudio(folder: Path, failure: str) -> Path:
    """A package laid out as torchaudio, whose extension runs ``failure`` when imported."""
    extension = folder / "torchaudio" / "_extension"
    extension.mkdir(parents=True)
    (extension / "__init__.py").write_text(BROKEN.format(failure=failure))
    (folder / "torchaudio" / "__init__.py").write_text("from . import _extension\n")
    return folder


@pytest.mark.parametrize(
    "error", ["OSError('no libcudart')", "RuntimeError('CUDA versions differ')"]
)
def test_broken_extension_becomes_a_stand_in(tmp_path: Path, error: str) -> None:
    code = """
import speechssl, torchaudio
from torchaudio._extension import _IS_TORCHAUDIO_EXT_AVAILABLE, fail_if_no_align
assert _IS_TORCHAUDIO_EXT_AVAILABLE is False
@fail_if_no_align
def forced_align(x):
    return x
try:
    forced_align(1)
except RuntimeError as error:
    print(error)
"""
    printed = run(code, first=fake_torchaudio(tmp_path, f"raise {error}"))
    assert "forced_align needs torchaudio's compiled extension" in printed
    assert error.split("'")[1] in printed


def test_other_failures_are_not_hidden(tmp_path: Path) -> None:
    code = "import speechssl\ntry:\n    import torchaudio\nexcept ImportError as error:\n    print(error)"
    assert (
        run(code, first=fake_torchaudio(tmp_path, "raise ImportError('half a build')"))
        == "half a build"
    )


def test_healthy_extension_is_left_alone(tmp_path: Path) -> None:
    code = """
import speechssl, torchaudio
extension = torchaudio._extension
print(extension._IS_TORCHAUDIO_EXT_AVAILABLE, extension.fail_if_no_align(len) is len)
"""
    assert run(code, first=fake_torchaudio(tmp_path, "pass")) == "True True"


def test_recovers_after_a_failed_import(tmp_path: Path) -> None:
    code = """
try:
    import torchaudio
except OSError:
    pass
import speechssl, torchaudio
print(torchaudio._extension._IS_TORCHAUDIO_EXT_AVAILABLE)
"""
    assert run(code, first=fake_torchaudio(tmp_path, "raise OSError('no libcudart')")) == "False"


def test_speechbrain_imports_after_speechssl() -> None:
    code = """
import speechssl, torch
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
import torchaudio.functional
print(ECAPA_TDNN(20, channels=[8] * 5, lin_neurons=4).eval()(torch.zeros(1, 30, 20)).shape[-1])
"""
    assert run(code) == "4"


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_guard_holds_in_workers(tmp_path: Path, context: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(WORKERS)
    done = subprocess.run(
        [sys.executable, str(script), context], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "4"


def test_importing_speechssl_is_cheap() -> None:
    code = "import sys, speechssl; print([m for m in ('torch', 'numpy', 'torchaudio') if m in sys.modules])"
    assert run(code) == "[]"


def test_guard_is_installed_once() -> None:
    before = list(sys.meta_path)
    compat.guard_torchaudio()
    assert sys.meta_path == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_tuned_allocator_keeps_freed_memory() -> None:
    """After a tensor of 256 MiB is freed the process still holds its pages; without the call it
    does not.
    """
    code = """
import sys, torch, speechssl.compat
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4 // 1024  # MiB, for pages of 4 KiB
tuned = speechssl.compat.tune_allocator() if sys.argv[1] == "tuned" else False
before = resident()
torch.ones(64 << 20)
print(tuned, resident() - before)
"""
    tuned, kept = run(code, "tuned").split()
    if tuned != "True":
        pytest.skip("this C library has no mallopt")
    assert int(kept) > 200
    assert int(run(code, "default").split()[1]) < 50


def test_tune_allocator_elsewhere_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert compat.tune_allocator() is False


def test_auto_precision_is_the_processors_own() -> None:
    """bfloat16 exactly where the kernel lists instructions for it."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    expected = "bfloat16" if {"avx512_bf16", "amx_bf16"} & set(flags.split()) else "float32"
    assert compat.fast_precision("cpu") == expected


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_same_figure_is_the_same_bytes(tmp_path, ending):
    """A command that was killed and run again ends in the bits of one that was not."""
    contents = set()
    for number in range(2):
        figure = Figure()
        axes = figure.subplots()
        axes.plot([1, 2, 3], label="a")
        axes.fill_between([0, 1], [0, 1], hatch="x")
        axes.legend()
        path = tmp_path / f"{number}.{ending}"
        compat.write_figure(figure, path)
        contents.add(path.read_bytes())
        time.sleep(1.1)  # an SVG's date has seconds
    assert len(contents) == 1


def test_a_letter_of_no_font_is_a_box_without_a_word(tmp_path, recwarn):
    figure = Figure()
    figure.subplots().set_title("\u8bed\U0010fffd.wav")
    compat.write_figure(figure, tmp_path / "a.png")
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_a_letter_that_another_installed_font_has_is_drawn_with_it(tmp_path, monkeypatch):
    """A font that matplotlib brings has a letter of private use that its own default has not."""
    letter = "\ue13b"

    def drawn(fonts):
        monkeypatch.setattr(compat, "FALLBACK_FONTS", fonts)
        figure = Figure()
        figure.text(0.5, 0.5, letter, size=100)
        compat.write_figure(figure, tmp_path / "a.png")
        return (tmp_path / "a.png").read_bytes()

    box = drawn(("No Such Font",))
    assert drawn(()) == box and drawn(("STIXNonUnicode",)) != box
