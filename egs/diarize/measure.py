"""Diarization error on conversations made of real utterances: a table over 1 to 5 speakers.

    python egs/diarize/measure.py MODEL --data DIR [--sets SET ...] [--seeds N] [--minutes M] [--vad V]

DIR/SET is a folder of audio with utterances.tsv (`path`, `speaker`). For each number of speakers and
seed one conversation is made (`mixtures.conversation`), and diarized twice: with the number of
speakers found, and given. DER with a collar of 0.25 s; missed and false speech are the VAD's.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import soundfile
from mixtures import RATE, conversation, speakers_of

import speechssl
from speechssl.diarize.pipeline import diarize
from speechssl.diarize.scoring import DiarizationError, diarization_error

SETS = ("librispeech_test", "speechocean_eval", "alphanumeric_eval", "arabic_commands")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--vad", default="energy")
    args = parser.parse_args()
    embedder = speechssl.load(args.model)
    print(
        "| set | speakers | DER % | missed | false alarm | confusion | number right | DER %, given |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in args.sets:
        files = speakers_of(args.data / name)
        for speakers in (1, 2, 3, 4, 5):
            found = DiarizationError()
            given = DiarizationError()
            right = 0
            for seed in range(args.seeds):
                talk = conversation(files, speakers, 1000 * speakers + seed, 60 * args.minutes)
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / "talk.wav"
                    soundfile.write(path, talk.samples, RATE, subtype="FLOAT")
                    free = diarize(embedder, path, vad=args.vad)
                    bound = diarize(embedder, path, vad=args.vad, speakers=speakers)
                found += diarization_error(talk.turns, free.turns, 0.25)
                given += diarization_error(talk.turns, bound.turns, 0.25)
                right += len(free.speakers) == speakers
            shares = (found.missed, found.false_alarm, found.confusion)
            cells = " | ".join(f"{100 * seconds / found.speech:.1f}" for seconds in shares)
            print(
                f"| {name} | {speakers} | {100 * found.rate:.1f} | {cells} | {right} of {args.seeds}"
                f" | {100 * given.rate:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
