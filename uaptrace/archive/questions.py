# SPDX-License-Identifier: Apache-2.0
"""Asks an archive with DuckDB. The files are read once, the columns that are asked for only; all questions then go to what was read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from uaptrace.abi.errors import RecordingError, UaptraceError, UsageError
from uaptrace.archive.answer import (
    MIN_WATCHED_S,
    Answer,
    CauseRow,
    DayRow,
    HostRow,
    InvariantRow,
    KernelRow,
    ProcessRow,
    StackRow,
    Totals,
    UpdateRow,
)
from uaptrace.archive.days import FRAME_SEPARATOR
from uaptrace.archive.store import SUFFIX
from uaptrace.process.plain import plain

if TYPE_CHECKING:
    import duckdb

Row = TypeVar("Row")

MAX_STACKS: Final = 2_000
"""Of the most frequent: what a flame graph can show."""
MAX_ROWS: Final = 1_000
"""Of hosts, processes, kernels and updates."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What is asked of: hosts and kernels by shell pattern. None: all."""

    host: str | None = None
    kernel: str | None = None


_READ: Final = """
create temp table days as
select id, date, if(hostname = '', 'unnamed ' || boot_id[:8], hostname) as hostname, kernel_release, boot_id, begin_time, end_time,
    watched_s, exact, events_lost, direct_map_bytes, large_begin_bytes, large_end_bytes,
    large_begin_bytes - large_end_bytes as lost_bytes, causes, stacks, stacks_complete, audit,
    coalesce(list_sum([c.splits for c in causes]), 0)::bigint as splits
from read_parquet($files, hive_partitioning = true, hive_types = {'date': date})
where ($host is null or hostname glob $host) and ($kernel is null or kernel_release glob $kernel)
"""

_SPLITS: Final = "create temp table splits as select date, hostname, unnest(causes, max_depth := 2) from days"
_STACKS: Final = """
create temp table stack_rows as
select hostname, level, cause, comm, stack, sum(splits)::bigint as splits
from (select hostname, unnest(stacks, max_depth := 2) from days) group by hostname, level, cause, comm, stack
"""

_TOTALS: Final = """
select count(distinct hostname), count(distinct (hostname, date)), count(*), min(date), max(date), sum(watched_s),
    coalesce(sum(watched_s) filter (exact), 0), sum(events_lost)::bigint, count(*) filter (large_end_bytes is null),
    (select count(*) from (
        select begin_time, max(end_time) over (
            partition by hostname, boot_id order by begin_time, id rows between unbounded preceding and 1 preceding) as until
        from days) where until > begin_time + interval 1 second)
from days
"""

_CAUSES: Final = """
select cause, coalesce(sum(splits) filter (level = '2m'), 0)::bigint, coalesce(sum(splits) filter (level = '1g'), 0)::bigint,
    count(distinct hostname)
from splits group by cause order by sum(splits) desc, cause
"""

_KERNELS: Final = """
select kernel_release, count(distinct hostname), sum(watched_s),
    coalesce(sum(list_sum([c.splits for c in causes if c.level = '2m'])), 0)::bigint,
    coalesce(sum(list_sum([c.splits for c in causes if c.level = '1g'])), 0)::bigint, sum(lost_bytes)::bigint
from days group by kernel_release order by sum(watched_s) desc, kernel_release limit $limit
"""

_UPDATES: Final = """
with runs as (
    select hostname, kernel_release, min(begin_time) as since, sum(watched_s) as watched_s, sum(splits) as splits
    from days group by hostname, kernel_release),
pairs as (
    select lag(kernel_release) over each_host as before, kernel_release as after, lag(watched_s) over each_host as watched_before_s,
        watched_s as watched_after_s, lag(splits) over each_host as splits_before, splits as splits_after,
        least(watched_before_s, watched_after_s) >= $long_enough as known
    from runs window each_host as (partition by hostname order by since))
select before, after, count(*),
    count(*) filter (known and splits_after * watched_before_s < splits_before * watched_after_s),
    count(*) filter (known and splits_after * watched_before_s > splits_before * watched_after_s),
    sum(watched_before_s), sum(watched_after_s), sum(splits_before)::bigint, sum(splits_after)::bigint
from pairs where before is not null group by before, after order by count(*) desc, before, after limit $limit
"""

_HOSTS: Final = """
select hostname, arg_max(kernel_release, begin_time), sum(watched_s), sum(splits)::bigint, sum(lost_bytes)::bigint,
    arg_min(large_begin_bytes / direct_map_bytes, begin_time), arg_max(large_end_bytes / direct_map_bytes, begin_time)
from days group by hostname order by sum(lost_bytes) desc nulls last, sum(splits) desc, hostname limit $limit
"""

