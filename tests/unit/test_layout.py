# SPDX-License-Identifier: Apache-2.0
"""The C and the Python description of a record are the same bytes; so are all names and numbers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from uaptrace.abi import events, wire

TOP = Path(__file__).parents[2]
HEADER = TOP / "bpf/events.h"
ENUMS = {
    "uap_kind": ("UAP_", events.Kind, {"UAP_NR_KINDS": events.NR_KINDS}),
    "uap_mapping": ("UAP_", events.Mapping, {"UAP_LEVEL_MASK": events.LEVEL_MASK, "UAP_4K": 1, "UAP_2M": 2, "UAP_1G": 3}),
    "uap_flag": ("UAP_F_", events.Flag, {}),
    "uap_counter": ("UAP_C_", events.Counter, {"UAP_C_WORDS": events.COUNTER_WORDS}),
    "uap_histogram": (
        "UAP_H_",
        events.HistogramId,
        {"UAP_NR_HISTOGRAMS": len(events.HistogramId), "UAP_HISTOGRAM_BUCKETS": events.HISTOGRAM_BUCKETS},
    ),
}


def header_text() -> str:
    return re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)


def enum_members(name: str) -> list[str]:
    body = re.search(rf"enum {name} {{(.*?)}};", header_text(), re.DOTALL)
    assert body is not None
    return re.findall(r"\b(UAP_\w+)\s*=", body[1])


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Every offset, size and enumerator as the compiler sees them."""
    fields = re.search(r"struct uap_record {(.*?)};", header_text(), re.DOTALL)
    assert fields is not None
    names = re.findall(r"(\w+);", fields[1])
    members = [member for enum in ENUMS for member in enum_members(enum)]
    lines = [f'printf("offset.{n} %zu\\n", __builtin_offsetof(struct uap_record, {n}));' for n in names]
    lines += [f'printf("size.{n} %zu\\n", sizeof(((struct uap_record *)0)->{n}));' for n in names]
    lines += [f'printf("{m} %lld\\n", (long long){m});' for m in members]
    source = '#include <stdio.h>\n#include "{}"\nint main(void) {{ printf("sizeof %zu\\n", sizeof(struct uap_record)); {} }}'
    folder = tmp_path_factory.mktemp("layout")
    (folder / "layout.c").write_text(source.format(HEADER, "\n".join(lines)))
    subprocess.run(["gcc", "-Wall", "-Werror", "-o", folder / "layout", folder / "layout.c"], check=True)
    said = subprocess.run([folder / "layout"], capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in (line.split() for line in said.splitlines())}


def test_a_record_has_the_same_fields_at_the_same_offsets(compiled: dict[str, int]) -> None:
    fields = wire.RECORD.fields
    assert fields is not None
    assert compiled["sizeof"] == wire.RECORD.itemsize == 56
    assert {n.removeprefix("offset."): v for n, v in compiled.items() if n.startswith("offset.")} == {n: f[1] for n, f in fields.items()}
    for name, (dtype, *_) in fields.items():
        assert compiled[f"size.{name}"] == dtype.itemsize


def test_what_python_knows_of_the_header_is_made_of_it() -> None:
    """``python3 packaging/generate_abi.py`` was run after the header was changed."""
    made = subprocess.run([sys.executable, TOP / "packaging/generate_abi.py", "--print"], capture_output=True, text=True, check=True)
    assert made.stdout == Path(events.__file__).read_text()


def test_a_ring_record_is_a_cache_line() -> None:
    assert wire.RING_RECORD.itemsize == 64
    assert wire.RING_RECORD.fields is not None
    assert wire.RING_RECORD.fields["time_ns"][1] == 8


@pytest.mark.parametrize("enum", ENUMS)
def test_names_and_numbers_are_the_same(enum: str, compiled: dict[str, int]) -> None:
    prefix, python, extra = ENUMS[enum]
    in_c = {name: compiled[name] for name in enum_members(enum)}
    for name, value in extra.items():
        assert in_c.pop(name) == value
    in_python = {prefix + name: int(value.value) for name, value in python.__members__.items() if name not in ("K4", "M2", "G1")}
    assert in_c == in_python


def test_names_and_frames_come_out_of_both_layouts() -> None:
    for dtype in (wire.RECORD, wire.RING_RECORD):
        before = bytes(dtype.itemsize - wire.RECORD.itemsize + 8)
        batch = np.frombuffer((before + b"kworker/0:1").ljust(dtype.itemsize, b"\0"), dtype)
        assert wire.comms(batch) == ["kworker/0:1"]
        assert wire.frames(batch).shape == (1, 4)
