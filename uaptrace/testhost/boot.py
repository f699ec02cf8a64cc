# SPDX-License-Identifier: Apache-2.0
"""Boots a kernel under QEMU over this machine's own files and runs a command in it: what kernel/boot does."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from uaptrace.testhost import images, kernel_names
from uaptrace.testhost.boot_options import fail, parse
from uaptrace.testhost.errors import HostError
from uaptrace.testhost.guest_streams import KVM_GAVE_UP, raw_terminal
from uaptrace.testhost.host import CACHE, note
from uaptrace.testhost.machine import KERNEL_DIR, Machine, Session

EXIT_GUEST_DIED: Final = 70
EXIT_NOT_STARTED: Final = 71
EXIT_TIMEOUT: Final = 124
CONSOLE_END: Final = 80
"""Lines of its console that are shown of a guest that died: the fault, its trace and the registers."""
MAX_STARTS: Final = 3
"""A guest that dies before the command has started is started again: some kernels fault early once in ten boots under emulation."""


def patched_image(base: str | None) -> Path:
    """Asks kernel/build, which is heard only where it has something to build. Without a base: the machine's release's."""
    build = [str(KERNEL_DIR / "build"), *(["--base", base] if base else [])]
    key = subprocess.run([*build, "--print-key"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    kept = CACHE / "kernels" / key.stdout.strip() / "bzImage"
    if key.returncode == 0 and kept.exists():
        return kept
    done = subprocess.run(build, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return Path(done.stdout.splitlines()[-1])


def check_image(image: Path) -> Path:
    if image.suffix == ".deb":
        image = images.packaged_image(image)
    try:
        with open(image, "rb") as file:
            header = file.read(0x210)
    except OSError as error:
        raise HostError(f"cannot read the kernel image {image}: {error.strerror}") from None
    if header[0x202:0x206] != b"HdrS":
        raise HostError(f"not a Linux x86 kernel image: {image}")
    return image.resolve()


def death_of(session: Session) -> tuple[str, int, bool]:
    """Of a guest that left no exit status: what to say, kernel/boot's own status, and whether its kernel ran.

    The end of its console goes to standard error.
    """
    console = ""
    with contextlib.suppress(OSError):
        console = session.console.read_text(errors="replace")
    if KVM_GAVE_UP.decode() in console:
        return "KVM cannot run this kernel here: use --no-kvm", EXIT_GUEST_DIED, False
    lines = [line.rstrip() for line in console.splitlines() if line.strip()]
    for line in lines[-CONSOLE_END:]:
        print(line, file=sys.stderr)
    if "Linux version" not in console:
        return "the virtual machine did not start", EXIT_NOT_STARTED, False
    return "the guest crashed before the command ended", EXIT_GUEST_DIED, True


def choose_image(args: argparse.Namespace) -> Path:
    if args.image:
        return check_image(args.image)
    if patched := kernel_names.PATCHED_NAME.fullmatch(args.kernel):
        return check_image(patched_image(patched[1]))
    return check_image(images.debian_image(args.kernel))


@dataclasses.dataclass
class Outcome:
    """Of one start: the exit status, what to say of a failure, and whether another start may help."""

    status: int
    failure: str | None = None
    again: bool = False


def start_once(args: argparse.Namespace, image: Path, consoles: list[int], deadline: float | None) -> Outcome:
    sessions = CACHE / "sessions"
    sessions.mkdir(parents=True, exist_ok=True)
    terminal = os.isatty(0) and os.isatty(1)
    with tempfile.TemporaryDirectory(dir=sessions, ignore_cleanup_errors=True) as work:
        session = Session(Path(work), args.command, terminal, bool(args.port_forward), args.root)
        session.write()
        timeout = None if deadline is None else max(deadline - time.monotonic(), 0)
        with raw_terminal(terminal), open(session.console, "wb", buffering=0) as console:
            machine = Machine(args, image, session)
            machine.run([console.fileno(), *consoles], timeout)
        if machine.timed_out.is_set():
            return Outcome(EXIT_TIMEOUT, f"stopped after {args.timeout:g} s")
        if session.status is not None:
            return Outcome(session.status)
        failure, status, booted = death_of(session)
        return Outcome(status, failure, again=booted and not machine.started.is_set())


def boot(args: argparse.Namespace) -> int:
    """Starts the guest, and again where it dies before the command has started. Returns the command's exit status."""
    image = choose_image(args)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    deadline = time.monotonic() + args.timeout if args.timeout else None
    with contextlib.ExitStack() as stack:
        consoles = []
        if args.console:
            consoles.append(stack.enter_context(open(args.console, "wb", buffering=0)).fileno())
        for start in itertools.count(1):
            if args.starts:
                args.starts.write_text(f"{start}\n")
            outcome = start_once(args, image, consoles, deadline)
            if outcome.failure is None:
                return outcome.status
            if not outcome.again or start == MAX_STARTS:
                fail(outcome.failure, outcome.status)
            note("boot", f"the guest died before the command started: starting it again ({start} of {MAX_STARTS - 1})")
    raise AssertionError("the count has no end")


def main() -> int:
    try:
        return boot(parse(sys.argv[1:]))
    except HostError as error:
        fail(str(error))
