"""A whole DINO step, split: data, features, teacher, student forward, backward, optimiser and
    moving average.

    python -m egs.bench.step [--config FILE] [--steps 5] [--data KALDI_DIR] [key=value ...]

Without --data it makes generated voices first. What is left besides the encoder's forward and
backward passes is printed as a share of the step.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from torch import nn

from speechssl import distributed
from speechssl.compat import tune_allocator
from speechssl.train.data import read_utterances
from speechssl.train.optimizers import clip_gradients, clipped_parameters, schedule
from speechssl.train.run import Run
from speechssl.train.settings import TrainingConfig, resolve


class Stopwatch:
    """Seconds spent inside a module's forward passes, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begun: dict[str, float] = {}

    def watch(self, name: str, module: nn.Module) -> None:
        """Time every call of ``module``."""
        module.register_forward_pre_hook(
            lambda *_: self._begun.__setitem__(name, time.perf_counter())
        )
        module.register_forward_hook(
            lambda *_: self.add(name, time.perf_counter() - self._begun[name])
        )

    def add(self, name: str, seconds: float) -> None:
        """Add to a name's seconds."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


def main() -> None:
    """Time some steps and print the split."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", default="speechssl/conf/dino-small.yaml")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--data", type=Path)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    tune_allocator()
    with tempfile.TemporaryDirectory() as folder:
        data = args.data
        if data is None:
            from speechssl.corpora.synthetic.corpus import prepare

            prepare(folder + "/audio", folder + "/data")
            data = Path(folder) / "data" / "train"
        measure(
            resolve(args.config, [f"data.train=[{data}]", "train.steps=1000", *args.overrides]),
            args.steps,
        )


def measure(settings: TrainingConfig, steps: int) -> None:
    """Print the split of a step, medians over ``steps`` after one that does not count."""
    world = distributed.start("auto")
    utterances, _ = read_utterances(settings.data)
    run = Run(settings, world, utterances)
    watch = Stopwatch()
    for name in ("teacher", "student"):
        network = getattr(run.method, name, None)
        if network is not None:
            watch.watch(f"{name} encoder", network.encoder)
    rows: list[dict[str, float]] = []
    batches = iter(run.loader(0, steps + 1))
    for number in range(steps + 1):
        watch.seconds.clear()
        times = [time.perf_counter()]
        batch = next(batches)
        times.append(time.perf_counter())
        views = run.views(batch, number)
        times.append(time.perf_counter())
        with run.autocast():
            output = run.method(views, run.progress())
        times.append(time.perf_counter())
        output.loss.backward()
        times.append(time.perf_counter())
        clip_gradients(clipped_parameters(run.method), settings.optimizer)
        schedule(run.optimizer, settings.optimizer, 0.5, run.batch_size)
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        run.method.after_step(run.progress())
        times.append(time.perf_counter())
        names = (
            "waiting for data",
            "features",
            "heads and loss",
            "backward",
            "optimiser, moving average",
        )
        row = {
            key: after - before for key, before, after in zip(names, times, times[1:], strict=False)
        }
        row["heads and loss"] -= sum(watch.seconds.values())
        if number:
            rows.append(row | watch.seconds | {"whole step": times[-1] - times[0]})
    medians = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    whole = medians["whole step"]
    for key, value in medians.items():
        print(f"  {key:<28}{value:>9.3f} s{100 * value / whole:>8.1f} %")
    kept = sum(value for key, value in medians.items() if "encoder" in key or key == "backward")
    besides = 100 * (1 - kept / whole)
    print(
        f"  {run.batch_size / whole:.1f} utterances/s; besides encoder and backward: {besides:.1f} %"
    )


if __name__ == "__main__":
    main()
