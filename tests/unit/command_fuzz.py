# SPDX-License-Identifier: Apache-2.0
"""Commands as hostile callers start them: streams, locale, names, limits, signals and terminal at random, and what must hold all the same.

A case is a command and one value of each axis. ``cases`` makes them from a seed: each command and each value of each axis first, then
several at random. ``run`` runs one in a process on a terminal of its own and returns what is wrong with how it ended.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final

from tests.unit.nobody import NOBODY, as_nobody
from tests.unit.terminal import ALTERNATE_SCREEN, ORDINARY, Terminal
from uaptrace.process.limits import MIN_ADDRESS_SPACE_BYTES

RECORDING: Final = Path(__file__).parents[1] / "data/debian-6.1.uaptrace"
EACH: Final = 5
CPU_LIMIT_S: Final = 30
"""A command takes a second or two: what takes more spins, and the kernel ends it."""
STATUSES: Final = frozenset({0, 1, 2, 3, 4, 5, 130, 141})
"""What the README documents, but for a signal that the case sends."""

_SERVING: Final = re.compile(r"\Aserving on \S+\n")
"""What serve says when all is well."""

COMMANDS: Final[dict[str, tuple[str, ...]]] = {
    "nothing": (),
    "--help": ("--help",),
    "--version": ("--version",),
    "no command": ("no\x1b[31m\nsuch",),
    "no option": ("top", "--no\x1b[31m\nsuch"),
    "record --help": ("record", "--help"),
    "check": ("check",),
    "check --json": ("check", "--json"),
    "top": ("top", "--replay", "IN"),
    "top --once": ("top", "--once", "--replay", "IN"),
    "top --json": ("top", "--once", "--json", "--replay", "IN"),
    "top --connect": ("top", "--once", "--connect", "127.0.0.1:1"),
    "top live": ("top", "--ready-file", "OUT"),
    "serve": ("serve", "--listen", "127.0.0.1:0", "--replay", "IN", "--ready-file", "OUT"),
    "serve live": ("serve", "--listen", "127.0.0.1:0", "--web.config.file", "IN"),
    "trace": ("trace", "--replay", "IN"),
    "trace --json": ("trace", "--json", "--kind", "split", "--replay", "IN"),
    "record": ("record", "-o", "OUT", "--max-size", "100M"),
    "map": ("map", "--replay", "IN"),
    "map --png": ("map", "--replay", "IN", "--png", "OUT"),
    "map --json": ("map", "--json", "--replay", "IN", "--at", "50%"),
    "splits": ("splits", "--stacks", "--replay", "IN"),
    "splits --folded": ("splits", "--replay", "IN", "--folded", "OUT"),
    "verify": ("verify", "--ready-file", "OUT"),
    "audit": ("audit", "--replay", "IN"),
    "report": ("report", "IN", "-o", "OUT"),
    "report of two": ("report", "IN", str(RECORDING), "--format", "md", "-o", "OUT"),
    "report --format json": ("report", "IN", "--format", "json"),
    "recording info": ("recording", "info", "IN"),
    "recording trim": ("recording", "trim", "IN"),
    "recording share": ("recording", "share", "IN", "OUT"),
    "whatif": ("whatif", "IN"),
    "whatif --chart": ("whatif", "--synthetic", "bpf", "--requests", "10", "--chart", "OUT"),
}
LIVE: Final = frozenset({"check", "check --json", "top live", "serve live", "record", "verify"})
"""Commands that are always nobody's: root would trace this host."""
LASTING: Final = frozenset({"top", "serve"})
"""Commands that go on until they are told to end."""

