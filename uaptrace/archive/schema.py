# SPDX-License-Identifier: Apache-2.0
"""The columns of an archive: one row, and one file, for each part of a recording and each day (UTC) that it covers.

docs/archive.md describes them for whoever asks with another tool. Columns may be added within a version; none is renamed or removed.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

VERSION: Final = 1
KEY_VERSION: Final = b"uaptrace.archive"
"""Of the Parquet file's own metadata."""

_TIME: Final = pa.timestamp("us", "UTC")
_COUNT: Final = pa.int64()
_TEXT: Final = pa.string()

CAUSE: Final = pa.struct([("level", _TEXT), ("cause", _TEXT), ("splits", _COUNT)])
STACK: Final = pa.struct(
    [("level", _TEXT), ("cause", _TEXT), ("comm", _TEXT), ("cgroup", _TEXT), ("stack", _TEXT), ("splits", _COUNT)],
)
SAMPLE: Final = pa.struct(
    [
        ("time", _TIME),
        ("exact", pa.bool_()),
        ("present_4k_bytes", _COUNT),
        ("present_2m_bytes", _COUNT),
        ("present_1g_bytes", _COUNT),
        ("absent_bytes", _COUNT),
        ("cache_free_pages", _COUNT),
        ("cache_handed_out_pages", _COUNT),
    ]
)
CACHE: Final = pa.struct([("requests", _COUNT), ("hits", _COUNT), ("refills", _COUNT), ("failures", _COUNT)])
INVARIANT: Final = pa.struct([("number", pa.int32()), ("title", _TEXT), ("checked", _COUNT), ("violated", _COUNT)])

SCHEMA: Final = pa.schema(
    [
        ("id", _TEXT),
        ("hostname", _TEXT),
        ("boot_id", _TEXT),
        ("kernel_release", _TEXT),
        ("nr_cpus", pa.int32()),
        ("memory_bytes", _COUNT),
        ("has_series", pa.bool_()),
        ("writer", _TEXT),
        ("begin_time", _TIME),
        ("end_time", _TIME),
        ("watched_s", pa.float64()),
        ("exact", pa.bool_()),
        ("reasons", pa.list_(_TEXT)),
        ("events_lost", _COUNT),
        ("direct_map_bytes", _COUNT),
        ("large_begin_bytes", _COUNT),
        ("large_end_bytes", _COUNT),
        ("causes", pa.list_(CAUSE)),
        ("stacks", pa.list_(STACK)),
        ("stacks_complete", pa.bool_()),
        ("samples", pa.list_(SAMPLE)),
        ("cache", CACHE),
        ("audit", pa.list_(INVARIANT)),
    ],
    metadata={KEY_VERSION: str(VERSION).encode()},
)
