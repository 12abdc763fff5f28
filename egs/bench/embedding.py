"""Embedding many files of mixed lengths: `Embedder` beside SpeechBrain's encoder called file by
    file.

    python -m egs.bench.embedding [--files 200] [--width 512] [--precision float32]

Files of 1 to 15 s are written first. SpeechBrain's side is what its EncoderClassifier does: read,
Fbank, sentence mean normalisation, ECAPA_TDNN, one file at a time. The equality of the encoders on
equal features is a test (tests/encoders/test_ecapa.py); features differ between the two sides.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch

from egs.bench._timing import alternate, show
from speechssl.compat import tune_allocator
from speechssl.embed.embedder import Embedder
from speechssl.model import Model


def main() -> None:
    """Time both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--precision", choices=("float32", "bfloat16", "int8"), default="float32")
    args = parser.parse_args()
    tune_allocator()
    from speechbrain.lobes.features import Fbank
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    from speechbrain.processing.features import InputNormalization

    rng = np.random.default_rng(0)
    lengths = rng.uniform(1, 15, args.files)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.wav" for i in range(args.files)]
        for path, seconds in zip(paths, lengths, strict=True):
            soundfile.write(path, 0.1 * rng.standard_normal(int(seconds * 16000)), 16000)
        model = Model({}, {"name": "ecapa", "width": args.width})
        embedder = Embedder(model, precision=args.precision)
        channels = [args.width] * 4 + [3 * args.width]
        theirs = ECAPA_TDNN(80, lin_neurons=192, channels=channels, attention_channels=128).eval()
        theirs.load_state_dict(model.encoder.state_dict())
        fbank, normalise = (
            Fbank(n_mels=80),
            InputNormalization(norm_type="sentence", std_norm=False),
        )

        def one_by_one() -> None:
            with torch.no_grad():
                for path in paths:
                    wave = torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None]
                    theirs(normalise(fbank(wave), torch.ones(1)), torch.ones(1))

        ours = f"ours, batched by length, {args.precision}"
        seconds = alternate(
            {"SpeechBrain, file by file": one_by_one, ours: lambda: embedder.embed_files(paths)}, 2
        )
        hours = float(lengths.sum()) / 3600
        show(
            f"{args.files} files, {hours:.2f} h",
            seconds,
            3600 * hours,
            "s",
            "SpeechBrain, file by file",
        )


if __name__ == "__main__":
    main()
