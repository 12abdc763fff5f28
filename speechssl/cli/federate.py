"""Train on audio that stays with its owners: clients train, a server averages their weights.

Without --serve or --join all clients run on this machine, one after the other, or by Flower's
simulation. Only its name, weights, centroids, the number of utterances, and the figures of a round (loss,
scalars, diagnostics, seconds) leave a client; that alone is no guarantee of privacy.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from speechssl import conf
from speechssl.cli import flags
from speechssl.errors import UserError

if TYPE_CHECKING:
    from speechssl.federated.flower import Network


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl federate`."""
    flags.add_config(parser)
    flags.add_overrides(parser, "settings that replace the file's, such as federated.rounds=20")
    flags.add_out(parser, "folder of the run: the server's, or with --join the client's", True)
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in --out after its last round"
    )
    parser.add_argument(
        "--engine",
        choices=("local", "flower"),
        default="local",
        help="clients one after the other in this process, or Flower's simulation, which runs"
        " several at once (default: local)",
    )
    _add_network(parser)
    flags.add_device(parser)


def _add_network(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of Flower's server and clients."""
    parser.add_argument(
        "--serve",
        metavar="HOST:PORT",
        help="be the server for clients that --join; needs no audio (extra federated)",
    )
    parser.add_argument(
        "--clients",
        type=flags.count,
        metavar="N",
        help="clients that --serve waits for before the first round (default: those of CONFIG)",
    )
    parser.add_argument(
        "--join",
        metavar="HOST:PORT",
        help="be a client of the server there (extra federated)",
    )
    parser.add_argument(
        "--client",
        metavar="NAME",
        help="which client of CONFIG to be, with --join (default: the only one)",
    )
    parser.add_argument(
        "--tls-ca",
        type=Path,
        metavar="PEM",
        help="certificate of the authority that both sides trust",
    )
    parser.add_argument(
        "--tls-cert", type=Path, metavar="PEM", help="the server's certificate, with --serve"
    )
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="its private key, with --serve")
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="allow other machines without TLS: anybody on the way reads and changes the weights",
    )


def run(args: argparse.Namespace) -> None:
    """Run the server, a client, or everything here; print the model's folder."""
    from speechssl.federated import flower_client, flower_server, flower_simulation, local
    from speechssl.federated.settings import read_settings

    _refuse_what_does_not_fit(args)
    config, settings = read_settings(str(conf.locate(args.config)), args.overrides)
    out = args.out
    with flags.writing_alone(out):
        if args.join:
            flower_client.join(config, settings, out, _network(args), args.client, args.device)
            return
        if args.serve:
            flower_server.serve(
                config, settings, out, _network(args), args.clients, resume=args.resume
            )
        elif args.engine == "flower":
            flower_simulation.simulate(
                config, settings, out, resume=args.resume, device=args.device
            )
        else:
            local.run_here(config, settings, out, resume=args.resume, device=args.device)
    print(out / "model")


def _network(args: argparse.Namespace) -> Network:
    """Return where the server is, and its TLS files."""
    from speechssl.federated.flower import Network

    return Network(args.serve or args.join, args.tls_ca, args.tls_cert, args.tls_key, args.insecure)


def _refuse_what_does_not_fit(args: argparse.Namespace) -> None:
    """Raise UserError for flags that do not go together."""
    if args.serve and args.join:
        raise UserError("federate: give --serve or --join, one of them")
    if (args.serve or args.join) and args.engine != "local":
        raise UserError("federate: --engine is for clients on this machine; leave it out")
    if (args.tls_ca or args.insecure) and not (args.serve or args.join):
        raise UserError("federate: --tls-ca and --insecure go with --serve or --join")
    if (args.tls_cert or args.tls_key) and not args.serve:
        raise UserError("federate: --tls-cert and --tls-key go with --serve")
    if args.client and not args.join:
        raise UserError("federate: --client goes with --join")
    if args.clients and not args.serve:
        raise UserError("federate: --clients goes with --serve")
    if args.resume and args.join:
        raise UserError("federate: a client always continues from its folder; leave --resume out")
