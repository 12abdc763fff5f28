"""A table of EER (%), mean and range over seeds, from the results.json of recipes/federated/run.sh."""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path


def cell(folder: Path, name: str) -> str:
    """Return the mean EER of a model on a set, and its lowest and highest over seeds."""
    found = sorted(folder.glob(f"seed*/{name}/results.json"))
    values = [json.loads(path.read_text(encoding="utf-8"))["eer"] for path in found]
    if not values:
        return "-"
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.1f}"
    return f"{mean:.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="folder MODEL/seedN/SET/results.json")
    parser.add_argument("--models", nargs="+", required=True, help="rows, in this order")
    parser.add_argument("--sets", nargs="+", required=True, help="columns, in this order")
    args = parser.parse_args()
    print("| model | " + " | ".join(args.sets) + " |")
    print("|---|" + "---|" * len(args.sets))
    for model in args.models:
        cells = [cell(args.results / model, name) for name in args.sets]
        print(f"| {model} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
