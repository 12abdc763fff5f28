"""Everything that a GPU is worth, in one command; on a CPU it runs with smaller sizes, to try it.

    python -m egs.bench --device cuda [--only products encoders ...] [--compile] [--data KALDI_DIR]

`products` (the roof), `convolutions` (memory formats), `encoders` (ours and SpeechBrain's in every
precision, step and inference), `profile` (the kernels of a step), `step` (DINO: eager, compiled, as a CUDA
graph), `augment` (noise, rooms and features on the device), `embed` (hours of audio a second, from files of
--data too), `kmeans`. Medians of rounds in turns. A precision "tf32" is float32 with TF32 products;
"float32" is without.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from egs.bench._timing import alternate, show
from egs.bench.encoder import pairs
from speechssl import parts
from speechssl.augment.augment import Augment
from speechssl.clustering.nearest import nearest
from speechssl.compat import tune_allocator
from speechssl.data.manifest import read_manifest
from speechssl.embed.embedder import Embedder
from speechssl.features.logmel import LogMel
from speechssl.interfaces import Method, Progress, Views
from speechssl.model import Model

PRECISIONS = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
DINO = {
    "name": "dino",
    "prototypes": 4096,
    "hidden": 2048,
    "bottleneck": 256,
    "batchnorm": True,
    "koleo_weight": 0.5,
}


class Bench:
    """Where to measure, and at which size.

    Args:
        device: cpu, cuda or cuda:N.
        compiled: measure torch.compile too.
        data: Kaldi directory of recordings; None: generated sounds.
    """

    def __init__(self, device: str, compiled: bool, data: Path | None) -> None:
        self.device = torch.device(device)
        self.gpu = self.device.type == "cuda"
        self.compiled = compiled
        self.data = data
        self.batch = 256 if self.gpu else 8
        self.rounds = 5 if self.gpu else 1
        self.precisions = list(PRECISIONS) if self.gpu else ["float32", "bfloat16"]
        self.roof: dict[str, float] = {}

    @contextlib.contextmanager
    def precision(self, name: str) -> Iterator[None]:
        """Compute products in that precision."""
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
        dtype = PRECISIONS[name]
        low = dtype != torch.float32
        try:
            with torch.autocast(self.device.type, dtype if low else torch.bfloat16, enabled=low):
                yield
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before

    def waits(self) -> None:
        """Wait until the device has done all that it was given."""
        if self.gpu:
            torch.cuda.synchronize()

    def random(self, *shape: int) -> Tensor:
        """Return Gaussian numbers on the device."""
        return torch.randn(*shape, device=self.device)


def products(bench: Bench) -> None:
    """Matrix products in each precision: the roof of everything else."""
    size = 8192 if bench.gpu else 1024
    for name in bench.precisions:
        a, b = (bench.random(size, size).to(PRECISIONS[name]) for _ in range(2))

        def multiply(a: Tensor = a, b: Tensor = b, name: str = name) -> None:
            with bench.precision(name):
                a @ b

        seconds = alternate({name: multiply}, 10)[name]
        bench.roof[name] = 2 * size**3 / seconds
        print(f"products in {name}: {bench.roof[name] / 1e12:.1f} TFLOP/s")


def convolutions(bench: Bench) -> None:
    """One layer in the forms that it could have, forward and backward, bfloat16."""
    frames, width = 300, 512
    rows = bench.random(bench.batch, frames, width).requires_grad_()
    by_channel = rows.detach().transpose(1, 2).contiguous().requires_grad_()
    for kernel in (1, 3):
        weight = bench.random(width, width, kernel).div_(40).requires_grad_()

        def conv1d(weight: Tensor = weight) -> None:
            F.conv1d(by_channel, weight, padding=weight.shape[-1] // 2).sum().backward()

        def conv2d(weight: Tensor = weight) -> None:
            image = rows[:, None].permute(0, 3, 1, 2)
            padding = (0, weight.shape[-1] // 2)
            F.conv2d(image, weight[:, :, None], padding=padding).sum().backward()

        def taps(weight: Tensor = weight) -> None:
            pad = weight.shape[-1] // 2
            padded = F.pad(rows, (0, 0, pad, pad))
            windows = [padded[:, tap : tap + frames] for tap in range(weight.shape[-1])]
            F.linear(torch.cat(windows, -1), weight.permute(0, 2, 1).flatten(1)).sum().backward()

        forms = {"conv1d on (B, C, F)": conv1d, "conv2d, channels last (ours)": conv2d}
        forms["one product on (B, F, C)" + (" (ours)" if kernel == 1 else "")] = taps
        if kernel == 1:
            forms["conv2d, channels last"] = forms.pop("conv2d, channels last (ours)")

        def low(run: Callable[[], None]) -> Callable[[], None]:
            def go() -> None:
                with bench.precision("bfloat16"):
                    run()

            return go

        seconds = alternate({name: low(run) for name, run in forms.items()}, bench.rounds)
        title = f"a layer, {width} to {width} channels, kernel {kernel}, {bench.batch} x 3 s"
        show(title, seconds, bench.batch, "utt", "conv1d on (B, C, F)")


def _step(net: nn.Module, x: Tensor) -> None:
    net(x).float().square().mean().backward()


def _infer(net: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        net(x)


def encoders(bench: Bench) -> None:
    """Steps and inference of the encoders, ours and SpeechBrain's, in every precision."""
    x = bench.random(bench.batch, 300, 80)
    for name, build in pairs().items():
        ours, theirs = (net.to(bench.device).train() for net in build())
        with FlopCounterMode(display=False) as counter:
            _step(ours, x)
        nets = {"speechbrain": theirs, "ours": ours}
        if bench.compiled and name == "ecapa-512":
            nets["ours, compiled"] = torch.compile(ours, dynamic=False)
        for kind, run, share in (("forward + backward", _step, 1.0), ("inference", _infer, 1 / 3)):
            flops = counter.get_total_flops() * share
            candidates: dict[str, Callable[[], object]] = {}
            for label, net in nets.items():
                net.train(run is _step)
                for precision in bench.precisions:
                    if precision in ("float32", "float16") and label == "ours, compiled":
                        continue

                    def go(
                        net: nn.Module = net,
                        precision: str = precision,
                        run: Callable[[nn.Module, Tensor], None] = run,
                    ) -> None:
                        with bench.precision(precision):
                            run(net, x)

                    candidates[f"{label} {precision}"] = go
            seconds = alternate(candidates, bench.rounds)
            title = f"{name}, {bench.batch} x 3 s, {kind} ({flops / 1e9:.0f} GFLOP)"
            show(title, seconds, bench.batch, "utt", "speechbrain float32")
            for precision, rate in bench.roof.items():
                reached = 100 * flops / seconds[f"ours {precision}"] / rate
                print(f"  ours {precision} runs at {reached:.0f} % of its products' rate")
        if bench.gpu:
            torch.cuda.reset_peak_memory_stats()
            candidates["ours bfloat16"]()
            print(f"  peak memory so far {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")


