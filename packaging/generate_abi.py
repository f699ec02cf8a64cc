# SPDX-License-Identifier: Apache-2.0
"""Makes uaptrace/abi/events.py of bpf/events.h: ``python3 packaging/generate_abi.py`` writes it, ``--print`` prints it.

Nothing of a record is described twice by hand: its fields, kinds, flags, counters and histograms are the header's.
tests/unit/test_layout.py makes it anew and compares, and compares each value with what a compiler makes of the header.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TOP: Final = Path(__file__).resolve().parents[1]
HEADER: Final = TOP / "bpf/events.h"
MODULE: Final = TOP / "uaptrace/abi/events.py"
TYPES: Final = {
    "unsigned long long": "<u8",
    "unsigned int": "<u4",
    "int": "<i4",
    "unsigned short": "<u2",
    "unsigned char": "u1",
}


@dataclass(frozen=True, slots=True)
class Enumeration:
    """How an enum of the header becomes a class. ``sizes``: enumerators that are no members but numbers of the module, and their names
    there; empty: left out.
    """

    name: str
    prefix: str
    python: str
    kind: str
    description: str
    sizes: dict[str, str]
    renamed: dict[str, str]
    """Names that Python does not take."""


ENUMERATIONS: Final = (
    Enumeration("uap_kind", "UAP_", "Kind", "IntEnum", "what a record says", {"NR_KINDS": "NR_KINDS"}, {}),
    Enumeration(
        "uap_mapping",
        "UAP_",
        "Mapping",
        "IntFlag",
        "level in the low two bits (uaptrace.abi.units.Level), and presence",
        {"LEVEL_MASK": "LEVEL_MASK"},
        {"4K": "K4", "2M": "M2", "1G": "G1"},
    ),
    Enumeration("uap_flag", "UAP_F_", "Flag", "IntFlag", "what else there is to say of a call", {}, {}),
    Enumeration(
        "uap_counter",
        "UAP_C_",
        "Counter",
        "IntEnum",
        "index of an eight byte word in each CPU's block",
        {"WORDS": "COUNTER_WORDS"},
        {},
    ),
    Enumeration(
        "uap_histogram",
        "UAP_H_",
        "HistogramId",
        "IntEnum",
        "which calls are timed",
        {"UAP_NR_HISTOGRAMS": "", "UAP_HISTOGRAM_BUCKETS": "HISTOGRAM_BUCKETS"},
        {},
    ),
)
NUMBERS: Final = {"NR_ORDERS": "NR_ORDERS", "STACK_FRAMES": "MAX_STACK_FRAMES", "STACK_FRAMES_PER_RECORD": "STACK_FRAMES_PER_RECORD"}
"""#define UAP_..., and the name in the module."""


def generated(header: str) -> str:
    """Text of the module. ValueError where the header is not as expected."""
    parts = [
        # REUSE-IgnoreStart
        "# SPDX-License-Identifier: Apache-2.0",
        # REUSE-IgnoreEnd
        '"""Records of the ring, counters and histograms: names and numbers of bpf/events.h for Python.',
        "",
        "Made by packaging/generate_abi.py: change the header, and run that.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        "from enum import IntEnum, IntFlag",
        "from typing import Final",
        "",
        "RECORD_FIELDS: Final = (",
        *(f'    ("{name}", "{TYPES[type_name]}"),' for type_name, name in _fields(header)),
        ")",
        '"""struct uap_record: name and NumPy type of each field, little endian."""',
        *(f"{name}: Final = {_defined(header, defined)}" for defined, name in NUMBERS.items()),
    ]
    for enumeration in ENUMERATIONS:
        parts += _class(header, enumeration)
    parts += [
        "",
        "",
        "SCALAR_COUNTERS: Final = tuple(c for c in Counter if c < Counter.REFILL_ORDER)",
        '"""The counters that are one word each. The others are arrays that begin at their index, or are asked for by name only."""',
    ]
    return "\n".join(parts) + "\n"


def _fields(header: str) -> Iterator[tuple[str, str]]:
    body = _found(r"struct uap_record \{(.*?)\};", header)
    for line in _without_comments(body).split(";"):
        if line.strip():
            type_name, _, name = " ".join(line.split()).rpartition(" ")
            yield type_name, name


def _defined(header: str, name: str) -> int:
    return int(_found(rf"^#define UAP_{name} (\d+)$", header))


def _class(header: str, enumeration: Enumeration) -> list[str]:
    body = _without_comments(_found(rf"enum {enumeration.name} \{{(.*?)\}};", header))
    members, sizes = [], []
    for name, value in re.findall(r"(\w+) = (\d+),", body):
        short = name.removeprefix(enumeration.prefix)
        if short in enumeration.sizes:
            sizes += [f"{enumeration.sizes[short]}: Final = {value}"] if enumeration.sizes[short] else []
        else:
            members.append(f"    {enumeration.renamed.get(short, short)} = {value}")
    head = f"class {enumeration.python}({enumeration.kind}):"
    lines = ["", "", head, f'    """enum {enumeration.name}: {enumeration.description}."""', "", *members]
    return [*lines, "", "", *sizes] if sizes else lines


def _without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.DOTALL | re.MULTILINE)
    if match is None:
        raise ValueError(f"bpf/events.h has nothing like {pattern}")
    return match[1]


def main() -> int:
    text = generated(HEADER.read_text())
    if sys.argv[1:] == ["--print"]:
        print(text, end="")
    elif sys.argv[1:]:
        print(__doc__, file=sys.stderr)
        return 2
    else:
        MODULE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