_PROCESSES: Final = """
with by_cause as (select comm, cause, sum(splits) as splits from stack_rows group by comm, cause)
select s.comm, sum(s.splits)::bigint, count(distinct s.hostname),
    (select arg_max(cause, (b.splits, cause)) from by_cause b where b.comm = s.comm)
from stack_rows s group by s.comm order by sum(s.splits) desc, s.comm limit $limit
"""

_STACK_ROWS: Final = """
select level, cause, comm, stack, sum(splits)::bigint, count(distinct hostname)
from stack_rows group by level, cause, comm, stack order by sum(splits) desc, level, cause, comm, stack limit $limit
"""

_DAYS: Final = """
with last_of_day as (
    select date, hostname, arg_max(large_end_bytes, begin_time) as large, arg_max(direct_map_bytes, begin_time) as total
    from days where large_end_bytes is not null group by date, hostname)
select d.date, count(distinct d.hostname), sum(d.watched_s),
    (select sum(large) / sum(total) from last_of_day l where l.date = d.date)
from days d group by d.date order by d.date
"""
_DAY_CAUSES: Final = "select date, cause, sum(splits)::bigint from splits group by date, cause order by date, cause"

_AUDIT: Final = """
select number, any_value(title), sum(checked)::bigint, sum(violated)::bigint, count(distinct hostname) filter (violated > 0)
from (select hostname, unnest(audit, max_depth := 2) from days) group by number order by number
"""


def ask(place: str, folders: Sequence[Path], scope: Scope) -> Answer:
    """What the files in the ``folders`` (each a day of the archive at ``place``) say. UsageError where none is within the scope,
    RecordingError where one of them is no part of an archive."""
    with _database() as database:
        files = [f"{_literal(str(folder))}/*/*{SUFFIX}" for folder in folders]
        database.execute(_READ, {"files": files, "host": scope.host, "kernel": scope.kernel})
        if not _rows(database, "select 1 from days limit 1"):
            raise UsageError(f"{place}: no row is of a host and a kernel that was asked for")
        database.execute(_SPLITS)
        database.execute(_STACKS)
        (totals,) = _rows(database, _TOTALS)
        (complete,) = _rows(database, "select bool_and(stacks_complete) from days")
        by_day: dict[date, dict[str, int]] = {}
        for day, cause, number in _rows(database, _DAY_CAUSES):
            by_day.setdefault(day, {})[cause] = number
        stacks = _rows(database, _STACK_ROWS, limit=MAX_STACKS)
        return Answer(
            place=place,
            totals=Totals(*totals),
            causes=_all(CauseRow, _rows(database, _CAUSES)),
            kernels=_all(KernelRow, _rows(database, _KERNELS, limit=MAX_ROWS)),
            updates=_all(UpdateRow, _rows(database, _UPDATES, limit=MAX_ROWS, long_enough=MIN_WATCHED_S)),
            hosts=_all(HostRow, _rows(database, _HOSTS, limit=MAX_ROWS)),
            processes=_all(ProcessRow, _rows(database, _PROCESSES, limit=MAX_ROWS)),
            stacks=tuple(_stack(row) for row in stacks),
            days=tuple(_day(row, by_day) for row in _rows(database, _DAYS)),
            audit=_all(InvariantRow, _rows(database, _AUDIT)),
            stacks_complete=complete[0],
        )


def _stack(row: Sequence[Any]) -> StackRow:
    level, cause, comm, stack, splits, nr_hosts = row
    return StackRow(level, cause, comm, tuple(stack.split(FRAME_SEPARATOR)) if stack else (), splits, nr_hosts)


def _day(row: Sequence[Any], by_day: Mapping[date, Mapping[str, int]]) -> DayRow:
    day, nr_hosts, watched_s, large_share = row
    return DayRow(day, nr_hosts, watched_s, by_day.get(day, {}), large_share)


def _all(kind: type[Row], rows: Sequence[Sequence[Any]]) -> tuple[Row, ...]:
    return tuple(kind(*row) for row in rows)


def _rows(database: duckdb.DuckDBPyConnection, query: str, **values: int) -> list[tuple[Any, ...]]:
    return database.execute(query, values or None).fetchall()


def _literal(path: str) -> str:
    """A path in which nothing is a pattern."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in path)


@contextlib.contextmanager
def _database() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory."""
    try:
        import duckdb
    except ImportError:
        said = "pipx inject uaptrace duckdb, or pip install duckdb"
        raise UaptraceError(f"a report of an archive needs DuckDB, which is not installed: {said}") from None
    try:
        with duckdb.connect(config={"autoinstall_known_extensions": False, "preserve_insertion_order": False}) as database:
            yield database
    except duckdb.Error as error:
        raise RecordingError(f"not an archive of uaptrace, or damaged: {plain(str(error).splitlines()[0])}") from None
