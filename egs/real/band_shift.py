"""Find what recordings of a narrow band have in common, and take it out of a model's embeddings.

    python egs/real/band_shift.py MODEL OUT --wide DIRECTORY... --narrow DIRECTORY...

MODEL is a model or run folder of an ECAPA encoder, OUT becomes a model folder with `band_shift`
(`speechssl/nn/band_shift.py`). The directories are Kaldi's, of any recordings and no labels: wide ones, and
telephone ones, such as `egs/real/telephone.py` makes of the wide ones.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from last_layer import Matrix, beginnings
from sklearn.linear_model import LogisticRegression

from speechssl.data.manifest import Utterance, read_manifest
from speechssl.embed.embedder import Embedder
from speechssl.embed.layers import POOLED
from speechssl.embed.networks import load_model
from speechssl.model import Model
from speechssl.nn.frames import Frames

MAX_SECONDS = 8.0
PENALTY = 1e-2
"""C of the logistic regression, on standardised spectra: it tells telephones of new sets apart as well."""


def main() -> None:
    """Fit and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--wide", nargs="+", required=True, metavar="DIRECTORY")
    parser.add_argument("--narrow", nargs="+", required=True, metavar="DIRECTORY")
    parser.add_argument("--utterances", type=int, default=2000, help="of each kind (default: 2000)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(args.model)
    wide_spectra, wide = described(model, chosen(args.wide, args.utterances))
    narrow_spectra, narrow = described(model, chosen(args.narrow, args.utterances))
    spectra = np.concatenate([wide_spectra, narrow_spectra])
    deviation = spectra.std(0) + 1e-6
    is_narrow = np.arange(len(spectra)) >= len(wide)
    separation = LogisticRegression(C=PENALTY, max_iter=5000).fit(spectra / deviation, is_narrow)
    right = separation.score(spectra / deviation, is_narrow)

    settings = dict(model.settings["encoder"]) | {"band_shift": True}
    shifted = Model(model.settings["features"], settings, about=dict(model.about))
    state = shifted.encoder.state_dict() | model.encoder.state_dict()
    state["band_shift.weight"] = torch.from_numpy(separation.coef_[0] / deviation).float()
    state["band_shift.offset"] = torch.tensor(separation.intercept_[0]).float()
    state["band_shift.shift"] = torch.from_numpy(narrow.mean(0) - wide.mean(0)).float()
    shifted.encoder.load_state_dict(state)
    shifted.about["band_shift"] = (
        f"the means of {len(wide)} wide and {len(narrow)} narrow recordings; no labels"
    )
    shifted.save(args.out)
    print(f"{right:.1%} of {len(spectra)} recordings are taken for what they are")


def chosen(directories: list[str], count: int) -> list[Utterance]:
    """Return at most `count` utterances of Kaldi directories, spread evenly."""
    utterances: list[Utterance] = []
    for directory in directories:
        utterances += read_manifest(directory).utterances
    taken = min(count, len(utterances))
    return [utterances[number * len(utterances) // taken] for number in range(taken)]


def described(model: Model, utterances: list[Utterance]) -> tuple[Matrix, Matrix]:
    """Return the mean spectra (N, M) and the pooled statistics (N, P) of recordings."""
    embedder = Embedder(model, precision="auto", layer=POOLED)
    spectra = []
    statistics = []
    for waves, lengths in beginnings(utterances, embedder.sample_rate, MAX_SECONDS):
        with torch.inference_mode():
            features, frames = model.features(waves, lengths)
            spectra.append(Frames.of(features, frames).mean(features).numpy())
        statistics.append(embedder.encode_batch(waves, lengths).numpy())
    return np.concatenate(spectra).astype(np.float64), np.concatenate(statistics).astype(np.float64)


if __name__ == "__main__":
    main()
