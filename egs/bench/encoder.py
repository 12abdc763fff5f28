"""Encoder steps: ours beside SpeechBrain's modules, float32 and bfloat16, forward + backward and
    inference.

    python -m egs.bench.encoder [--batch 64] [--seconds 3] [--rounds 3] [--only ecapa-512 ...]
    [--device cpu]
    python -m egs.bench.encoder --profile [--only ecapa-512 ...]     # the kernels that the steps spend it in

Weights are the same on both sides. The share is that of the measured matrix-product rate of the type,
by the faster kernel.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from egs.bench._timing import alternate, product_rates, show
from speechssl.compat import fast_precision, tune_allocator
from speechssl.encoders.ecapa import ECAPA
from speechssl.encoders.resnet import ResNet
from speechssl.nn.products import choose_kernel


def pairs() -> dict[str, Callable[[], tuple[nn.Module, nn.Module]]]:
    """Name -> (ours, theirs) with equal weights."""

    def ecapa(width: int) -> tuple[nn.Module, nn.Module]:
        from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

        ours = ECAPA(80, width=width)
        channels = [width] * 4 + [3 * width]
        theirs = ECAPA_TDNN(80, lin_neurons=192, channels=channels, attention_channels=128)
        theirs.load_state_dict(ours.state_dict())
        return ours, theirs

    def light() -> tuple[nn.Module, nn.Module]:
        from speechbrain.lobes.models.ResNet import ResNet as Theirs

        ours = ResNet(80, width=16, embedding_dim=256)
        theirs = Theirs(input_size=80, channels=[16, 32, 64, 128], lin_neurons=256)
        theirs.load_state_dict(ours.state_dict())
        return ours, theirs

    return {
        "ecapa-512": lambda: ecapa(512),
        "ecapa-1024": lambda: ecapa(1024),
        "resnet34-light": light,
    }


def step(net: nn.Module, x: Tensor, low: bool) -> None:
    """Forward and backward."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=low):
        y = net(x)
    y.float().square().mean().backward()


def infer(net: nn.Module, x: Tensor, low: bool) -> None:
    """Forward without gradient, in evaluation mode."""
    net.eval()
    with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=low):
        net(x)
    net.train()


def profile(net: nn.Module, x: Tensor, low: bool, shown: int = 10) -> None:
    """Print what the kernels of one forward and backward pass take, the largest first."""
    step(net, x, low)
    with torch.profiler.profile() as profiler:
        step(net, x, low)
    rows = profiler.key_averages()
    total = sum(row.self_cpu_time_total for row in rows)
    for row in sorted(rows, key=lambda row: -row.self_cpu_time_total)[:shown]:
        share, seconds = 100 * row.self_cpu_time_total / total, row.self_cpu_time_total / 1e6
        print(f"    {row.key:<44}{seconds:>8.3f} s{share:>6.1f} %{row.count:>7} calls")


def main() -> None:
    """Time every pair."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(pairs()), default=list(pairs()))
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--profile", action="store_true", help="where the time goes, in place of ratios"
    )
    parser.add_argument(
        "--emulated", action="store_true", help="bfloat16 too where the processor emulates it"
    )
    args = parser.parse_args()
    tune_allocator()
    torch.manual_seed(0)
    with_bfloat16 = args.emulated or fast_precision(args.device) == "bfloat16"
    types = {"float32": torch.float32}
    if with_bfloat16:
        types["bfloat16"] = torch.bfloat16
    else:
        print("bfloat16 is emulated here (tens of times slower) and left out; --emulated has it")
    rates = {}
    for name, dtype in types.items():
        by_kernel = product_rates(dtype, device=args.device)
        for kernel, rate in by_kernel.items():
            print(f"matrix products in {name} by {kernel}: {rate / 1e9:.0f} GFLOP/s")
        rates[name] = max(by_kernel.values())
    print(f"ours float32 computes with {choose_kernel()} (nn/products.py)")
    x = torch.randn(args.batch, round(100 * args.seconds), 80, device=args.device)
    for name in args.only:
        ours, theirs = (net.to(args.device).train() for net in pairs()[name]())
        with FlopCounterMode(display=False) as counter:
            step(ours, x, False)
        flops = counter.get_total_flops()
        what = {}
        for precision in types:
            what[f"speechbrain {precision}"] = (theirs, precision == "bfloat16")
            what[f"ours {precision}"] = (ours, precision == "bfloat16")
        if args.profile:
            for key, (net, low) in what.items():
                print(f"  {name}, {key}, forward + backward")
                profile(net, x, low)
            continue
        for kind, run, work in (
            ("forward + backward", step, flops),
            ("inference", infer, flops / 3),
        ):
            timed = {
                key: (lambda n=net, b=low, r=run: r(n, x, b)) for key, (net, low) in what.items()
            }
            seconds = alternate(timed, args.rounds)
            title = f"{name}, {args.batch} x {args.seconds:g} s, {kind} ({work / 1e9:.0f} GFLOP)"
            show(title, seconds, args.batch, "utt", "speechbrain float32")
            for precision, rate in rates.items():
                share = work / seconds[f"ours {precision}"] / rate
                print(f"  ours {precision} runs at {100 * share:.0f} % of its products' rate")


if __name__ == "__main__":
    main()