Environment = dict[str, str | None]
"""None: not set."""
ENVIRONMENTS: Final[dict[str, Environment]] = {
    "usual": {},
    "C locale": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "iso-8859-1": {"PYTHONIOENCODING": "iso-8859-1"},
    "ascii, strict": {"PYTHONIOENCODING": "ascii:strict"},
    "no such locale": {"LC_ALL": "xx_XX.KOI8-R"},
    "dumb": {"TERM": "dumb"},
    "no TERM": {"TERM": None},
    "strange TERM": {"TERM": "\x1b[31m/../x"},
    "no columns": {"COLUMNS": "0", "LINES": "0"},
    "one column": {"COLUMNS": "1", "LINES": "1"},
    "a million columns": {"COLUMNS": "1000000"},
    "columns in words": {"COLUMNS": "many", "LINES": "-1"},
    "no home": {"HOME": None, "PATH": None, "TMPDIR": "/nonexistent"},
    "unbuffered": {"PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
    "strange zone": {"TZ": "No/Where\x1b"},
}
LIMITS: Final[dict[str, tuple[int, int] | None]] = {
    "none": None,
    "8 files": (resource.RLIMIT_NOFILE, 8),
    "16 files": (resource.RLIMIT_NOFILE, 16),
    "files of no byte": (resource.RLIMIT_FSIZE, 0),
    "files of 4096 bytes": (resource.RLIMIT_FSIZE, 4096),
    "600 MB of memory": (resource.RLIMIT_AS, 600 << 20),
    "least memory": (resource.RLIMIT_AS, MIN_ADDRESS_SPACE_BYTES),
    "too little memory": (resource.RLIMIT_AS, MIN_ADDRESS_SPACE_BYTES - 1),
    "120 MB of memory": (resource.RLIMIT_AS, 120 << 20),
    "stack of 256 KB": (resource.RLIMIT_STACK, 256 << 10),
}
INPUTS: Final = (
    "good", "cut", "empty", "text", "zeros", "absent", "folder", "bytes in its name", "lines in its name", "long name", "too long name",
    "below a file", "circle of links", "/dev/null", "/dev/zero", "/dev/full", "/dev/stdin", "no name", "forbidden", "/proc/self/mem",
    "dash", "socket",
)  # fmt: skip
OUTPUTS: Final = (
    "new", "old", "in no folder", "folder", "/dev/full", "/dev/null", "/dev/stdout", "-", "the input", "too long name", "below a file",
    "circle of links", "no name", "/proc/version", "/sys/x", "bytes in its name", "forbidden", "link to nothing", "socket", "/dev/fd/77",
)  # fmt: skip
STREAMS: Final = ("terminal", "file", "/dev/null", "/dev/full", "closed", "broken pipe", "wrong way", "broken socket")
SIGNALS: Final = ("none", "none", "SIGTERM", "SIGHUP", "SIGINT")
CONDITIONS: Final = ("usual", "usual", "folder is gone", "signals ignored", "in the background", "not its terminal")
USERS: Final = ("same", "nobody") if os.geteuid() == 0 else ("same",)


_NAMES: Final = {"no name": "", "dash": "-"}
"""What is said as it is."""
_STRANGE_NAMES: Final = {
    "bytes in its name": os.fsdecode(b"\xff\xfe.rec"),
    "lines in its name": "a\nuaptrace: b\x1b[31m\u202e",
    "long name": "x" * 250,
    "too long name": "x" * 300,
}


def _not_a_recording(at: Path) -> None:
    at.write_text("not a recording\n" * 100)


_MAKERS: Final[dict[str, Callable[[Path], object]]] = {
    "good": lambda at: shutil.copy(RECORDING, at),
    "cut": lambda at: at.write_bytes(RECORDING.read_bytes()[:-5000]),
    "empty": Path.touch,
    "text": _not_a_recording,
    "old": _not_a_recording,
    "zeros": lambda at: at.write_bytes(bytes(100_000)),
    "folder": Path.mkdir,
    "circle of links": lambda at: at.symlink_to(at),
    "link to nothing": lambda at: at.symlink_to("nothing"),
    "socket": lambda at: os.mknod(at, 0o140666),
}
"""Kinds of files, and what makes each."""


@dataclass(frozen=True, slots=True)
class Case:
    """One way to start a command."""

    number: int = field(metadata={"values": ()})
    command: str = field(metadata={"values": tuple(COMMANDS)})
    input: str = field(metadata={"values": INPUTS})
    output: str = field(metadata={"values": OUTPUTS})
    environment: str = field(metadata={"values": tuple(ENVIRONMENTS)})
    limit: str = field(metadata={"values": tuple(LIMITS)})
    stdin: str = field(metadata={"values": STREAMS})
    stdout: str = field(metadata={"values": STREAMS})
    stderr: str = field(metadata={"values": STREAMS})
    signal: str = field(metadata={"values": SIGNALS})
    condition: str = field(metadata={"values": CONDITIONS})
    user: str = field(metadata={"values": USERS})


_USUAL: Final = {
    "input": "good", "output": "new", "environment": "usual", "limit": "none", "stdin": "terminal", "stdout": "file", "stderr": "file",
    "signal": "none", "condition": "usual", "user": "same",
}  # fmt: skip


def cases(seed: int, number: int) -> list[Case]:
    """``number`` cases: first each value of each axis with EACH commands, the rest usual; then two to four axes at random."""
    chance = random.Random(seed)
    axes = {f.name: f.metadata["values"] for f in fields(Case) if f.name in _USUAL}
    commands = list(COMMANDS)
    made: list[Case] = []

    def add(**unusual: str) -> None:
        command = unusual.pop("command", commands[len(made) % len(commands)])
        values = {**_USUAL, **unusual}
        if command == "top":  # So that there is a screen, most times.
            values = {**values, **{name: "terminal" for name in ("stdout", "stderr") if name not in unusual}}
        made.append(Case(len(made), command, **values))

    for command in commands:
        add(command=command)
    for name, values in axes.items():
        word = {"input": "IN", "output": "OUT"}.get(name)
        concerned = [command for command, words in COMMANDS.items() if word is None or word in words]
        for value in dict.fromkeys(values):
            for command in chance.sample(concerned, EACH):
                add(command=command, **{name: value})
    while len(made) < number:
        chosen = chance.sample(list(axes), chance.randint(2, 4))
        add(**{name: chance.choice(axes[name]) for name in chosen})
    return made


def run(case: Case) -> str:
    """What is wrong with how it ended; empty if nothing is."""
    folder = Path(tempfile.mkdtemp(prefix="uaptrace-fuzz-"))
    try:
        return _Run(case, folder).wrong()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Run:
    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        self.folder = folder
        folder.chmod(0o755)
        self.here = folder / "here"
        self.here.mkdir()
        self.nobody = os.geteuid() == 0 and (case.user == "nobody" or case.command in LIVE)
        if self.nobody:
            os.chown(self.here, NOBODY, NOBODY)
        self.said = folder / "said"
        self.printed = folder / "printed"

    # What it is given

    def path(self, kind: str, name: str) -> str:
        """A path of this kind; a file that is made there has the name."""
        if kind.startswith(("/", "-")):
            return kind
        if kind in _NAMES:
            return _NAMES[kind]
        if kind == "the input":
            return str(self.here / "in")
        at = self.here / name
        if kind in _STRANGE_NAMES:
            at = self.here / _STRANGE_NAMES[kind]
            if name == "in" and kind != "too long name":
                shutil.copy(RECORDING, at)
        elif kind in ("below a file", "in no folder", "forbidden"):
            at = self._folder(kind) / name
            if kind == "forbidden":
                shutil.copy(RECORDING, at)
        elif kind in _MAKERS:
            _MAKERS[kind](at)
        if self.nobody and kind != "forbidden":
            with contextlib.suppress(OSError):
                os.chown(at, NOBODY, NOBODY, follow_symlinks=False)
        return str(at)

    def _folder(self, kind: str) -> Path:
        """Where no file can be made, or none be opened."""
        if kind == "below a file":
            (self.here / "file").touch()
            return self.here / "file"
        if kind == "in no folder":
            return self.here / "absent"
        closed = self.folder / "closed"
        closed.mkdir(mode=0o700, exist_ok=True)
        return closed

    def stream(self, kind: str, number: int) -> int | None:
        """A descriptor; None: the terminal, or none (``prepare`` closes it)."""
        writes = number != 0
        match kind:
            case "file":
                if number == 0:
                    return os.open(RECORDING, os.O_RDONLY)
                return os.open(self.printed if number == 1 else self.said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            case "/dev/null" | "/dev/full":
                return os.open(kind, os.O_RDWR)
            case "broken pipe":
                reading, writing = os.pipe()
                os.close(reading if writes else writing)
                return writing if writes else reading
            case "wrong way":
                return os.open("/dev/null", os.O_RDONLY if writes else os.O_WRONLY)
            case "broken socket":
                import socket

                ours, others = socket.socketpair()
                others.close()
                return ours.detach()
        return None

    def prepare(self) -> None:
        """In the new process."""
        case = self.case
        for number, kind in enumerate((case.stdin, case.stdout, case.stderr)):
            if kind == "closed":
                os.close(number)
        gone = self.folder / "gone"
        if case.condition == "folder is gone":
            gone.mkdir()
        os.chdir(gone if case.condition == "folder is gone" else self.here)
        if case.condition == "folder is gone":
            gone.rmdir()
        if case.condition == "signals ignored":
            for name in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGUSR1, signal.SIGWINCH):
                signal.signal(name, signal.SIG_IGN)
        if case.condition == "in the background" and case.command not in LASTING:
            # Its own group, and the terminal stays with its parent's, which is gone: it cannot be stopped for writing there.
            if os.fork():
                os._exit(os.waitstatus_to_exitcode(os.wait()[1]) % 256)
            os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S + 1))
        limit = LIMITS[case.limit]
        if limit is not None:
            resource.setrlimit(limit[0], (limit[1], limit[1]))

    # How it ended

    def wrong(self) -> str:
        """What is wrong; empty if nothing is."""
        case = self.case
        words = {"IN": self.path(case.input, "in"), "OUT": self.path(case.output, "out.svg")}
        command = [
            *(as_nobody() if self.nobody else ()),
            sys.executable,
            "-m",
            "uaptrace",
            *(words.get(word, word) for word in COMMANDS[case.command]),
        ]
        wanted = {number: self.stream(kind, number) for number, kind in enumerate((case.stdin, case.stdout, case.stderr))}
        streams = {number: descriptor for number, descriptor in wanted.items() if descriptor is not None}
        environment = {**os.environ, **ENVIRONMENTS[case.environment]}
        with _open(command, environment, streams, case.condition != "not its terminal", self.prepare) as made:
            for descriptor in streams.values():
                os.close(descriptor)
            try:
                self._drive(made, Path(words["OUT"]))
            except AssertionError as error:
                return f"{error}\n{self._text(made)}"
            return self._judge(made)

    def _drive(self, made: Terminal, ready: Path) -> None:
        if self.case.command in LASTING:
            made.until(lambda: made.ended() or self._is_up(made, ready), "up")
        if made.status is None and (self.case.command in LASTING or self.case.signal in ("SIGTERM", "SIGHUP")):
            made.kill(signal.Signals[self.case.signal] if self.case.signal != "none" else signal.SIGTERM)
        made.wait()

    def _is_up(self, made: Terminal, ready: Path) -> bool:
        if self.case.command == "top":
            return ALTERNATE_SCREEN in made.modes
        return self.case.output in ("/dev/null", "/dev/stdout", "-") or (os.path.isfile(ready) and not os.path.getsize(ready))

    def _text(self, made: Terminal) -> str:
        texts = [file.read_bytes().decode(errors="replace") for file in (self.said, self.printed) if file.exists()]
        return "\n".join([*texts, made.output.decode(errors="replace")])[-3000:]

    def _judge(self, made: Terminal) -> str:
        said = self.said.read_bytes().decode(errors="replace") if self.said.exists() else ""
        said = _SERVING.sub("", said)
        allowed = STATUSES | ({128 + signal.SIGTERM, 128 + signal.SIGHUP, 128 + signal.SIGINT} if self._told() else set())
        found = [
            f"status {made.status} is not documented" if made.status not in allowed else "",
            "a traceback"
            if any(mark in self._text(made) for mark in ("Traceback", "Fatal Python", "Error in sys.excepthook", "please report it"))
            else "",
            "more than one line of error" if len(said.splitlines()) > 1 else "",
            "control characters in the error" if not said.rstrip("\n").isprintable() else "",
            "the terminal has other settings" if made.settings != made.before else "",
            f"the terminal has other modes: {sorted(made.modes ^ ORDINARY)}" if made.modes != ORDINARY else "",
        ]
        wrong = "; ".join(filter(None, found))
        return f"{wrong}\n{self._text(made)}" if wrong else ""

    def _told(self) -> bool:
        return self.case.command in LASTING or self.case.signal != "none"


@contextlib.contextmanager
def _open(
    command: list[str],
    environment: dict[str, str | None],
    streams: dict[int, int],
    controlling: bool,
    prepare: Callable[[], None],
) -> Iterator[Terminal]:
    made = Terminal(command, environment=environment, streams=streams, controlling=controlling, prepare=prepare)
    try:
        yield made
    finally:
        made.close()
