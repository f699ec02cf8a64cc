# SPDX-License-Identifier: Apache-2.0
"""What this host and kernel offer: privileges, lockdown, BTF, bcc, symbols. Read once, before anything is loaded."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from uaptrace.kernel.processor import possible_cpus

TRACEFS_ROOTS: Final = ("sys/kernel/tracing", "sys/kernel/debug/tracing")


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Facts about the host that decide what can be traced. What could not be read is None."""

    effective_uid: int
    lockdown: str | None
    """none, integrity or confidentiality; "on" where only the kernel's log tells; None where nothing does."""
    has_btf: bool
    bcc_found: bool
    bcc_reason: str
    """Why bcc was not found; empty where it was."""
    attachable: frozenset[str] | None
    """Functions that ftrace can hook, of those asked for; None where tracefs cannot be read."""
    symbols: dict[str, int] = field(default_factory=dict)
    """Addresses of those asked for that the kernel has; 0 where addresses are hidden."""
    code_bytes: dict[str, int] = field(default_factory=dict)
    """How far it is from some of them to the next symbol; left out where that is not known."""
    gfp_names: str = ""
    """The format of a tracepoint that prints gfp flags, which gives their values; empty where it cannot be read."""
    nr_cpus: int = 1
    """How many CPUs there can ever be, numbers that are left out included: the kernel's own arrays have so many places."""
    loops_compiled: bool = True
    """Whether the model's loops run compiled: as Python they take many times as long."""


def read_host_facts(wanted: Iterable[str], root: Path = Path("/"), *, sized: Iterable[str] = ()) -> HostFacts:
    """Gather the facts; never raises for what is missing. ``wanted``: names of functions and variables; ``sized``: those of them whose
    code_bytes are wanted: each is looked for once more in all of /proc/kallsyms."""
    names = frozenset(wanted)
    found, reason = _find_bcc()
    kallsyms = _read_bytes(root / "proc/kallsyms") or b""
    symbols = parse_kallsyms(kallsyms, names)
    return HostFacts(
        effective_uid=os.geteuid(),
        lockdown=parse_lockdown(_read(root / "sys/kernel/security/lockdown")) or _lockdown_in_log(root),
        has_btf=(root / "sys/kernel/btf/vmlinux").exists(),
        bcc_found=found,
        bcc_reason=reason,
        attachable=_attachable(names, root),
        gfp_names=_read(where / "events/kmem/mm_page_alloc/format") or "" if (where := tracefs(root)) else "",
        nr_cpus=max(possible_cpus(root), default=(os.cpu_count() or 1) - 1) + 1,
        loops_compiled=_loops_compiled(),
        symbols=symbols,
        code_bytes=parse_code_bytes(kallsyms, {name: symbols[name] for name in sized if name in symbols}),
    )


def parse_lockdown(text: str | None) -> str | None:
    """``none [integrity] confidentiality`` -> ``integrity`` (Documentation: man 7 kernel_lockdown)."""
    if not text or "[" not in text:
        return None
    return text[text.index("[") + 1 : text.index("]")]


def parse_kallsyms(data: bytes, wanted: Iterable[str]) -> dict[str, int]:
    """Addresses of the wanted names out of /proc/kallsyms (``address type name [module]``); modules' are left out."""
    # Looking for each name is five times as fast as looking at each of 200,000 lines.
    found: dict[str, int] = {}
    for name in wanted:
        end = f" {name}\n".encode()
        at = data.find(end)
        while at >= 0 and name not in found:
            parts = data[data.rfind(b"\n", 0, at) + 1 : at].split()
            with contextlib.suppress(ValueError):
                if len(parts) == 2:
                    found[name] = int(parts[0], 16)
            at = data.find(end, at + 1)
    return found


def parse_code_bytes(data: bytes, symbols: Mapping[str, int]) -> dict[str, int]:
    """How far it is from each of the symbols to the next one in /proc/kallsyms, which has the kernel's own in the order of their
    addresses. ``symbols``: of parse_kallsyms()."""
    found: dict[str, int] = {}
    for name, address in symbols.items():
        at = data.find(f"{address:016x} ".encode()) if address else -1
        following = address
        while at >= 0 and following == address:
            at = data.find(b"\n", at) + 1
            word = data[at : at + 16]
            following = int(word, 16) if at and len(word) == 16 and word.isalnum() else 0
        if following > address:
            found[name] = following - address
    return found


def tracefs(root: Path = Path("/")) -> Path | None:
    """Where tracefs is mounted and can be read."""
    for candidate in TRACEFS_ROOTS:
        path = root / candidate
        if os.access(path / "available_filter_functions", os.R_OK):
            return path
    return None


def _attachable(names: frozenset[str], root: Path) -> frozenset[str] | None:
    where = tracefs(root)
    data = _read_bytes(where / "available_filter_functions") if where else None
    if not data:
        return None
    return frozenset({line.split(b" ", 1)[0].decode() for line in data.split(b"\n")} & names)


def _find_bcc() -> tuple[bool, str]:
    try:
        spec = importlib.util.find_spec("bcc")
    except (ImportError, ValueError) as error:
        return False, str(error)
    if spec is None or spec.origin is None:
        return False, "the Python package bcc is not installed for this interpreter"
    # The PyPI package of the same name is something else: it has no libbcc binding.
    if not (Path(spec.origin).parent / "libbcc.py").exists():
        return False, f"the package bcc in {Path(spec.origin).parent} is not the BPF Compiler Collection"
    return True, ""


def _loops_compiled() -> bool:
    spec = importlib.util.find_spec("uaptrace.model.loops")
    return spec is not None and not str(spec.origin).endswith(".py")


def _lockdown_in_log(root: Path) -> str | None:
    """securityfs is often not mounted; the kernel says at boot that it is locked down, but not how far."""
    try:
        fd = os.open(root / "dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        while record := os.read(fd, 8192):
            if b"Kernel is locked down" in record:
                return "on"
    except OSError:
        return None  # EAGAIN: the end of the log
    finally:
        os.close(fd)
    return None


def _read(path: Path) -> str | None:
    data = _read_bytes(path)
    return None if data is None else data.decode(errors="replace")


def _read_bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
