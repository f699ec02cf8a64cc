# SPDX-License-Identifier: Apache-2.0
"""One start of the virtual machine: QEMU by way of virtme-ng, over this machine's own files or those of a tree."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Final

from uaptrace.testhost import code_mounts, images, trees
from uaptrace.testhost.guest_streams import copy, copy_console, feed, feed_terminal
from uaptrace.testhost.host import CACHE, locked, need, note, run

CHECKOUT: Final = Path(__file__).resolve().parents[2]
KERNEL_DIR: Final = CHECKOUT / "kernel"
OVERLAYS: Final = ("/etc", "/lib", "/home", "/opt", "/srv", "/usr", "/var", "/tmp", "/root")
"""Writes to these stay in the guest (overlays on tmpfs). The checkout and the cache are the host's own directories, writable."""


def virtme_run() -> Path:
    """virtme-ng's runner: the project's own, or one kept in the cache."""
    for venv in (CHECKOUT / ".venv", CACHE / "venv"):
        if (venv / "bin/vng").exists() and (venv / "bin/virtme-run").exists():
            return venv / "bin/virtme-run"
    venv = CACHE / "venv"
    with locked("venv"):
        if not (venv / "bin/vng").exists():
            note("boot", "installing virtme-ng")
            shutil.rmtree(venv, ignore_errors=True)
            run([sys.executable, "-m", "venv", str(venv)])
            run([str(venv / "bin/python"), "-m", "pip", "install", "--quiet", "virtme-ng>=1.42"])
    return venv / "bin/virtme-run"


def processor_virtualizes() -> bool:
    """Whether the processor has VT-x or AMD-V. A KVM without either runs small code, and stops at what it cannot emulate."""
    with open("/proc/cpuinfo") as cpuinfo:
        flags = next((line for line in cpuinfo if line.startswith("flags")), "")
    return not {"vmx", "svm"}.isdisjoint(flags.split())


def kvm_works(qemu: str) -> bool:
    """Whether KVM runs a virtual machine: a device node and its ioctls promise nothing."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK) or not processor_virtualizes():
        return False
    script = "".join(json.dumps({"execute": command}) + "\n" for command in ("qmp_capabilities", "cont", "query-status", "quit"))
    try:
        done = subprocess.run(
            [qemu, "-accel", "kvm", "-cpu", "host", "-m", "16", "-nodefaults", "-S", "-display", "none", "-no-reboot", "-qmp", "stdio"],
            input=script,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=15,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and '"status": "running"' in done.stdout


@dataclasses.dataclass
class Session:
    """What the helper in the guest (kernel/guest) reads from spec.json."""

    directory: Path
    command: list[str]
    terminal: bool
    ports: bool
    root: Path | None

    @property
    def console(self) -> Path:
        return self.directory / "console"

    @property
    def mounts(self) -> Path:
        return self.directory / "mounts"

    @property
    def status(self) -> int | None:
        try:
            return int((self.directory / "status").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def write(self) -> None:
        size = os.get_terminal_size(0) if self.terminal else os.terminal_size((80, 24))
        spec = {
            "command": self.command,
            "cwd": os.getcwd(),
            "environment": dict(os.environ),
            "terminal": self.terminal,
            "rows": size.lines,
            "columns": size.columns,
            "network": self.ports,
            "checkout": str(CHECKOUT),
            "venv": str(CHECKOUT / ".venv" if self.root is None else Path("/", trees.VENV)),
        }
        (self.directory / "spec.json").write_text(json.dumps(spec))
        self.mounts.write_text(code_mounts.guest_script(self.root, CHECKOUT))


def file_options(root: Path | None, image: Path, session: Session, writable: list[Path]) -> list[str]:
    """What the guest sees of files: this machine's own, or those of another root, and in both the same writable directories."""
    options = []
    for overlay in OVERLAYS:
        if os.path.isdir(f"{root or ''}{overlay}"):
            options += ["--overlay-rwdir", overlay]
    if root is None:
        for directory in dict.fromkeys(writable):
            options += ["--rwdir", str(directory)]
        return [*options, "--pwd"]
    mounts = [("--rwdir", directory, directory) for directory in dict.fromkeys(writable)]
    if modules := images.modules_of(image):
        # virtme-ng takes no name with a "~" in it, as versions of backports have
        link = session.directory / "modules"
        link.symlink_to(modules)
        mounts.append(("--rodir", Path("/lib/modules", modules.name), link))
    for option, inside, outside in mounts:
        # The root is read-only for the guest: what is mounted there needs a place before.
        (root / inside.relative_to("/")).mkdir(parents=True, exist_ok=True)
        options += [option, f"{inside}={outside}"]
    return ["--root", str(root), *options]


