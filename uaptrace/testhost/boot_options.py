# SPDX-License-Identifier: Apache-2.0
"""Command line of kernel/boot."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Final, NoReturn

from uaptrace.testhost import kernel_names
from uaptrace.testhost.arguments import positive

EXIT_USAGE: Final = 2

USAGE = """\
exit status:
  the command's own (128+N where signal N ended it), or
  2    wrong usage, or something is missing (one line says what)
  70   the guest crashed or went away (the end of its console is on stderr)
  71   QEMU or virtme-ng did not start
  124  --timeout passed
"""


def fail(message: str, status: int = EXIT_USAGE) -> NoReturn:
    print(f"boot: {message}", file=sys.stderr)
    sys.exit(status)


def port_pair(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or not all(0 < int(port) < 65536 for port in match.groups()):
        raise argparse.ArgumentTypeError(f"not HOST:GUEST: {text}")
    return int(match[1]), int(match[2])


def kernel_name(text: str) -> str:
    if not kernel_names.is_known(text):
        raise argparse.ArgumentTypeError(f"no such kernel: {text} ({kernel_names.KNOWN})")
    return text


def memory_size(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*[MG]", text):
        raise argparse.ArgumentTypeError(f"not a size such as 2G or 1536M: {text}")
    return text


def directory(text: str) -> Path:
    path = Path(text).resolve()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"no such directory: {text}")
    return path


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(message)


def parse(arguments: list[str]) -> argparse.Namespace:
    command: list[str] = []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, command = arguments[:at], arguments[at + 1 :]
    parser = Parser(
        prog="kernel/boot",
        allow_abbrev=False,
        epilog=USAGE,
        usage="%(prog)s [options] [-- COMMAND [ARGUMENT...]]",
        description="Boots a kernel over this machine's own files, read-only, and runs COMMAND "
        "in it as root, in this directory. Without COMMAND: a shell.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--kernel",
        type=kernel_name,
        default="patched",
        metavar="NAME",
        help=f"{', '.join(kernel_names.PATCHED)} (the default is patched: of the source that this "
        "machine's release has), or Debian's of a series: debian-6.12, "
        "debian-7.3 and so on",
    )
    which.add_argument(
        "--image", type=Path, metavar="BZIMAGE", help="a kernel image, whose modules are found beside it (lib/modules), or a .deb with one"
    )
    parser.add_argument(
        "--root", type=directory, metavar="DIR", help="the files of the guest, such as $(kernel/tree 13) (default: this machine's own)"
    )
    parser.add_argument("--memory", type=memory_size, default="2G", metavar="SIZE")
    parser.add_argument("--cpus", type=positive, default=2, metavar="N")
    parser.add_argument("--append", action="append", default=[], metavar="ARGS", help="more kernel arguments, such as no5lvl")
    parser.add_argument(
        "--port-forward", action="append", default=[], type=port_pair, metavar="HOST:GUEST", help="127.0.0.1:HOST here is port GUEST there"
    )
    parser.add_argument(
        "--rwdir",
        action="append",
        default=[],
        type=directory,
        metavar="DIR",
        help="a directory that the guest may write to (the checkout and the cache always are; other writes stay in the guest)",
    )
    parser.add_argument("--qemu-opts", action="append", default=[], metavar="OPTIONS", help="more options for QEMU; write --qemu-opts=-foo")
    parser.add_argument("--no-kvm", action="store_true", help="emulate, even where KVM works")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="stop the guest after that long")
    parser.add_argument("--console", type=Path, metavar="FILE", help="keep the kernel's messages there, as they come")
    parser.add_argument(
        "--starts",
        type=Path,
        metavar="FILE",
        help="write there how often the guest was started: more than once where it died before the command started",
    )
    parsed = parser.parse_args(arguments)
    parsed.command = command
    return parsed
