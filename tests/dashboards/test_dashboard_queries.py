# SPDX-License-Identifier: Apache-2.0
"""Every target of every panel gives data from a Prometheus that scrapes real endpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.dashboards import prometheus, queries, timeline
from tests.dashboards.prometheus import Prometheus
from tests.dashboards.queries import Target
from uaptrace.exporter.server import serve
from uaptrace.model.snapshot import Snapshot

pytestmark = [pytest.mark.prometheus, pytest.mark.slow]

INTERVAL_S = 2
SCRAPES = 9
RATE_WINDOW_S = 4 * INTERVAL_S
"""$__rate_interval: every host must have been scraped without a failure for so long."""
SCRAPE_LIMIT_S = 600.0
"""A machine that also boots virtual machines does not get to a scrape for seconds."""
ALL = queries.load_all()
TARGETS = [target for dashboard in ALL.values() for target in queries.targets(dashboard)]
WITHOUT_CACHE = "db-2:9970"
"""The host whose kernel has no unmapped cache."""


@dataclass(frozen=True)
class Scraped:
    """A Prometheus, and the time that it has seen."""

    server: Prometheus
    begin_s: float
    end_s: float
    instances: list[str]

    @property
    def macros(self) -> dict[str, str]:
        return queries.macros(range_s=max(int(self.end_s - self.begin_s), 1), step_s=INTERVAL_S, scrape_interval_s=INTERVAL_S)

    def instant(self, expr: str) -> list[object]:
        """Result of an expression at the end of the time; an error of Prometheus fails the test."""
        answer = self.server.get("/api/v1/query", {"query": expr, "time": f"{self.end_s}"})
        assert answer["status"] == "success", f"{expr}: {answer.get('error')}"
        result: list[object] = answer["data"]["result"]
        return result

    def ask(self, target: Target, instances: list[str] | None) -> int:
        """Number of series that a target gets for these hosts, or for all of its dashboard."""
        matcher = queries.all_value(ALL[target.dashboard]) if instances is None else queries.as_matcher(instances)
        expr = queries.substitute(target.expr, {**self.macros, "instance": matcher})
        if target.instant:
            return len(self.instant(expr))
        params = {"query": expr, "start": f"{self.begin_s}", "end": f"{self.end_s}", "step": f"{INTERVAL_S}"}
        answer = self.server.get("/api/v1/query_range", params)
        assert answer["status"] == "success", f"{target}: {answer.get('error')}"
        return len(answer["data"]["result"])


def _as_it_goes(host: timeline.Host) -> Callable[[], Snapshot]:
    """A host that has advanced since the scrape before, as a live one has."""

    def feed() -> Snapshot:
        host.advance(INTERVAL_S)
        return host.snapshot()

    return feed


def _replayed(path: Path) -> Callable[[], Snapshot | None]:
    """A recording, played from its beginning, a share of it at every scrape."""
    from uaptrace.session.replay import ReplaySource

    clock = {"now_s": 0.0}
    source = ReplaySource(path, 1.0, clock=lambda: clock["now_s"], budget_s=None)
    step_s = (source.end_ns - source.start_ns) / 1e9 / (SCRAPES - 2)

    def feed() -> Snapshot | None:
        clock["now_s"] += step_s
        return source.latest()

    return feed


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    hosts = timeline.fleet(time.time())
    walks = {instance: host.walks for instance, host in hosts.items() if host.profile.counts_walks}
    feeds: dict[str, Callable[[], Snapshot | None]] = {instance: _as_it_goes(host) for instance, host in hosts.items()}
    feeds |= {f"{path.stem}:9970": _replayed(path) for path in queries.RECORDINGS}
    with ExitStack() as stack:
        servers = {
            instance: stack.enter_context(serve(feed, "127.0.0.1:0", read_walks=walks.get(instance))) for instance, feed in feeds.items()
        }
        addresses = {instance: each.url.removeprefix("http://").split("/")[0] for instance, each in servers.items()}
        begin_s = time.time()
        server = stack.enter_context(prometheus.running(tmp_path_factory.mktemp("prometheus"), addresses, INTERVAL_S))
        limit = time.monotonic() + SCRAPE_LIMIT_S
        enough = f"sum_over_time(up[1h]) >= {SCRAPES} and min_over_time(up[{RATE_WINDOW_S}s]) == 1"
        while True:
            answer = server.get("/api/v1/query", {"query": f"count({enough} and count_over_time(up[{RATE_WINDOW_S}s]) >= 3)"})
            rows = answer["data"]["result"]
            if rows and int(rows[0]["value"][1]) == len(addresses):
                break
            assert time.monotonic() < limit, (
                f"{answer}: not all of {len(addresses)} hosts scraped {SCRAPES} times\n{server.get('/api/v1/targets')}"
            )
            time.sleep(0.2)
        yield Scraped(server, begin_s, time.time(), list(addresses))


@pytest.mark.parametrize("uid", sorted(ALL))
def test_variables_have_values(scraped: Scraped, uid: str) -> None:
    for variable in ALL[uid]["templating"]["list"]:
        if variable["type"] == "query":
            selector, label = queries.label_values_query(variable["query"]["query"])
            assert sorted(scraped.server.label_values(label, selector, scraped.begin_s, scraped.end_s)) == sorted(scraped.instances)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_target_gives_data(scraped: Scraped, target: Target) -> None:
    found = scraped.ask(target, None)
    assert found == scraped.ask(target, scraped.instances), "all hosts by name are not all hosts"
    if not target.is_annotation and (target.dashboard, target.panel, target.ref_id) not in queries.MAY_BE_EMPTY:
        assert found, "no data"


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_every_selector_finds_series(scraped: Scraped, target: Target) -> None:
    """An expression can give data though a part of it never will: a wrong label value, a misspelt metric behind ``or``."""
    expr = queries.substitute(target.expr, {**scraped.macros, "instance": queries.as_matcher(scraped.instances)})
    for selector in queries.selectors(expr):
        matchers = ",".join(f'{m.name}{_OPERATORS[str(m.op)]}"{_quoted(m.value)}"' for m in selector.matchers.matchers)
        assert scraped.instant(f"last_over_time({selector.name}{{{matchers}}}[5m])"), f"nothing matches {selector.prettify()}"


_OPERATORS = {"MatchOp.Equal": "=", "MatchOp.NotEqual": "!=", "MatchOp.Re": "=~", "MatchOp.NotRe": "!~"}


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


@pytest.mark.parametrize("uid", [uid for uid in sorted(ALL) if uid not in ("uaptrace-unmapped-cache",)])
def test_host_without_the_cache_has_all_that_is_not_about_it(scraped: Scraped, uid: str) -> None:
    """Unknown is absent: on a kernel without the cache its panels are empty, the others are not, and nothing is an error."""
    for target in queries.targets(ALL[uid]):
        of_the_cache = any(word in target.expr for word in ("unmapped_cache", "shrinker", "audit", "reconcile_error_blocks"))
        excepted = (target.dashboard, target.panel, target.ref_id) in queries.MAY_BE_EMPTY
        found = scraped.ask(target, [WITHOUT_CACHE])
        if not (target.is_annotation or of_the_cache or excepted):
            assert found, target


def test_the_check_fails_for_what_does_not_exist(scraped: Scraped) -> None:
    absent = Target("x", "x", "A", 'uaptrace_direct_map_bites{instance=~"$instance"}', instant=False)
    assert scraped.ask(absent, scraped.instances) == 0
    with pytest.raises(AssertionError, match="parse error"):
        scraped.ask(Target("x", "x", "A", "sum by (level (uaptrace_direct_map_bytes)", instant=True), scraped.instances)
    with pytest.raises(KeyError, match="host"):
        scraped.ask(Target("x", "x", "A", 'uaptrace_ready{instance="$host"}', instant=True), scraped.instances)
