"""Differences between platforms and libraries: torchaudio's extension, the allocator, pictures.

torchaudio 2.11 is linked against CUDA. With a CPU-only torch its extension fails to load, then
``import torchaudio`` fails, and with it ``import speechbrain``. `guard_torchaudio`, called by the
package's ``__init__``, lets both succeed: if the module ``torchaudio._extension`` fails, it is left
in the state that torchaudio itself defines for a build without the extension. Nothing is imported
before somebody imports torchaudio, so the guard costs nothing. Every process that imports anything
of speechssl has it, and so have DataLoader workers, forked or spawned.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EXTENSION = "torchaudio._extension"
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def guard_torchaudio() -> None:
    """Make ``import torchaudio`` work where its compiled extension cannot be loaded.

    Nothing changes where the extension loads, or torchaudio is imported already. A second call does
    nothing.
    """
    if not any(isinstance(finder, _ExtensionFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ExtensionFinder())


def tune_allocator() -> bool:
    """Keep freed memory for the next tensor instead of returning it to the kernel (glibc only).

    By default glibc serves every block above 32 MiB by a fresh mmap and returns it when freed, so
    each large activation is page-faulted in anew, every step. Measured on 2 cores for ``relu`` of a
    (64, 300, 512) fp32 tensor (39 MB), the fastest of 30: 18 to 25 ms by default, 2.6 to 8 ms after
    this call. The price is that the process keeps its peak memory. Training and embedding call it;
    importing the package does not.

    Returns:
        True if it was applied; elsewhere (macOS, musl, Windows) nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mapped = mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    trimmed = mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    return bool(mapped and trimmed)


def memory_bytes() -> int:
    """Return the bytes that this process may have: the machine's, or its container's if less."""
    try:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):  # Windows says it nowhere that needs no more packages
        return 8 << 30
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return min(machine, int(text)) if text.isdigit() else machine  # "max": no limit


def best_device() -> str:
    """Return what ``device: auto`` stands for: ``cuda``, ``mps`` (Apple's GPU) or ``cpu``."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def fast_precision(device: str = "cpu") -> Literal["float32", "bfloat16"]:
    """Return the faster precision of matrix products on a device: what ``precision: auto`` stands for.

    bfloat16 on GPUs that have it and on processors with instructions for it (AMX, AVX-512 BF16).
    Other processors emulate it: a product of (2000, 512) and (512, 512) matrices took 58 times as
    long as in float32 on one core of a Zen 3.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``, where nobody has measured it: float32.
    """
    import torch

    if device.startswith("mps"):
        return "float32"
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    has_instructions = any(
        getattr(torch.cpu, name, bool)()
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return "bfloat16" if has_instructions else "float32"


def choose_precision(
    requested: Literal["auto", "float32", "bfloat16"], device: str = "cpu"
) -> Literal["float32", "bfloat16"]:
    """Return what was requested, or for ``auto`` the faster precision of this device."""
    return fast_precision(device) if requested == "auto" else requested


class _ExtensionFinder(MetaPathFinder):
    """Finder of ``torchaudio._extension`` whose loader tolerates that the module fails."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _EXTENSION:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _ExtensionLoader(spec.loader.name, spec.loader.path)
        return spec


class _ExtensionLoader(SourceFileLoader):
    """Loader that runs the module; if a library cannot be linked, the state is "no extension"."""

    def exec_module(self, module: ModuleType) -> None:
        try:
            super().exec_module(module)
        except (OSError, RuntimeError) as error:
            stand_in: dict[str, Any] = {
                "_IS_TORCHAUDIO_EXT_AVAILABLE": False,
                "_IS_ALIGN_AVAILABLE": False,
                "fail_if_no_align": _failing(str(error)),
            }
            vars(module).update(stand_in)


def _failing(reason: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that makes a function raise when called.

    torchaudio decorates with it what needs the extension (forced alignment).
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        def fail(*_args: Any, **_kwargs: Any) -> Any:
            raise RuntimeError(
                f"{function.__name__} needs torchaudio's compiled extension, which did not load:"
                f" {reason}"
            )

        return functools.wraps(function)(fail)

    return decorate


@functools.cache
def faiss_if_installed() -> Any:
    """Return the module faiss, or None."""
    try:
        import faiss
    except ImportError:
        return None
    return faiss


FALLBACK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Source Han Sans SC", "PingFang SC",
    "Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic",
    "WenQuanYi Zen Hei", "Noto Sans Devanagari", "Noto Sans Thai",
)  # fmt: skip
"""For letters that matplotlib's own font lacks, as names of files and speakers may hold."""


def _use_fallback_fonts(figure: Figure) -> None:
    """Let texts that are not ASCII take letters from those of `FALLBACK_FONTS` that are installed."""
    from matplotlib.font_manager import fontManager
    from matplotlib.text import Text

    found = [artist for artist in figure.findobj(Text) if isinstance(artist, Text)]
    texts = [text for text in found if not text.get_text().isascii()]
    if not texts:
        return
    installed = set(fontManager.get_font_names())
    fonts = [name for name in FALLBACK_FONTS if name in installed]
    for text in texts:
        text.set_fontfamily([*text.get_fontfamily(), *fonts])


def write_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure of matplotlib so that the same figure is the same bytes.

    Its SVG would hold the time and random names, its PDF the time. A letter that no installed font
    has becomes a box, without a word.
    """
    from matplotlib import rc_context

    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    _use_fallback_fonts(figure)
    with rc_context({"svg.hashsalt": "speechssl"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(path, metadata=undated.get(Path(path).suffix))
