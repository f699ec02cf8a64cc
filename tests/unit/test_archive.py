# SPDX-License-Identifier: Apache-2.0
"""Whoever asks an archive of many hosts gets what their recordings say: added up, each once, and with what is not known left open."""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import polars
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.archive_pieces import host_recording
from uaptrace.abi.errors import RecordingError, UaptraceError, UsageError
from uaptrace.archive import players
from uaptrace.archive.answer import DAY_S
from uaptrace.archive.days import HostDay, day_rows
from uaptrace.archive.players import play_on_dask, rows_of
from uaptrace.archive.questions import Scope, ask
from uaptrace.archive.store import Archive
from uaptrace.commands.archive import archive as command
from uaptrace.commands.whatif import whatif as whatif_command
from uaptrace.model.snapshot import Snapshot
from uaptrace.reports.page.gather import gather

DATA = Path(__file__).parents[1] / "data"
REAL = [DATA / "debian-6.1.uaptrace", DATA / "patched-6.1.uaptrace"]
MIDNIGHT = 1_750_032_000.0
"""2025-06-16 00:00 UTC."""
DOCS = Path(__file__).parents[2] / "docs"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def asked(place: object, *arguments: object) -> Any:
    done = run("report", place, "--format", "json", *arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


def files_of(place: Path) -> list[Path]:
    return sorted(place.rglob("*.parquet"))


def end_of(path: Path) -> Snapshot:
    return gather(path, nr_points=2, nr_frames=2).end


def counts(rows: list[HostDay]) -> tuple[Counter[tuple[str, str]], int, int]:
    """Splits by level and cause, requests to the cache, events lost."""
    splits: Counter[tuple[str, str]] = Counter()
    for row in rows:
        for cause in row.columns["causes"]:
            splits[cause["level"], cause["cause"]] += cause["splits"]
    caches = [row.columns["cache"] for row in rows]
    return splits, sum(cache["requests"] for cache in caches if cache), sum(row.columns["events_lost"] for row in rows)


def counted(end: Snapshot) -> tuple[Counter[tuple[str, str]], int, int]:
    splits = {(level.label, cause.value): n for (level, cause), n in end.splits.by_cause.items() if n}
    return Counter(splits), end.cache.requests if end.cache else 0, end.loss.total


# A recording as rows


@pytest.mark.parametrize("part_s", [None, 1.0, 3.0, 7.0])
@pytest.mark.parametrize("pause_s", [0, 5_000])
def test_rows_of_all_parts_and_days_add_up_to_the_recording(tmp_path: Path, part_s: float | None, pause_s: int) -> None:
    """Parts of a recorder that rotates, and midnights, neither lose a split nor count one twice."""
    path = host_recording(tmp_path / "a.rec", part_s=part_s, pause_s=pause_s)
    files = sorted(tmp_path.iterdir())
    assert (len(files) > 1) == (part_s is not None)
    rows = day_rows(path)
    assert len(rows) >= len(files)
    assert (len({row.day for row in rows}) > 1) == bool(pause_s)
    assert counts(rows) == counted(end_of(path))
    assert len({(row.day, row.id) for row in rows}) == len(rows)
    for before, after in itertools.pairwise(rows):
        assert before.columns["end_time"] == after.columns["begin_time"]
        assert before.columns["large_end_bytes"] == after.columns["large_begin_bytes"]


def test_parts_that_are_gone_keep_their_rows(tmp_path: Path) -> None:
    """A recorder that rotates has only its newest parts: what it had yesterday is in the archive, and is there once."""
    place = tmp_path / "archive"
    path = host_recording(tmp_path / "a.rec", part_s=3.0)
    end = end_of(path)
    assert run("add", path, "--to", place).exit_code == 0
    before = files_of(place)
    path.unlink()
    assert run("add", tmp_path / "a.rec.1", "--to", place).exit_code == 0
    assert files_of(place) == before
    by_cause = {row["cause"]: row["splits_2m"] for row in asked(place)["causes"]}
    assert by_cause == {cause.value: n for (level, cause), n in end.splits.by_cause.items() if n and level.label == "2m"}


@settings(max_examples=15, deadline=None)
@given(before_s=st.floats(-20, 20), seconds=st.integers(1, 6))
def test_a_midnight_divides_what_happened_and_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, before_s: float, seconds: int
) -> None:
    path = host_recording(tmp_path_factory.mktemp("a") / "a.rec", wall_time_s=MIDNIGHT + before_s, seconds=seconds)
    rows = day_rows(path)
    assert counts(rows) == counted(end_of(path))
    assert [row.day for row in rows] == sorted({row.day for row in rows})
    for row in rows:
        begin, end = row.columns["begin_time"] / 1e6, row.columns["end_time"] / 1e6
        assert date.fromtimestamp(begin // DAY_S * DAY_S) == row.day
        assert end - begin == pytest.approx(row.columns["watched_s"], abs=1e-5)
        assert begin // DAY_S == (end - 1e-3) // DAY_S
        assert [row.columns["begin_time"], row.columns["end_time"]] == [row.columns["samples"][i]["time"] for i in (0, -1)]


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_a_real_recording_says_the_same_in_an_archive(path: Path) -> None:
    (*_, last) = rows = day_rows(path)
    end = end_of(path)
    assert counts(rows) == counted(end)
    large = sum(bytes_ for level, bytes_ in end.direct_map.present_bytes.items() if level.label != "4k")
    assert last.columns["large_end_bytes"] == large
    assert last.columns["direct_map_bytes"] == end.direct_map.total_bytes
    assert (last.columns["exact"], last.columns["reasons"]) == (True, [])
    assert sum(stack["splits"] for row in rows for stack in row.columns["stacks"]) == sum(end.splits.by_cause.values())
    assert not any(re.search("0x|[+]", stack["stack"]) for row in rows for stack in row.columns["stacks"]), "no address, no offset"


def test_what_nobody_read_is_not_zero(tmp_path: Path) -> None:
    """A recording whose page tables were not read has no bytes of large mappings, and one of a stock kernel no cache."""
    host_recording(tmp_path / "a.rec", series=False)
    (row,) = day_rows(tmp_path / "a.rec")
    assert row.columns["cache"] is None
    assert row.columns["large_end_bytes"] > 0
    columns = dict(row.columns) | {"large_begin_bytes": None, "large_end_bytes": None, "direct_map_bytes": None}
    place = tmp_path / "archive"
    Archive(str(place)).add(HostDay(row.day, row.hostname, row.id, columns))
    said = asked(place)
    assert said["nr_without_map"] == 1
    assert (said["hosts"][0]["lost_bytes"], said["hosts"][0]["large_share_end"], said["days"][0]["large_share"]) == (None, None, None)
    assert "not known" in run("report", place).output


# Adding


def test_adding_again_changes_nothing_and_a_grown_recording_replaces_its_rows(tmp_path: Path) -> None:
    place = tmp_path / "archive"
    path = host_recording(tmp_path / "a.rec", seconds=12)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert run("add", path, "--to", place).exit_code == 0
    first, half = files_of(place), asked(place)
    path.write_bytes(whole)
    for _ in range(2):
        assert run("add", path, path, "--to", place).exit_code == 0
        assert files_of(place) == first
        grown = asked(place)
        assert grown["nr_recordings"] == 1
        assert grown["causes"][0]["splits_2m"] > half["causes"][0]["splits_2m"]


def test_the_first_part_brings_those_that_follow_once(tmp_path: Path) -> None:
    path = host_recording(tmp_path / "a.rec", part_s=3.0)
    place = tmp_path / "archive"
    assert run("add", *sorted(tmp_path.glob("a.rec*")), "--to", place).exit_code == 0
    everything = files_of(place)
    assert run("add", path, "--to", tmp_path / "other").exit_code == 0
    assert [file.name for file in files_of(tmp_path / "other")] == [file.name for file in everything]
    assert len(everything) == len(list(tmp_path.glob("a.rec*")))


def test_what_is_no_recording_is_named_and_the_others_are_added(tmp_path: Path) -> None:
    place = tmp_path / "archive"
    (tmp_path / "no.rec").write_text("nothing at all that Arrow knows")
    done = run("add", tmp_path / "no.rec", REAL[0], tmp_path / "gone.rec", "--to", place)
    assert isinstance(done.exception, RecordingError)
    assert "gone.rec" in str(done.exception)
    assert "no.rec: not a recording" in done.output
    assert len(files_of(place)) == 1


@pytest.mark.parametrize("name", ["a/../b", "..", "*[x]?", "ho st=1&%", "\x1b[31mred", "ü", "x" * 64])
def test_a_host_may_have_any_name(tmp_path: Path, name: str) -> None:
    place = tmp_path / "arch[1]*"
    path = host_recording(tmp_path / "a.rec", hostname=name)
    assert run("add", path, "--to", place).exit_code == 0
    (file,) = files_of(place)
    assert file.parents[2] == place
    assert asked(place)["hosts"][0]["hostname"] == name
    shown = run("report", place).output
    assert "\x1b" not in shown


def test_hosts_without_a_name_are_told_apart_by_their_boot(tmp_path: Path) -> None:
    for boot in ("aaaaaaaa-1", "bbbbbbbb-2"):
        path = host_recording(tmp_path / f"{boot}.rec", hostname="(none)", boot_id=boot)
        assert run("add", path, "--to", tmp_path / "archive").exit_code == 0
    said = asked(tmp_path / "archive")
    assert (said["nr_hosts"], sorted(row["hostname"] for row in said["hosts"])) == (2, ["unnamed aaaaaaaa", "unnamed bbbbbbbb"])


# Asking


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five hosts with a kernel before and another after; the first has more splits afterwards."""
    folder = tmp_path_factory.mktemp("fleet")
    paths = []
    for number in range(5):
        for at, kernel, seconds in ((0, "6.1.0", 8 if number else 4), (2, "6.12.9", 4 if number else 12)):
            paths.append(
                host_recording(
                    folder / f"{number}-{kernel}.rec",
                    hostname=f"host{number}",
                    kernel_release=kernel,
                    boot_id=f"{number}-{kernel}",
                    wall_time_s=MIDNIGHT + at * DAY_S,
                    seconds=seconds,
                    pause_s=7200 // seconds,
                    seed=number,
                    series=number != 4,
                )
            )
    assert run("add", *paths, "--to", folder / "archive").exit_code == 0
    return folder / "archive"


def frame(place: Path) -> polars.DataFrame:
    """All rows, read by a library that has nothing to do with the way in which uaptrace asks."""
    return polars.concat([polars.read_parquet(file, hive_partitioning=False) for file in files_of(place)])


def test_sums_are_those_that_another_library_computes(fleet: Path) -> None:
    said, rows = asked(fleet), frame(fleet)
    splits = rows.select("hostname", "kernel_release", "causes").explode("causes").unnest("causes").drop_nulls("cause")
    by_cause = {row["cause"]: row["splits"] for row in splits.group_by("cause").agg(polars.col("splits").sum()).iter_rows(named=True)}
    assert {row["cause"]: row["splits_2m"] + row["splits_1g"] for row in said["causes"]} == by_cause
    by_kernel = splits.group_by("kernel_release").agg(polars.col("splits").sum(), polars.col("hostname").n_unique().alias("hosts"))
    assert {row["kernel_release"]: (row["splits_2m"] + row["splits_1g"], row["nr_hosts"]) for row in said["kernels"]} == {
        row["kernel_release"]: (row["splits"], row["hosts"]) for row in by_kernel.iter_rows(named=True)
    }
    lost = rows.group_by("hostname").agg((polars.col("large_begin_bytes") - polars.col("large_end_bytes")).sum().alias("lost"))
    assert {row["hostname"]: row["lost_bytes"] for row in said["hosts"]} == dict(lost.iter_rows())
    stacks = rows.select("hostname", "stacks").explode("stacks").unnest("stacks")
    assert sum(row["splits"] for row in said["stacks"]) == stacks["splits"].sum() == sum(by_cause.values())
    by_comm = {row["comm"]: row["splits"] for row in said["processes"]}
    assert by_comm == dict(stacks.group_by("comm").agg(polars.col("splits").sum()).iter_rows())
    assert sum(day["splits"].get("module", 0) for day in said["days"]) == by_cause["module"]
    assert said["watched_s"] == pytest.approx(rows["watched_s"].sum())
    assert (said["nr_hosts"], said["nr_host_days"], said["first_day"], said["last_day"]) == (5, 10, "2025-06-16", "2025-06-18")


def test_the_answer_is_ordered_and_an_update_of_the_kernel_is_compared_host_by_host(fleet: Path) -> None:
    said = asked(fleet)
    for table, key in (("hosts", "lost_bytes"), ("processes", "splits"), ("stacks", "splits")):
        figures = [row[key] for row in said[table]]
        assert figures == sorted(figures, reverse=True)
    (update,) = said["updates"]
    assert (update["before"], update["after"], update["nr_hosts"]) == ("6.1.0", "6.12.9", 5)
    assert (update["nr_fewer"], update["nr_more"]) == (4, 1)
    text = run("report", fleet).output
    assert re.search(r"6\.1\.0 to 6\.12\.9 +5 .*−\d", text)
    assert max(map(len, text.splitlines()[1:])) <= 80


def test_days_hosts_and_kernels_can_be_chosen(fleet: Path) -> None:
    assert asked(fleet, "--host", "host[01]")["nr_hosts"] == 2
    assert [row["kernel_release"] for row in asked(fleet, "--kernel", "6.12*")["kernels"]] == ["6.12.9"]
    assert asked(fleet, "--since", "2025-06-17")["first_day"] == "2025-06-18"
    assert asked(fleet, "--until", "2025-06-16")["last_day"] == "2025-06-16"
    for arguments, said in (
        (("--host", "other"), "no row is of a host"),
        (("--since", "2030-01-01"), "no days of an archive are there since 2030-01-01"),
        (("--since", "2025-06-18", "--until", "2025-06-16"), "--since is after --until"),
    ):
        done = run("report", fleet, *arguments)
        assert isinstance(done.exception, UsageError)
        assert said in str(done.exception)


def test_recordings_that_overlap_are_said_to_count_twice(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert run("add", host_recording(tmp_path / f"{name}.rec"), "--to", tmp_path / "archive").exit_code == 0
    assert asked(tmp_path / "archive")["nr_overlaps"] == 1
    assert "counted twice" in " ".join(run("report", tmp_path / "archive").output.split())


def test_every_key_of_the_json_is_documented(fleet: Path) -> None:
    documented = set(re.findall(r"^\| `([^`]+)` \|", (DOCS / "archive.md").read_text(), re.MULTILINE))

    def keys(value: Any, path: str) -> Iterator[str]:
        if isinstance(value, dict) and not path.endswith("splits"):
            for key, inner in value.items():
                yield from keys(inner, f"{path}.{key}" if path else key)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for inner in value:
                yield from keys(inner, f"{path}[]")
        else:
            yield path

    assert set(keys(asked(fleet), "")) <= documented


def test_every_column_is_documented(fleet: Path) -> None:
    text = (DOCS / "archive.md").read_text()
    assert [name for name in frame(fleet).columns if f"`{name}`" not in text] == []


def test_a_report_is_written_whole_and_by_the_name_of_its_file(fleet: Path, tmp_path: Path) -> None:
    for name, begin in (("a.html", "<!doctype html>"), ("a.json", "{"), ("a.txt", str(fleet))):
        assert run("report", fleet, "-o", tmp_path / name).exit_code == 0
        assert (tmp_path / name).read_text().lstrip().startswith(begin)


def test_a_file_that_is_not_of_an_archive_is_one_line(fleet: Path, tmp_path: Path) -> None:
    folder = tmp_path / "date=2025-01-01" / "host=x"
    folder.mkdir(parents=True)
    other = folder / "a.parquet"
    for content in (b"PAR1 nothing", b""):
        other.write_bytes(content)
        done = run("report", tmp_path)
        assert isinstance(done.exception, RecordingError)
        assert "\n" not in str(done.exception)
    polars.DataFrame({"a": [1]}).write_parquet(other)
    assert isinstance(run("report", tmp_path).exception, RecordingError)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("ftp://x/y", "give a folder, or s3://"),
        ("s3://", "give the name of a bucket"),
        ("/proc/archive", "cannot write to"),
        ("/dev/null", "cannot write to"),
    ],
)
def test_a_place_that_cannot_be_is_one_line(place: str, said: str) -> None:
    done = run("add", REAL[0], "--to", place)
    assert isinstance(done.exception, UsageError)
    assert said in str(done.exception)
    assert "\n" not in str(done.exception)


def test_without_duckdb_it_says_what_to_install(fleet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    done = run("report", fleet)
    assert isinstance(done.exception, UaptraceError)
    assert "pipx inject uaptrace duckdb, or pip install duckdb" in str(done.exception)


# Many at a time


def contents(place: Path) -> dict[str, bytes]:
    return {str(file.relative_to(place)): file.read_bytes() for file in files_of(place)}


def test_jobs_write_the_same_bytes(fleet: Path, tmp_path: Path) -> None:
    (tmp_path / "no.rec").write_text("nothing at all that Arrow knows")
    done = run("add", *sorted(fleet.parent.glob("*.rec")), tmp_path / "no.rec", "--to", tmp_path / "archive", "--jobs", 2)
    assert isinstance(done.exception, RecordingError)
    assert contents(tmp_path / "archive") == contents(fleet)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A Dask scheduler and two workers, each a process. The address, and the workers."""
    told = tmp_path / "scheduler.json"
    commands = [["scheduler", "--scheduler-file", told, "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]]
    commands += [["worker", "--scheduler-file", told, "--nthreads", "1", "--no-dashboard", "--no-nanny"]] * 2
    dask = [sys.executable, "-m", "dask"]
    started = [
        subprocess.Popen([*dask, *map(str, command)], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in commands
    ]
    try:
        until = time.monotonic() + 120
        while not told.exists():
            assert started[0].poll() is None, "the scheduler ended"
            assert time.monotonic() < until
            time.sleep(0.1)
        yield json.loads(told.read_text())["address"], started[1:]
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_cluster_writes_the_same_bytes_though_a_worker_dies(
    fleet: Path, tmp_path: Path, cluster: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    """Killed while it works: the other one takes over its tasks."""
    address, workers = cluster
    recordings = sorted(fleet.parent.glob("*.rec"))
    played = play_on_dask(rows_of, recordings, address)
    to = Archive(str(tmp_path / "archive"))
    for number, (path, rows) in enumerate(played):
        assert path in recordings
        assert not isinstance(rows, RecordingError)
        for row in rows:
            to.add(row)
        if number == 2:
            workers[0].kill()
    assert contents(tmp_path / "archive") == contents(fleet)
    done = run("add", *recordings, "--to", tmp_path / "by-command", "--dask", address)
    assert done.exit_code == 0, done.output
    assert contents(tmp_path / "by-command") == contents(fleet)


def what_if(*arguments: object) -> Any:
    done = run("whatif", "--json", *arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


DESIGNS = ("--policy", "none", "--policy", "unmapped_alloc")


def test_designs_over_many_recordings_are_the_sum_of_each_by_itself() -> None:
    found = what_if(*REAL, *DESIGNS)
    assert [(each["path"], each["hostname"] != "") for each in found["recordings"]] == [(str(path), True) for path in REAL]
    for recording in found["recordings"]:
        alone = CliRunner().invoke(whatif_command, [recording["path"], *DESIGNS, "--json"])
        document = json.loads(alone.stdout)
        assert (recording["nr_requests"], recording["size_bytes"]) == (document["requests"]["count"], document["memory"]["size_bytes"])
        for figures, policy in zip(recording["designs"], document["policies"], strict=True):
            assert figures["design"] == policy["name"]
            assert (figures["splits_2m"], figures["splits_1g"]) == (policy["splits"]["2m"], policy["splits"]["1g"])
            assert figures["large_bytes"] == policy["bytes_kept"]["2m"] + policy["bytes_kept"]["1g"]
            for name in ("nr_entries", "page_table_bytes", "direct_map_operations", "tlb_flushes", "exposed_pages", "failed"):
                assert figures[name] == policy[name]
    for number, total in enumerate(found["designs"]):
        parts = [recording["designs"][number] for recording in found["recordings"]]
        assert total == {"design": parts[0]["design"], **{name: sum(part[name] for part in parts) for name in parts[0] if name != "design"}}


def test_designs_are_the_same_bytes_wherever_recordings_are_replayed(cluster: tuple[str, list[subprocess.Popen[bytes]]]) -> None:
    here = run("whatif", "--json", *REAL, *DESIGNS).stdout
    assert run("whatif", "--json", *reversed(REAL), *DESIGNS, "--jobs", 2).stdout == here
    assert run("whatif", "--json", *REAL, *DESIGNS, "--dask", cluster[0]).stdout == here


def test_designs_as_text_fit_a_terminal_and_name_what_they_are_sums_of() -> None:
    done = run("whatif", *REAL, *DESIGNS)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "of 2 recordings" in lines[0]
    assert [line.split("  ")[0] for line in lines[-2:]] == ["none", "unmapped_alloc, intended"]


def test_a_recording_without_requests_is_named_and_the_others_are_answered(tmp_path: Path) -> None:
    bad = tmp_path / "no.rec"
    bad.write_bytes(b"no recording")
    done = run("whatif", REAL[0], bad, *DESIGNS)
    assert isinstance(done.exception, RecordingError)
    assert "no.rec" in str(done.exception)
    assert "of 1 recording," in done.stdout
    assert isinstance(run("whatif", bad).exception, RecordingError)


def test_a_cluster_that_is_not_there_is_one_line(fleet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recordings = sorted(fleet.parent.glob("*.rec"))
    monkeypatch.setattr(players, "CONNECT_S", 1)
    for address, said in (("tcp://127.0.0.1:1", "the Dask cluster at tcp://127.0.0.1:1"), ("nothing", "the Dask cluster at nothing")):
        done = run("add", *recordings, "--to", tmp_path, "--dask", address)
        assert isinstance(done.exception, UaptraceError)
        assert said in str(done.exception)
        assert "\n" not in str(done.exception)
    assert isinstance(run("add", *recordings, "--to", tmp_path, "--dask", "tcp://x:1", "--jobs", 2).exception, UsageError)


# A store


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of a store that speaks S3: moto's server, a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"127.0.0.1:{port}"
        until = time.monotonic() + 60
        while True:
            try:
                request = urllib.request.Request(f"http://{address}/hosts", method="PUT")
                urllib.request.urlopen(request, timeout=10).close()
                break
            except OSError:
                assert server.poll() is None, "moto's server ended"
                assert time.monotonic() < until
                time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b"), ("AWS_EC2_METADATA_DISABLED", "true")):
        monkeypatch.setenv(name, value)
    assert "AWS_PROFILE" not in os.environ


@pytest.mark.usefixtures("credentials")
def test_a_store_answers_as_a_folder_does(fleet: Path, s3: str) -> None:
    place = f"s3://hosts/of/archive?scheme=http&endpoint_override={s3}"
    recordings = sorted(fleet.parent.glob("*.rec"))
    for _ in range(2):
        done = run("add", *recordings, "--to", place)
        assert done.exit_code == 0, done.output
    from_store, from_folder = asked(place), asked(fleet)
    for answer in (from_store, from_folder):
        answer.pop("place")
    assert from_store == from_folder
    chosen = json.loads(run("report", place, "--format", "json", "--since", "2025-06-17").output)
    assert chosen["first_day"] == "2025-06-18"


@pytest.mark.usefixtures("credentials")
def test_a_store_that_has_no_such_bucket_is_one_line(s3: str) -> None:
    done = run("report", f"s3://other/of?scheme=http&endpoint_override={s3}")
    assert isinstance(done.exception, UsageError)
    assert "\n" not in str(done.exception)


def test_a_question_of_folders_needs_no_command(fleet: Path) -> None:
    """The functions that other tools may call."""
    with Archive(str(fleet)).local(None, None) as folders:
        answer = ask("here", folders, Scope(host="host0"))
    assert answer.splits == sum(row.splits for row in answer.stacks)
    assert answer.totals.nr_hosts == 1
