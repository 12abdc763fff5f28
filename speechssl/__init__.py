"""Utterance-level self-supervised speech representations.

``speechssl.load(DIR)`` returns an embedder; everything else is the ``speechssl`` command or in a
submodule. Importing the package takes milliseconds: torch is imported when it is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import speechssl.compat  # first: guards every later `import torchaudio`, here and in workers
from speechssl.errors import UserError

if TYPE_CHECKING:
    from speechssl.embed import Embedder, load

__version__ = "0.1.0"
__all__ = ["Embedder", "UserError", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Return ``load`` or ``Embedder``, imported when first used (they import torch)."""
    if name in ("Embedder", "load"):
        import speechssl.embed

        return getattr(speechssl.embed, name)
    raise AttributeError(f"module 'speechssl' has no attribute {name!r}")


speechssl.compat.guard_torchaudio()
