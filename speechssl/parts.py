"""Parts: how a method, an encoder, a corpus ... is found, described, checked and built.

A part is a public module of one of ``FOLDERS`` that names ``PART``: the class, function
or object that the program uses. The module's name is the public name, the first
paragraph of its docstring the description, and the typed keyword-only parameters of
``PART`` are its settings. Adding a part is adding a file: ``speechssl list``, the
command's help, the configuration's checks, the tables in the READMEs and the contract
tests all ask this module and nothing else.

A configuration may also name a part outside this package, as ``package.module:Class``.

``speechssl.config``, which takes longer to import than all else here, is imported where
it is used: ``speechssl --help`` and ``list`` do without it.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from speechssl.errors import UserError
from speechssl.text import nearest

FOLDERS = {
    "corpora": "corpora that `speechssl prepare` reads",
    "features": "front ends: waveforms to frames of features",
    "encoders": "frames of features to one embedding an utterance",
    "foreign": "models of other programs that can be read",
    "methods": "what an encoder is trained with",
    "predictors": "predictors of BYOL, SimSiam and their relatives",
    "federated": "strategies of `speechssl federate`: what a client's round starts from",
    "clustering": "embeddings to pseudo-labels",
    "vad": "voice activity detectors: `speechssl embed --vad`, `speechssl diarize --vad`",
    "diagnostics": "figures of embeddings that tell a collapse",
    "evaluation": "tasks of `speechssl evaluate`, and of `speechssl cluster --reference`",
    "exporters": "formats of `speechssl export`",
    "trackers": "programs that show a training (`train.trackers`)",
}
"""Folders of parts, in the order of ``speechssl list``, and what they hold."""


def names(folder: str) -> list[str]:
    """Return the public names of the parts in ``speechssl/<folder>/``, sorted, importing nothing."""
    return list(descriptions(folder))


@cache
def descriptions(folder: str) -> dict[str, str]:
    """Return name -> first paragraph of the docstring, on one line, for each part of a folder.

    Modules are parsed, not imported. Helpers in the same folder do not name ``PART``.
    """
    found = {}
    for path in sorted((Path(__file__).parent / folder).iterdir()):
        source = path / "__init__.py" if path.is_dir() else path
        is_public_module = source.suffix == ".py" and not path.name.startswith("_")
        if not (is_public_module and source.is_file()):
            continue
        tree = ast.parse(source.read_text(encoding="utf-8"))
        if _names_part(tree):
            docstring = ast.get_docstring(tree) or ""
            first_paragraph = docstring.partition("\n\n")[0]
            found[path.stem] = " ".join(first_paragraph.split())
    return found


def _names_part(tree: ast.Module) -> bool:
    """True if a module assigns ``PART`` at its top level."""
    for node in tree.body:
        targets: Sequence[ast.expr] = ()
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(target, ast.Name) and target.id == "PART" for target in targets):
            return True
    return False


def find(folder: str, name: str) -> Any:
    """Import the part ``name``: a module of ``speechssl/<folder>/``, or ``package.module:Class``.

    Raises:
        UserError: there is no such part; the nearest names are given.
    """
    if ":" in name:
        return _find_outside(folder, name)
    known = names(folder)
    if name not in known:
        near = nearest(name, known)
        raise UserError(f"{folder}: no {name!r}{near}; known: {', '.join(known)}")
    return importlib.import_module(f"speechssl.{folder}.{name}").PART


def _find_outside(folder: str, name: str) -> Any:
    """Import ``package.module:Class``; raise UserError if it cannot be."""
    module_name, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UserError(
            f"{folder}: cannot load {name!r} ({error}); give 'package.module:Class'"
        ) from error


def refuse_outside_code(written: Any, allow_code: Collection[str], where: str | Path) -> None:
    """Refuse a configuration of somebody else's that names code outside this package.

    Args:
        written: the configuration, as it was read.
        allow_code: top-level packages whose code the user lets it name.
        where: the file, for the message.

    Raises:
        UserError: a ``name: package.module:Class`` of another package.
    """
    for package in sorted(outside_packages(written) - set(allow_code)):
        raise UserError(
            f"{where}: names code outside speechssl, in the package {package[:40]!r}, which is not"
            f" run; if you trust that package, give --allow-code {package[:40]}"
        )


def outside_packages(written: Any) -> set[str]:
    """Return the packages outside this one whose parts a configuration names.

    Those that the user's own configuration names may be named by what a run of it has saved.
    """
    packages: set[str] = set()
    if isinstance(written, Mapping):
        name = written.get("name")
        if isinstance(name, str) and ":" in name:
            packages.add(name.partition(":")[0].partition(".")[0])
        for inner in written.values():
            packages |= outside_packages(inner)
    elif isinstance(written, list | tuple):
        for inner in written:
            packages |= outside_packages(inner)
    return packages


def check(folder: str, section: Mapping[str, Any] | str, where: str) -> dict[str, Any]:
    """Check a section ``{name: ..., settings...}`` against the part it names; fill in its defaults.

    A name alone stands for the part with its defaults. Where the part's class names
    settings that are parts themselves (``PARTS = {"predictor": "predictors"}``), these
    are checked as well.

    Args:
        folder: where the part lives.
        section: what the user wrote.
        where: path of this section in the file, for messages (``method.predictor``).

    Raises:
        UserError: no such part, an unknown key, or a value of the wrong type.
    """
    from speechssl import config

    name, settings = _name_and_settings(folder, section, where)
    part = find(folder, name)
    hint = f"; {where}={name} takes this part with none of another one's settings"
    checked = {"name": name, **config.check(part, settings, where, hint)}
    for key, inner_folder in getattr(part, "PARTS", {}).items():
        inner = checked[key]
        if isinstance(inner, Mapping) and "name" not in inner:
            default_name = config.schema(part)[key][1]
            inner = {"name": default_name, **inner}
        checked[key] = check(inner_folder, inner, f"{where}.{key}")
    return checked


def _name_and_settings(folder: str, section: Any, where: str) -> tuple[str, dict[str, Any]]:
    """Return the name of a section's part and the settings beside it.

    Raises:
        UserError: the section has no name.
    """
    if isinstance(section, str):
        return section, {}
    if not isinstance(section, Mapping):
        raise UserError(f"config: {where} must be a name or a mapping with one, not {section!r}")
    if "name" not in section:
        raise UserError(f"config: {where}.name is missing; one of: {', '.join(names(folder))}")
    name = section["name"]
    if not isinstance(name, str):
        raise UserError(f"config: {where}.name must be a string, not {name!r}")
    settings = {key: value for key, value in section.items() if key != "name"}
    return name, settings


def with_new_names(folder: str, section: Any) -> Any:
    """Return a section ``{name: ..., settings...}`` that an older version saved, with today's names.

    What is no such section is returned as it is: ``check`` says what is wrong with it.

    Raises:
        UserError: there is no such part.
    """
    from speechssl import config

    if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
        return section
    part = find(folder, section["name"])
    current = config.with_new_names(part, section)
    for key, inner_folder in getattr(part, "PARTS", {}).items():
        if key in current:
            current[key] = with_new_names(inner_folder, current[key])
    return current


def build(folder: str, section: Mapping[str, Any] | str, *supplied: Any) -> Any:
    """Construct the part that a section names: ``PART(*supplied, **settings)``.

    Args:
        folder: where the part lives.
        section: name and settings, or a name alone.
        supplied: what the program gives the part, such as the size of an encoder's
            input.

    Raises:
        UserError: no such part, an unknown key, or a value of the wrong type.
    """
    return construct(folder, check(folder, section, folder), *supplied)


def construct(folder: str, checked: Mapping[str, Any], *supplied: Any) -> Any:
    """Construct the part of a section that ``check`` has returned, as ``build`` does.

    Args:
        folder: where the part lives.
        checked: name and all settings.
        supplied: what the program gives the part.
    """
    settings = {key: value for key, value in checked.items() if key != "name"}
    return find(folder, checked["name"])(*supplied, **settings)
