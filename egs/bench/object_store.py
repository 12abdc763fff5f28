"""Training data on object storage: how long a loader waits, at random and in sequence.

    pip install s3fs 'moto[s3,server]'
    python -m egs.bench.object_store [--latency 0.05] [--utterances 2000] [--step 0.5]

An S3 server (moto, on loopback, a process of its own) answers each request after `--latency`
seconds. Shards of generated voices lie there. A loop takes a batch and then sleeps for `--step`
seconds, as an encoder on a GPU would compute; the share of its time in which it waits for data is
printed for reading at random with one request in flight and with 16, and for `data.reading: stream`,
with a cache that is empty at first.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import soundfile

from speechssl.data.crops import CropSpec
from speechssl.data.dataset import CropBatches
from speechssl.data.loader import make_loader
from speechssl.data.manifest import Utterance
from speechssl.data.sequential import Reading
from speechssl.data.shards import ShardWriter

RATE = 16000
BUCKET = "s3://bench"


def main(argv: list[str] | None = None) -> None:
    """Print the waits."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--latency", type=float, default=0.05, help="seconds")
    parser.add_argument("--utterances", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=6.0, help="of an utterance")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--step", type=float, default=0.5, help="seconds of a step")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args(argv)
    with server(args.latency), tempfile.TemporaryDirectory() as folder:
        utterances = fill(args.utterances, args.seconds)
        ways: dict[str, dict[str, Any]] = {
            "random, 1 request": {"requests": 1},
            "random, 16 requests": {"requests": 16},
            "stream": {"sequential": Reading(buffer=500, cache=folder)},
        }
        for name, options in ways.items():
            share, per_step = waits(utterances, args, options)
            print(f"{name:<22}waits {100 * share:5.1f} % of the time, {per_step:.3f} s a step")


def waits(
    utterances: list[Utterance], args: argparse.Namespace, options: dict[str, Any]
) -> tuple[float, float]:
    """Return the share of time that a loop waits for batches after the first, and seconds a step."""
    plan = [CropSpec(2, 2.0)]
    data = CropBatches(utterances, plan, rate=RATE, batch_size=args.batch_size, **options)
    waited = 0.0
    started_at = time.perf_counter()
    before = started_at
    for step, _ in enumerate(make_loader(data, 0, args.steps, args.workers)):
        now = time.perf_counter()
        if step == 0:
            started_at = now  # the first batch waits for the workers to start
        else:
            waited += now - before
        time.sleep(args.step)
        before = time.perf_counter()
    total = time.perf_counter() - started_at
    return waited / total, waited / max(1, args.steps - 1)


def fill(count: int, seconds: float) -> list[Utterance]:
    """Write shards of noise into the bucket."""
    store = fsspec.filesystem("s3")
    store.mkdir("bench")
    shards = ShardWriter(store, "bench", BUCKET, 32 * 10**6)
    rng = np.random.default_rng(0)
    path = Path(tempfile.mkdtemp()) / "a.wav"
    found = []
    for number in range(count):
        samples = (3000 * rng.standard_normal(round(RATE * seconds))).astype(np.int16)
        soundfile.write(path, samples, RATE)
        utterance = Utterance(f"u{number}", "", seconds=seconds)
        address = shards.add(utterance, path.read_bytes(), "wav")
        found.append(Utterance(utterance.id, address, seconds=seconds))
    shards.close()
    return found


@contextmanager
def server(latency: float) -> Iterator[None]:
    """Run an S3 server on a free port of this machine, to which s3:// leads inside the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=serve, args=(port, latency), daemon=True)
    process.start()
    os.environ.update(
        AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}",
        AWS_ACCESS_KEY_ID="bench",
        AWS_SECRET_ACCESS_KEY="bench",
        AWS_DEFAULT_REGION="us-east-1",
    )
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.join()


def serve(port: int, latency: float) -> None:
    """Answer S3's requests, each after a while."""
    import logging

    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = DomainDispatcherApplication(create_backend_app)

    def later(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        time.sleep(latency)
        return app(environ, start)

    run_simple("127.0.0.1", port, later, threaded=True)


if __name__ == "__main__":
    main()