def dino_views(bench: Bench, method: Method) -> Callable[[], Tensor]:
    """Return what takes a DINO step's forward and backward pass on fixed crops: 2 x 3 s, 4 x 2 s."""
    long, short = bench.random(2, bench.batch, 300, 80), bench.random(4, bench.batch, 200, 80)
    ids = torch.arange(bench.batch, device=bench.device)
    views = [Views(long, ids=ids), Views(short, "student", ids)]
    progress = Progress(50, 100, 5)

    def passes() -> Tensor:
        with bench.precision("bfloat16"):
            loss: Tensor = method(views, progress).loss
        loss.backward()
        return loss

    return passes


def step(bench: Bench) -> None:
    """Forward and backward pass of a DINO step: eager, compiled, and recorded as a CUDA graph."""

    def build() -> Method:
        torch.manual_seed(0)
        encoder = parts.build("encoders", {"name": "ecapa", "width": 512}, 80)
        method: Method = parts.build("methods", DINO, encoder)
        method.prepare(10_000, None)
        return method.to(bench.device).train()

    candidates: dict[str, Callable[[], object]] = {"eager": dino_views(bench, build())}
    if bench.compiled:
        method = build()
        method.compile(dynamic=False)
        candidates["compiled (train.compile)"] = dino_views(bench, method)
    if bench.gpu:
        try:
            candidates["a CUDA graph"] = recorded(dino_views(bench, build()))
        except RuntimeError as error:
            print(f"no CUDA graph of the step: {str(error).splitlines()[0]}")
    seconds = alternate(candidates, bench.rounds)
    show(
        f"DINO, ECAPA-512, {bench.batch} x (2 x 3 s + 4 x 2 s)",
        seconds,
        bench.batch,
        "utt",
        "eager",
    )


