"""Utterances a second and core that one loader process makes ready, with and without augmentation.

    python -m egs.bench.loader [--data KALDI_DIR] [--noise DIR] [--rir DIR] [--batches 8]

2 x 3 s + 4 x 2 s crops; with augmentation, noise and reverberation fall on every crop, here or, as with a
GPU, on the device (then they are only drawn here). Each is measured reading from the files, and from
utterances that were decoded before (`data.decoded_gb`). CPU seconds of this one process and thread are
counted, so other work on the machine disturbs little.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from speechssl.augment.augment import Augment
from speechssl.data.crops import parse_plan
from speechssl.data.dataset import CropBatches
from speechssl.data.manifest import read_manifest

DECODED_BYTES = 2_000_000_000
PLAN = [{"count": 2, "seconds": 3.0}, {"count": 4, "seconds": 2.0}]


def rate(batches: CropBatches, count: int) -> float:
    """Utterances a CPU second, all of them decoded before if the batches keep them."""
    if batches.reader.decoded is not None:
        for row in range(len(batches.table)):
            batches.reader.decoded.read(row, 0.0, batches.table.seconds[row])
    batches[0]
    begun = time.process_time()
    for step in range(1, count + 1):
        batches[step]
    return count * batches.batch_size / (time.process_time() - begun)


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--noise", type=Path)
    parser.add_argument("--rir", type=Path)
    parser.add_argument("--batches", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = args.data
        if data is None:
            from speechssl.corpora.synthetic.corpus import prepare

            prepare(folder + "/audio", folder + "/data")
            data = Path(folder) / "data" / "train"
        utterances = read_manifest(data).utterances
        noise = str(args.noise or folder + "/audio") if args.noise or args.data is None else None
        everything = Augment(
            16000,
            noise=noise,
            rir=str(args.rir) if args.rir else None,
            noise_prob=1.0 if noise else 0.0,
            rir_prob=1.0,
            simulate_prob=0.0 if args.rir else 1.0,
        )
        print("utterances a second and core: from the files, decoded before")
        for name, augment, here in (
            ("without augmentation", None, True),
            ("noise and reverberation on every crop", everything, True),
            ("the same, drawn here and done on the device", everything, False),
        ):
            rates = []
            for room in (0, DECODED_BYTES):
                crops = CropBatches(
                    utterances,
                    parse_plan(PLAN),
                    batch_size=32,
                    augment=augment,
                    augment_here=here,
                    decoded_bytes=room,
                )
                rates.append(rate(crops, args.batches))
            print(f"  {name:<46}{rates[0]:>8.0f}{rates[1]:>8.0f}", flush=True)


if __name__ == "__main__":
    main()
