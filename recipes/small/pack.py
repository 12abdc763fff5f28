"""Write a model as it comes with the package: half precision, without the folders of this machine.

    python recipes/small/pack.py MODEL OUT

MODEL is a model or run folder; OUT becomes a model folder (configuration and weights; the card and
`calibration.json` are written by others).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from speechssl import weights
from speechssl.files import ModelFolder
from speechssl.model import Model


def main() -> None:
    """Write the model folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    model = Model.load(args.model)
    model.about = {
        **without_folders(model.about),
        "precision": "weights rounded to float16",
    }
    model.save(args.out)
    files = ModelFolder(args.out)
    weights.write(files.weights, halved(model.encoder.state_dict()))


def halved(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict with real numbers in float16.

    Raises:
        OverflowError: a weight is too large for float16.
    """
    rounded = {}
    for name, tensor in state.items():
        if tensor.is_floating_point():
            tensor = tensor.half()
            if not tensor.isfinite().all():
                raise OverflowError(f"{name} does not fit into float16")
        rounded[name] = tensor
    return rounded


def without_folders(about: dict[str, Any]) -> dict[str, Any]:
    """Return `about` with the names of the data directories in place of their paths."""
    data = about.get("data")
    if not isinstance(data, dict):
        return dict(about)
    names = [Path(path).name for path in data.get("directories", [])]
    return {**about, "data": {**data, "directories": names}}


if __name__ == "__main__":
    main()
