# SPDX-License-Identifier: Apache-2.0
"""What the commands that trace have in common: options, and a live session that is always detached again."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from uaptrace.abi.errors import CannotTraceError
from uaptrace.abi.hooks import PageAllocHook
from uaptrace.commands.types import RingSize
from uaptrace.loader.parent import DEFAULT_RING_BYTES, LoaderOptions, Loading
from uaptrace.loader.start_log import Progress
from uaptrace.process.places import descriptor_of

if TYPE_CHECKING:
    # Imported while the loader works: see live_session().
    from uaptrace.model.updates import Records
    from uaptrace.session.feed import Feed
    from uaptrace.session.live import LiveSource
    from uaptrace.session.loop import Session, Sink

COMPILE_HELP: Final = "Compile the programs with this host's bcc instead of taking those that come with uaptrace."
F = TypeVar("F", bound=Callable[..., Any])


def tracing_options(command: F) -> F:
    """--ring-size, --page-alloc-hook, --page-tables, --mechanism and --compile, kept for loader_options()."""

    def gather(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        ctx.ensure_object(dict)[param.name] = value
        return value

    for option in (
        click.option("--ring-size", "ring_bytes", type=RingSize(), default=f"{DEFAULT_RING_BYTES >> 20}M", show_default=True,
                     expose_value=False, callback=gather, help="Size of the ring buffer between kernel and daemon."),
        click.option("--page-alloc-hook", "page_alloc", type=click.Choice([h.value for h in PageAllocHook]), default="auto",
                     show_default=True, expose_value=False, callback=gather,
                     help="What to hook on the page allocator's path (docs/performance.md has the cost)."),
        click.option("--page-tables", type=click.Choice(["auto", "kcore", "bpf"]), default="auto", show_default=True,
                     expose_value=False, callback=gather, help="How the kernel's memory is read."),
        click.option("--mechanism", type=click.Choice(["auto", "fentry", "kprobe"]), default="auto", show_default=True,
                     expose_value=False, callback=gather, help="How to attach."),
        click.option("--compile", is_flag=True, expose_value=False, callback=gather,
                     help=COMPILE_HELP),
    ):  # fmt: skip
        command = option(command)
    return command


def loader_options(ctx: click.Context, auto_hook: PageAllocHook = PageAllocHook.AUTO) -> LoaderOptions:
    """The options that tracing_options() gathered. ``auto_hook``: what --page-alloc-hook=auto means for this command."""
    given = ctx.ensure_object(dict)
    mechanism = given.get("mechanism", "auto")
    page_alloc = PageAllocHook(given.get("page_alloc", "auto"))
    return LoaderOptions(
        ring_bytes=given.get("ring_bytes", DEFAULT_RING_BYTES),
        page_alloc=auto_hook if page_alloc is PageAllocHook.AUTO else page_alloc,
        mechanism=None if mechanism == "auto" else mechanism,
        page_tables=given.get("page_tables", "auto"),
        compile=given.get("compile", False),
    )


def load_as_root(options: LoaderOptions) -> Loading:
    """Begin to load and attach; one line that says why where this host cannot be traced."""
    if os.geteuid() != 0:
        raise CannotTraceError("tracing needs root: run it with sudo (uaptrace check says what else is missing)")
    return Loading(options)


@contextlib.contextmanager
def live_session(
    options: LoaderOptions,
    sink: Callable[[LiveSource], Sink] | None = None,
    on_records: Callable[[Records], None] | None = None,
    *,
    privileges_of: Path | None = None,
    meanwhile: Iterable[str] = (),
) -> Iterator[Session[LiveSource]]:
    """Load, give up privileges, read the baseline. Detaches on the way out, whatever happens.

    Nothing may have started a thread before: it would keep its privileges (process/privileges.py).

    ``privileges_of``: a folder in which files will be made: its owner is who this process becomes, instead of nobody.
    ``meanwhile``: modules that are imported while the loader works, as those that tracing needs are.
    """
    say = Progress("daemon")
    with load_as_root(options) as loading:
        from uaptrace.process.privileges import drop_privileges
        from uaptrace.session.live import LiveSource
        from uaptrace.session.loop import Session

        for name in meanwhile:
            importlib.import_module(name)
        say("imported")
        loaded = loading.finish()
    say("loaded")
    try:
        drop_privileges(privileges_of)
        source = LiveSource(loaded)
    except BaseException:
        loaded.close()
        raise
    try:
        session = Session(source, sink(source) if sink else None, on_records)
        session.start()
        say("baseline read")
        settle_memory()
        yield session
    finally:
        source.close()


def settle_memory() -> None:
    """What is there by now stays: the collector, which stops every thread, need not look at it again and again. What the
    start has left over goes back to the system, where the C library can do that."""
    gc.collect()
    gc.freeze()
    return_memory()


def return_memory() -> None:
    """Memory that is free, but still this process's, goes back to the system, where the C library can do that."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def folder_of(*files: Path | None) -> Path | None:
    """The folder in which the first file that is given will be made, for live_session(privileges_of=...)."""
    for file in files:
        if file is not None and descriptor_of(str(file)) is None:
            return file.absolute().parent
    return None


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[threading.Event]:
    """SIGINT, SIGTERM and SIGHUP call ``stop`` and set the event, instead of ending the process at once. SIGHUP stays ignored where
    the caller ignores it (nohup)."""
    told = threading.Event()

    def handler(_: int, __: FrameType | None) -> None:
        told.set()
        stop()

    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        numbers.remove(signal.SIGHUP)
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield told
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


@contextlib.contextmanager
def running(session: Session[Feed], interval_s: float | None) -> Iterator[list[BaseException]]:
    """The session's loop in a thread of its own. Yields a list that gets the exception which ended it, if one did."""
    failures: list[BaseException] = []

    def loop() -> None:
        try:
            session.run(interval_s)
        except BaseException as error:
            failures.append(error)
            session.stop()

    thread = threading.Thread(target=loop, name="uaptrace-session")
    thread.start()
    try:
        yield failures
    finally:
        session.stop()
        thread.join()
    if failures:
        raise failures[0]