def machine_command(args: argparse.Namespace, image: Path, session: Session, stderr: int, start: int) -> list[str]:
    """virtme-ng's command line. The descriptors are where the command's standard error goes, and where the guest says that it starts."""
    qemu = need("qemu-system-x86_64", "qemu-system-x86")
    need("busybox", "busybox-static")
    need("file", "file")  # virtme-ng asks it whether busybox is static, and what the kernel's image is
    command = [str(virtme_run()), "--kimg", str(image), "--mods", "auto", "--force-9p", "--show-boot-console"]
    if args.no_kvm or not kvm_works(qemu):
        command += ["--disable-kvm"]
    command += ["--memory", args.memory, "--cpus", str(args.cpus)]
    command += file_options(args.root, image, session, [CHECKOUT, CACHE, *args.rwdir])
    kernel_arguments = ["secretmem.enable=1", "panic=-1", "oops=panic", "ignore_loglevel"]
    for append in args.append:
        kernel_arguments += shlex.split(append)
    for argument in kernel_arguments:
        command += ["--kopt", argument]
    python = os.path.realpath(sys.executable) if args.root is None else "/usr/bin/python3"
    helper = [python, "-I", str(KERNEL_DIR / "guest"), str(session.directory)]
    command += ["--script-sh", f"sh {shlex.quote(str(session.mounts))}; exec {shlex.join(helper)}"]
    # the rest of the line is QEMU's: this must come last
    command += [
        "--qemu-opts",
        "-chardev",
        f"file,id=uaptrace,path=/proc/self/fd/{stderr}",
        "-device",
        "virtio-serial-pci",
        "-device",
        "virtserialport,name=uaptrace.stderr,chardev=uaptrace",
        "-chardev",
        f"file,id=uaptrace-start,path=/proc/self/fd/{start}",
        "-device",
        "virtserialport,name=uaptrace.start,chardev=uaptrace-start",
    ]
    if args.port_forward:
        forwards = "".join(f",hostfwd=tcp:127.0.0.1:{host}-:{guest}" for host, guest in args.port_forward)
        command += ["-device", "virtio-net-pci,netdev=forward,romfile=", "-netdev", f"user,id=forward{forwards}"]
    command += code_mounts.qemu_options(args.root, CHECKOUT)
    for options in args.qemu_opts:
        command += shlex.split(options)
    return command


class Machine:
    """One start of the virtual machine, with its input and output."""

    def __init__(self, args: argparse.Namespace, image: Path, session: Session) -> None:
        self.started = threading.Event()
        """The guest was up, and the command begins: what happens from here on is the command's."""
        self.timed_out = threading.Event()
        self._decided = threading.Event()
        self._terminal = session.terminal
        self._stderr, self._start = os.pipe(), os.pipe()
        command = machine_command(args, image, session, self._stderr[1], self._start[1])
        environment = dict(os.environ)
        environment["PATH"] = f"{os.path.dirname(command[0])}:{environment.get('PATH', '')}:/usr/sbin:/sbin"
        self._process = subprocess.Popen(
            command,
            env=environment,
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=[self._stderr[1], self._start[1]],
        )
        for end in (self._stderr[1], self._start[1]):
            os.close(end)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def run(self, consoles: list[int], timeout: float | None) -> None:
        """Runs the machine to its end, the kernel's messages written to each of the descriptors."""
        process = self._process
        assert process.stdin
        assert process.stdout
        assert process.stderr
        timer = threading.Timer(timeout, self._expire) if timeout is not None else None
        if timer:
            timer.daemon = True
            timer.start()
        # QEMU's standard error has the kernel's console and its own messages
        threads = [
            threading.Thread(target=target, args=args, daemon=True)
            for target, args in (
                (copy, (process.stdout.fileno(), 1)),
                (copy, (self._stderr[0], 2)),
                (copy_console, (process.stderr.fileno(), consoles, self.kill)),
                (self._watch_start, ()),
            )
        ]
        for thread in threads:
            thread.start()
        try:
            self._feed(process.stdin)
            process.wait()
            for thread in threads:
                thread.join(timeout=5)
        finally:
            if timer:
                timer.cancel()
            self.kill()
            process.wait()
            for end in (self._stderr[0], self._start[0]):
                os.close(end)

    def _expire(self) -> None:
        self.timed_out.set()
        self.kill()

    def _watch_start(self) -> None:
        if os.read(self._start[0], 1):
            self.started.set()
        self._decided.set()

    def _close_at_end(self, descriptor: int) -> None:
        self._process.wait()
        os.close(descriptor)

    def _feed(self, stdin: IO[bytes]) -> None:
        """Gives standard input to the command, and none of it to a guest that dies before: the next one gets it all."""
        if self._terminal:
            done_read, done_write = os.pipe()
            threading.Thread(target=self._close_at_end, args=(done_write,), daemon=True).start()
            self._decided.wait()
            if self.started.is_set():
                feed_terminal(stdin.fileno(), done_read)
        elif not os.isatty(0):
            threading.Thread(target=self._feed_plain, args=(os.dup(stdin.fileno()),), daemon=True).start()
            stdin.close()

    def _feed_plain(self, target: int) -> None:
        self._decided.wait()
        if self.started.is_set():
            feed(0, target)
        else:
            os.close(target)
