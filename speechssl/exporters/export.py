"""One file a format: `write(model, out)` writes a folder that other programs load without this
package.
"""

from __future__ import annotations

from pathlib import Path

from speechssl import parts
from speechssl.errors import UserError
from speechssl.model import Model


def export(model: str | Path, to: str, out: str | Path) -> Path:
    """Export a model or run folder to one of the formats of this package into the folder `out`.

    Returns the folder. Raises UserError if the model cannot be loaded, `to` is unknown or cannot
    express the model, a library that it needs is missing, or `out` is the model's own folder.
    """
    formats = parts.names("exporters")
    if to not in formats:
        raise UserError(f"export: no format {to!r}; known: {', '.join(formats)}")
    out = Path(out)
    if out.exists() and (not out.is_dir() or out.resolve() == Path(model).resolve()):
        raise UserError(
            f"export: {out} is {'the model itself' if out.is_dir() else 'a file'}; give another"
            " --out"
        )
    loaded = Model.load(model)
    out.mkdir(parents=True, exist_ok=True)
    parts.find("exporters", to)(loaded, out)
    return out
