# SPDX-License-Identifier: Apache-2.0
"""uaptrace serve."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from uaptrace.abi.errors import UsageError
from uaptrace.commands.files_given import check_files
from uaptrace.commands.ready import ready_file, ready_file_option
from uaptrace.commands.sources import SnapshotSource, replay_option
from uaptrace.commands.strict import StrictCommand
from uaptrace.commands.tracing import live_session, loader_options, stopped_by_signals, tracing_options
from uaptrace.commands.types import SPEED
from uaptrace.cost.walks import open_walk_counters
from uaptrace.exporter.listening import bind
from uaptrace.process.files import touch
from uaptrace.process.service_manager import ServiceManager, handed_listener, notify_address

if TYPE_CHECKING:
    from uaptrace.exporter.web_config import ConfigWatch
    from uaptrace.model.snapshot import Snapshot

_SERVER = "uaptrace.exporter.server"


@click.command(cls=StrictCommand)
@click.option("--listen", default="127.0.0.1:9970", show_default=True, metavar="ADDRESS:PORT", help="Address and port to listen on.")
@click.option(
    "--web.config.file", "web_config", type=click.Path(path_type=Path), metavar="FILE", help="TLS and passwords (docs/serving.md)."
)
@replay_option
@click.option("--speed", type=SPEED, help="With --replay: recorded seconds a second; all at once without it.")
@click.option("--count-walks", is_flag=True, help="Count the kernel's page walks with the processor's counters too (docs/cost.md).")
@ready_file_option
@tracing_options
@click.pass_context
def serve(
    ctx: click.Context,
    listen: str,
    web_config: Path | None,
    replay: Path | None,
    speed: float | None,
    count_walks: bool,
    ready_path: Path | None,
) -> None:
    """Serve /metrics, /healthz, /readyz and /snapshot until SIGINT or SIGTERM."""
    if count_walks and replay is not None:
        raise UsageError("--count-walks counts on this host: it cannot go with --replay")
    check_files(recordings=[replay], others=[web_config], ready_file=ready_path)
    config = None
    if web_config:
        from uaptrace.exporter.web_config import ConfigWatch

        config = ConfigWatch(web_config, lambda text: click.echo(f"uaptrace: {text}", err=True))
    if replay is not None:
        _serve_recording(replay, speed, listen, config, ready_path)
        return
    # Bound before anything is loaded: a port that is taken is said at once, and one below 1024 needs root.
    with (
        ready_file(ready_path) as ready,
        contextlib.closing(handed_listener(os.environ, os.getpid()) or bind(listen)) as listener,
        contextlib.closing(ServiceManager(notify_address(os.environ), time.monotonic)) as manager,
        open_walk_counters() if count_walks else contextlib.nullcontext() as walks,
        live_session(loader_options(ctx), meanwhile=[_SERVER]) as session,
    ):
        from uaptrace.exporter.server import serve as serve_endpoint

        region_feed, figures_feed = partial(session.fresh, regions=True), partial(session.fresh, rows=False)
        server = serve_endpoint(
            session.fresh, listener, config, region_feed=region_feed, figures_feed=figures_feed, read_walks=walks.read if walks else None
        )
        with server, stopped_by_signals(session.stop):
            click.echo(f"serving on {server.url}", err=True)
            ready()
            session.run(None, on_turn=lambda: manager.turn(session.state.reasons))
            manager.stopping()


def _serve_recording(path: Path, speed: float | None, listen: str, config: ConfigWatch | None, ready_path: Path | None) -> None:
    from uaptrace.exporter.server import serve as serve_endpoint

    lock = threading.Lock()
    stopped = threading.Event()
    with SnapshotSource(replay=path).opened(speed) as feed:

        def latest(regions: bool = False) -> Snapshot | None:
            with lock:
                feed.want_regions(regions)
                return feed.latest()

        with serve_endpoint(latest, listen, config, region_feed=lambda: latest(True)) as server, stopped_by_signals(stopped.set):
            click.echo(f"serving on {server.url}", err=True)
            if ready_path is not None:
                touch(ready_path)
            stopped.wait()
