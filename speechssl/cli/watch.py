"""Show the curves of a run while it goes on, in the terminal or as a page that refreshes itself.

RUN is the folder of `speechssl train`. The terminal shows a curve for each figure of the log, alarms
in red, and the time left. It ends when the run has ended, or with Ctrl-C; the run goes on. Into a file
or a pipe it prints one frame.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from speechssl.cli import flags
from speechssl.errors import UserError
from speechssl.text import printable

if TYPE_CHECKING:
    from speechssl.report.watch.following import Watched


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl watch`."""
    parser.add_argument(
        "run_folder",
        type=Path,
        metavar="RUN",
        help="the --out of `speechssl train`, finished or not",
    )
    parser.add_argument(
        "--once", action="store_true", help="print one frame, or write one page, and end"
    )
    parser.add_argument(
        "--every",
        type=flags.positive,
        default=2.0,
        metavar="SECONDS",
        help="how often the log is read; a page loads itself anew after five times as long"
        " (default: 2)",
    )
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write an HTML page, again and again"
    )
    parser.add_argument(
        "--port",
        type=flags.whole_number,
        metavar="N",
        help="serve the page to this machine (127.0.0.1) on a port; 0: one that is free",
    )


def run(args: argparse.Namespace) -> None:
    """Show the run until it ends."""
    from speechssl.report.watch.following import watched

    show = _show_in_terminal
    if args.page is not None or args.port is not None:
        show = _show_as_page
    elif not sys.stdout.isatty():
        args.once = True  # into a file or a pipe
    show(watched(args.run_folder), args)


def _show_in_terminal(run: Watched, args: argparse.Namespace) -> None:
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError as error:
        raise UserError("watch: needs rich; run: pip install 'speechssl[log]'") from error
    from speechssl.report.watch.frame import frame

    console = Console(highlight=False, markup=False, emoji=False)
    if args.once:
        console.print(frame(run, console.width))
        return
    with Live(frame(run, console.width), console=console, auto_refresh=False) as live:
        while not run.is_finished:
            time.sleep(args.every)
            run.log.read()
            live.update(frame(run, console.width), refresh=True)


def _show_as_page(run: Watched, args: argparse.Namespace) -> None:
    from speechssl.report.page.write import check_installed
    from speechssl.report.watch import page

    check_installed("watch: the page")
    refresh = 5 * args.every
    if args.port is not None:
        if args.page is not None or args.once:
            raise UserError("watch: --port serves until Ctrl-C; leave --page and --once out")
        server = page.serve(lambda: _fresh_page(run, refresh), args.port)
        print(f"http://{page.HOST}:{server.server_port}/ (Ctrl-C ends it)", flush=True)
        while True:
            time.sleep(args.every)
    page.write_page(run, args.page, refresh)
    print(f"{printable(str(args.page))}: open it; it loads itself anew while the run goes on")
    while not args.once and not run.is_finished:
        time.sleep(args.every)
        if run.log.read() or run.is_finished:
            page.write_page(run, args.page, refresh)


def _fresh_page(run: Watched, seconds: float) -> str:
    from speechssl.report.watch.page import page

    run.log.read()
    return page(run, seconds)