def recorded(passes: Callable[[], object]) -> Callable[[], None]:
    """Return the replay of a CUDA graph of ``passes``."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            passes()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        passes()
    return graph.replay


def augment(bench: Bench) -> None:
    """Noise, rooms, filters and codecs on every crop, then log-mels, on the device."""
    count, samples = 4 * bench.batch, 32_000
    effects = {"noise_prob": 0.0, "rir_prob": 1.0, "simulate_prob": 1.0, "babble_prob": 0.5}
    augmentation = Augment(16000, **effects, filter_prob=1.0, codec_prob=1.0).to(bench.device)
    waves = 0.1 * bench.random(count, samples + augmentation.context_samples)
    plan = augmentation.draw(np.random.default_rng(0), count, samples)
    front_end = LogMel().to(bench.device)
    crops = 0.1 * bench.random(count, samples)
    seconds = alternate(
        {
            "babble, simulated rooms, filters, codecs": lambda: augmentation.apply(waves, plan),
            "log-mels": lambda: front_end(crops),
        },
        bench.rounds,
    )
    show(f"{count} crops of 2 s", seconds, count, "crop")


def embed(bench: Bench) -> None:
    """Hours of audio a second: the encoder alone, and `Embedder` from files."""
    model = Model({}, {"name": "ecapa", "width": 512}).eval()
    for precision in ("float32", "bfloat16"):
        embedder = Embedder(model, device=str(bench.device), precision=precision)
        waves = 0.1 * bench.random(bench.batch, 80_000)
        net = embedder.model

        def run(net: nn.Module = net, waves: Tensor = waves, precision: str = precision) -> None:
            with torch.no_grad(), bench.precision(precision):
                net(waves)

        seconds = alternate({"run": run}, bench.rounds)["run"]
        print(
            f"ECAPA-512 with log-mels, {precision}: {bench.batch * 5 / 3600 / seconds:.2f} hours a second"
        )
        if bench.data:
            utterances = read_manifest(bench.data).utterances
            hours = sum(utterance.seconds or 0.0 for utterance in utterances) / 3600
            list(embedder.stream(utterances[: bench.batch]))
            begun = time.perf_counter()
            done = sum(isinstance(row, np.ndarray) for _, _, row in embedder.stream(utterances))
            taken = time.perf_counter() - begun
            print(
                f"  {done} recordings of {bench.data.name}, read, decoded and embedded by one process:"
                f" {taken:.1f} s, {done / taken:.0f} a second, {hours / taken:.3f} hours a second"
            )


def kmeans(bench: Bench) -> None:
    """One iteration of spherical k-means: the nearest centroids, and the sums."""
    rows, clusters = (1_000_000, 10_000) if bench.gpu else (20_000, 200)
    x = F.normalize(bench.random(rows, 192), dim=1)
    centroids = x[:clusters]

    def iterate() -> None:
        labels, _ = nearest(x, centroids)
        sums = torch.zeros(clusters, 192, device=x.device).index_add_(0, labels, x)
        F.normalize(sums, dim=1)

    seconds = alternate({"one iteration": iterate}, min(3, bench.rounds))
    show(f"k-means, {rows} x 192 to {clusters}", seconds, rows, "row")


def profile(bench: Bench) -> None:
    """The kernels that a training step of ECAPA-512 and of ResNet34 spends its time in, bfloat16."""
    x = bench.random(bench.batch, 300, 80)
    for name in ("ecapa-512", "resnet34-light"):
        net = pairs()[name]()[0].to(bench.device).train()
        for recorded in (False, True):
            context = torch.profiler.profile() if recorded else contextlib.nullcontext()
            with context as profiler, bench.precision("bfloat16"):
                _step(net, x)
                bench.waits()
        by = "self_cuda_time_total" if bench.gpu else "self_cpu_time_total"
        print(name)
        table = profiler.key_averages().table(sort_by=by, row_limit=15, max_name_column_width=60)
        print("\n".join(line[:200] for line in table.splitlines()))


PARTS = {
    "products": products,
    "convolutions": convolutions,
    "encoders": encoders,
    "profile": profile,
    "step": step,
    "augment": augment,
    "embed": embed,
    "kmeans": kmeans,
}


def main() -> None:
    """Measure the parts that were asked for; one that fails does not stop the rest."""
    parser = argparse.ArgumentParser(
        prog="python -m egs.bench",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--compile", action="store_true", help="torch.compile too (minutes)")
    parser.add_argument("--data", type=Path, help="Kaldi directory of recordings to embed")
    args = parser.parse_args()
    tune_allocator()
    torch.manual_seed(0)
    bench = Bench(args.device, args.compile, args.data)
    where = torch.cuda.get_device_name() if bench.gpu else "CPU"
    print(f"{where}, torch {torch.__version__}")
    for name in args.only:
        begun = time.perf_counter()
        try:
            PARTS[name](bench)
        except RuntimeError as error:
            print(f"{name}: {error}")
        print(f"({name}: {time.perf_counter() - begun:.0f} s)\n", flush=True)


if __name__ == "__main__":
    main()
