"""A map of the embeddings: neighbours stay neighbours, and a click plays an utterance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl.data.vectors.files import read_sample
from speechssl.errors import UserError
from speechssl.progress import counted
from speechssl.report.page.blocks import Block, EmbeddingMap, Text, shortened
from speechssl.report.page.material import Material, NamedFile, clusters_of
from speechssl.report.page.projection import choose, project
from speechssl.report.page.section import Section

MOST_MAPS = 6
"""Systems that have a map."""

MOST_OF_A_FOLDER = 100_000
"""Embeddings of a folder, drawn by lot, among which the points of a map are drawn."""

SHOWN_AS = {"spk": "speaker"}
"""Labels whose name in a Kaldi directory is not the word that people use."""

Rows = NDArray[np.float32]
Fields = Mapping[str, Mapping[str, str]]


def build(material: Material) -> Sequence[Block]:
    """Return the map, a menu for several systems; where there are no embeddings, how to get it."""
    if not material.embeddings:
        text = (
            "No embeddings, so no map: `speechssl embed MODEL DATA --out"
            " EXP/embeddings/NAME/SET.npz` writes them where this page looks."
        )
        return [Text(text, "note")]
    method = choose(material.chosen.map_method)
    fields = _fields(material)
    maps: dict[str, dict[str, Any]] = {}
    made = ""
    systems = list(_by_system(material.embeddings).items())[:MOST_MAPS]
    for system, files in counted(systems, len(systems), "maps", "map"):
        found = material.attempt(partial(_map, material, files, fields, method))
        if found is not None:
            maps[system], made = found
    if not maps:
        return []
    clips = _clips(material, [name for drawn in maps.values() for name in drawn["full_ids"]])
    for drawn in maps.values():
        drawn["clips"] = [clips.get(name, "") for name in drawn.pop("full_ids")]
    points = max(len(drawn["ids"]) for drawn in maps.values())
    total = max(drawn["total"] for drawn in maps.values())
    caption = (
        f"{points:,} of {total:,} embeddings ({made}). Distances between far groups mean nothing;"
        " who is near whom does."
    )
    if clips:
        caption += f" {len(clips)} utterances, drawn with a rim, can be heard: click one."
    elif not material.clips.utterances:
        caption += " For labels and audio, name the data with --data DIR (a Kaldi directory)."
    return [EmbeddingMap("Map of the embeddings", caption, maps)]


def _by_system(files: Sequence[NamedFile]) -> dict[str, list[NamedFile]]:
    systems: dict[str, list[NamedFile]] = {}
    for file in files:
        systems.setdefault(file.name, []).append(file)
    return systems


def _fields(material: Material) -> dict[str, Mapping[str, str]]:
    fields: dict[str, Mapping[str, str]] = {}
    for name, values in clusters_of(material).items():
        fields[f"cluster ({name})"] = values
    for name in sorted(material.labels, key=lambda name: (name != "spk", name)):
        fields[SHOWN_AS.get(name, name)] = material.labels[name]
    return fields


def _map(
    material: Material, files: Sequence[NamedFile], fields: Fields, method: str
) -> tuple[dict[str, Any], str]:
    """Return the map of a system, all its sets together, and how it was made."""
    ids, sets, rows = _read(files)
    total = len(ids)
    generator = np.random.default_rng(material.chosen.seed)
    # By their names: two systems of the same utterances show the same ones.
    order = np.argsort(ids, kind="stable")[generator.permutation(total)]
    order = order[: material.chosen.map_points]
    names = ids[order].tolist()
    points, made = project(rows[order], method, material.chosen.seed)
    columns = columns_of(names, fields)
    if len(files) > 1:
        columns["set"] = _column(sets[order].tolist())
    drawn = {
        "ids": [shortened(name) for name in names],
        "full_ids": names,
        "x": np.round(points[:, 0].astype(float), 3),
        "y": np.round(points[:, 1].astype(float), 3),
        "fields": columns,
        "total": total,
    }
    return drawn, made


def columns_of(names: Sequence[str], fields: Fields) -> dict[str, dict[str, Any]]:
    """Return the column of each field that groups some of the names, the fullest first.

    A field in which every utterance has a value of its own (`prepare folder` writes such speakers,
    where nothing is known of them) groups nothing. Ids that are paths are grouped by their folders.
    """
    fields = {**fields, "folder": _folders(names)}
    known = {
        field: [values[one] for one in names if one in values] for field, values in fields.items()
    }
    columns = {}
    for field in sorted(fields, key=lambda field: -len(known[field])):
        if len(set(known[field])) < len(known[field]):
            columns[field] = _column([fields[field].get(one, "") for one in names])
    return columns


def _folders(names: Sequence[str]) -> dict[str, str]:
    """Return name -> folder of each name with one; nothing where they all lie in the same."""
    folders = {name: name.rpartition("/")[0] for name in names if "/" in name}
    return folders if len(set(folders.values())) > 1 else {}


def _read(files: Sequence[NamedFile]) -> tuple[NDArray[Any], NDArray[Any], Rows]:
    """Return ids (N,), the set of each (N,), and embeddings (N, D) of all files of a system."""
    ids = []
    sets = []
    matrices: list[Rows] = []
    for file in files:
        names, matrix = read_sample(file.path, MOST_OF_A_FOLDER)
        if not np.isfinite(matrix).all():
            raise UserError(f"{file.path}: holds numbers that are not finite; embed again")
        if matrices and matrix.shape[1] != matrices[0].shape[1]:
            raise UserError(
                f"{file.path}: {matrix.shape[1]} dimensions; those beside it have others"
            )
        ids.append(names)
        sets.append(np.full(len(names), file.path.stem))
        matrices.append(matrix)
    return np.concatenate(ids), np.concatenate(sets), np.concatenate(matrices)


def _column(values: Sequence[str]) -> dict[str, Any]:
    """Return the names of a column, the most frequent first, and the place of each value."""
    found, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    place = np.empty(len(order), np.intp)
    place[order] = np.arange(len(order))
    return {"names": [shortened(str(found[i])) for i in order], "codes": place[codes]}


def _clips(material: Material, names: Sequence[str]) -> dict[str, str]:
    """Return id -> key of its clip, for as many as were asked for."""
    clips: dict[str, str] = {}
    for name in dict.fromkeys(names):
        if len(clips) >= material.chosen.clips or material.clips.is_full:
            break
        key = material.clips.add(name)
        if key:
            clips[name] = key
    return clips


SECTION = Section("Map of the embeddings", 70, build)
