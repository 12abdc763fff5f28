"""Write the telephone version of a Kaldi directory: 300 to 3400 Hz at 8 kHz, through a coder.

    python egs/real/telephone.py DIRECTORY OUT [--every N | --mixed]

Utterance by utterance in turn: mu-law and A-law of G.711, GSM 06.10, and AMR at 7.4 kb/s where PyAV is
installed. Every other file of DIRECTORY (trials, labels) is copied, so that an evaluation list says
what is left of a model on telephones. Files are wav at 8 kHz: a reader has to resample them. --every takes
every N-th utterance only; --mixed takes every other one, and leaves those between as they are.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from speechssl.augment import acoustics, codecs
from speechssl.augment.plan import EQ_KNOTS, Codec
from speechssl.data.manifest import read_manifest

RATE = 8000
WIDE_RATE = 16000
BAND = (300.0, 3400.0)
Samples = NDArray[np.float32]


def main() -> None:
    """Write the directory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--every", type=int, default=1, metavar="N")
    parser.add_argument("--mixed", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    for file in args.directory.iterdir():
        if file.is_file() and file.name not in ("wav.scp", "segments", "utt2dur", "reco2channel"):
            shutil.copy(file, args.out / file.name)
    lines = []
    durations = []
    for number, utterance in enumerate(read_manifest(args.directory).utterances[:: args.every]):
        path = args.out / "wav" / f"{utterance.id}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)  # ids of folders have slashes
        if not path.exists():
            if args.mixed and number % 2:
                soundfile.write(path, utterance.read(WIDE_RATE), WIDE_RATE)
            else:
                number //= 1 + args.mixed
                soundfile.write(path, on_the_telephone(utterance.read(RATE), number), RATE)
        lines.append(f"{utterance.id} {path.resolve()}\n")
        durations.append(f"{utterance.id} {utterance.seconds:.3f}\n")
    (args.out / "wav.scp").write_text("".join(lines))
    (args.out / "utt2dur").write_text("".join(durations))


def on_the_telephone(samples: Samples, number: int) -> Samples:
    """Return samples (T,) at 8 kHz in the telephone's band and through the coder of this number."""
    wave = torch.from_numpy(samples)[None]
    size = acoustics.fft_length(wave.shape[1] + 1024)
    gain = acoustics.channel_gain(torch.zeros(1, EQ_KNOTS), torch.tensor([BAND]), size, RATE)
    wave = torch.fft.irfft(torch.fft.rfft(wave, n=size) * gain, n=size)[:, : wave.shape[1]]
    peak = float(wave.abs().max())
    if peak == 0.0:
        return samples
    wave = wave / peak
    coders = (acoustics.mu_law, acoustics.a_law, Codec.GSM, Codec.AMR)
    coder = coders[number % (4 if importlib.util.find_spec("av") else 3)]
    if isinstance(coder, Codec):
        coded = codecs.through(wave[0].numpy(), coder, RATE, rate=0.5)
    else:
        coded = coder(wave)[0].numpy()
    return coded * peak


if __name__ == "__main__":
    main()
