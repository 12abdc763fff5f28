"""Embed Kaldi directories by Resemblyzer's released d-vector, to compare with.

    pip install Resemblyzer 'setuptools<81'     # its webrtcvad imports pkg_resources
    python egs/real/dvector.py DIRECTORY... --out FILE.npz

GE2E (Wan et al. 2018), trained with the labels of thousands of speakers (LibriSpeech-other,
VoxCeleb1 and 2); its weights are in the package. Its own preparation is used: level, and long
silences shortened; utterances of which nothing is left are embedded as they are.
"""

from __future__ import annotations

import argparse
import sys
import types

import numpy as np
import scipy.ndimage
import torch

from speechssl.data.manifest import read_manifest


def main() -> None:
    """Write the embeddings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("directories", nargs="+")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    # Resemblyzer imports a module that newer versions of SciPy no longer have.
    old = types.ModuleType("scipy.ndimage.morphology")
    old.binary_dilation = scipy.ndimage.binary_dilation  # type: ignore[attr-defined]
    sys.modules.setdefault(old.__name__, old)
    try:
        from resemblyzer import VoiceEncoder, preprocess_wav
    except ImportError as error:
        sys.exit(f"dvector.py: {error}; pip install Resemblyzer 'setuptools<81'")
    encoder = VoiceEncoder("cpu", verbose=False)
    ids = []
    vectors = []
    for directory in args.directories:
        for utterance in read_manifest(directory):
            wave = utterance.read(16000)
            prepared = preprocess_wav(wave, 16000)
            with torch.no_grad():
                vectors.append(encoder.embed_utterance(prepared if len(prepared) else wave))
            ids.append(utterance.id)
    np.savez(args.out, ids=np.array(ids), embeddings=np.stack(vectors).astype(np.float32))


if __name__ == "__main__":
    main()
