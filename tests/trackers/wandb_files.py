"""Reads the records of a .wandb file: the framing of LevelDB's log, around wandb's own messages."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 1 << 15
HEADER = 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Any]:
    """Yield the messages (`wandb_internal_pb2.Record`); a checksum that is wrong is an error."""
    from wandb.proto import wandb_internal_pb2

    content = path.read_bytes()
    assert content[:4] == b":W&B"
    position = HEADER
    parts = b""
    while position + HEADER <= len(content):
        left = BLOCK - position % BLOCK
        if left < HEADER:
            position += left
            continue
        checksum, length, kind = struct.unpack("<IHB", content[position : position + HEADER])
        position += HEADER
        data = content[position : position + length]
        position += length
        assert checksum == zlib.crc32(data, zlib.crc32(bytes([kind])))
        parts = data if kind in (FULL, FIRST) else parts + data
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record


def history(folder: Path) -> list[dict[str, Any]]:
    """Return the rows that `wandb sync` would send, of all parts of a run in their order."""
    rows = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for record in records(path):
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({
                    "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                    for item in items
                })  # fmt: skip
    return rows


def configuration(folder: Path) -> dict[str, Any]:
    """Return the configuration of a run's first part."""
    found = {}
    path = min(folder.glob("wandb/offline-run-*/run-*.wandb"))
    for record in records(path):
        if record.WhichOneof("record_type") == "run":
            for item in record.run.config.update:
                found[item.key] = json.loads(item.value_json)
    return found
