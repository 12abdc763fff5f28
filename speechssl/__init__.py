"""Utterance-level self-supervised speech representations.

``speechssl.load(DIR)`` gives an embedder; everything else is the ``speechssl`` command or a
submodule. Importing the package costs milliseconds: torch is loaded by whoever needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import speechssl.compat  # first: guards every later `import torchaudio`, in this process and in workers
from speechssl.errors import UserError

if TYPE_CHECKING:
    from speechssl.embed import Embedder, load

__version__ = "0.1.0"
__all__ = ["Embedder", "UserError", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """``load`` and ``Embedder``, imported when first asked for (they import torch)."""
    if name in ("Embedder", "load"):
        import speechssl.embed

        return getattr(speechssl.embed, name)
    raise AttributeError(f"module 'speechssl' has no attribute {name!r}")


speechssl.compat.guard_torchaudio()
