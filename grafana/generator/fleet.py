# SPDX-License-Identifier: Apache-2.0
"""*Fleet*: many hosts, worst first, each with a link to its dashboard."""

from __future__ import annotations

from .direct_map import LARGE, LARGE_SHARE_STEPS
from .direct_map import UID as HOST_UID
from .layout import Row, dashboard
from .panels import (
    GREEN,
    ORANGE,
    RED,
    TEXT,
    YELLOW,
    ZERO_IS_GOOD,
    Column,
    Json,
    Query,
    bars,
    metric,
    named_color,
    rate,
    stat,
    table,
    thresholds,
    timeseries,
    total,
    value_names,
)

UID = "uaptrace-fleet"
HOST_ALL = f"({total(metric('direct_map_bytes'), 'instance')} + {total(metric('direct_map_absent_bytes'), 'instance')})"
SHARE = f"{total(LARGE, 'instance')} / ({HOST_ALL} > 0)"
"""Nothing, rather than NaN, while a host has not read its page tables yet."""
BANDS = (("under 50 %", None, 0.5), ("50 to 80 %", 0.5, 0.8), ("80 to 95 %", 0.8, 0.95), ("95 % and more", 0.95, None))
HOST_LINK = {
    "title": "Direct map of ${__value.text}",
    "url": f"/d/{HOST_UID}?var-datasource=${{datasource}}&var-instance=${{__value.text}}&${{__url_time_range}}",
}


def _hosts_between(least: float | None, below: float | None) -> str:
    conditions = [f"{SHARE} >= {least}"] if least is not None else []
    conditions += [f"{SHARE} < {below}"] if below is not None else []
    # ``or vector(0)``: no host in a band is a count of zero.
    return f"count({' and '.join(conditions)}) or vector(0)"


def _count_hosts(condition: str) -> str:
    return f"count({condition}) or vector(0)"


def overview() -> Row:
    """Which hosts need a look?"""
    return Row(
        "Which hosts need a look?",
        [
            stat(
                "Hosts",
                "Hosts whose uaptrace answers.",
                Query(f"count({metric('build_info')})", instant=True),
                unit="locale",
                width=3,
            ),
            stat(
                "Not exact",
                "Hosts whose state is not exact now: their figures are a lower bound. Some for a short time is normal under load; see "
                "*uaptrace itself*.",
                Query(_count_hosts(f"{metric('state_exact')} == 0"), instant=True),
                unit="locale",
                steps=thresholds(GREEN, (1, ORANGE)),
                width=3,
            ),
            stat(
                "Broken invariants",
                "Hosts where the audit found a broken invariant since tracing began: a kernel bug or memory damage. Begin with these.",
                Query(_count_hosts(f"{total(metric('audit_violations_total'), 'instance')} > 0"), instant=True),
                unit="locale",
                steps=ZERO_IS_GOOD,
                width=3,
            ),
            stat(
                "Fragmented",
                "Hosts with less than half of their direct map in large mappings. Find what they have in common (kernel, role, cause) "
                "before rebooting them.",
                Query(_hosts_between(None, 0.5), instant=True),
                unit="locale",
                steps=ZERO_IS_GOOD,
                width=3,
            ),
            stat(
                "In large mappings",
                "Share of all hosts' memory together that is in 2M and 1G mappings.",
                Query(f"{total(LARGE)} / ({total(metric('direct_map_bytes'))} + {total(metric('direct_map_absent_bytes'))} > 0)"),
                unit="percentunit",
                decimals=1,
                steps=LARGE_SHARE_STEPS,
                sparkline=True,
                width=12,
            ),
            timeseries(
                "Splits per minute by cause, all hosts",
                "What splits large mappings in this fleet. One cause everywhere is a change of software; a single host is in the table "
                "below.",
                Query(f"60 * {total(rate(metric('direct_map_splits_total')), 'cause')}", "{{cause}}"),
                unit="cpm",
                stacked=True,
                width=12,
            ),
            bars(
                "Hosts by share in large mappings",
                "How the fleet is spread. The top bars should be empty; a fleet that moves upwards week by week has a cause that is "
                "everywhere.",
                *(Query(_hosts_between(least, below), name, instant=True) for name, least, below in BANDS),
                unit="locale",
                title_size=13,
                width=12,
                overrides=tuple(named_color(name, color) for (name, _, _), color in zip(BANDS, (RED, ORANGE, YELLOW, GREEN), strict=True)),
            ),
        ],
    )


def hosts() -> Row:
    """Worst first."""
    hourly = f"3600 * {total(rate(metric('direct_map_splits_total')), 'instance')}"
    hit_ratio = (
        f"sum by (instance) (increase({metric('unmapped_cache_hits_total')}[$__range]))"
        f" / (sum by (instance) (increase({metric('unmapped_cache_requests_total')}[$__range])) > 0)"
    )
    return Row(
        "One by one",
        [
            table(
                "Hosts, worst first",
                "All hosts, least memory in large mappings first. A click on a host opens its *Direct map* dashboard for the same time. "
                "Empty: not known (no unmapped cache in that kernel, no request, or nothing to compare yet), which is not zero.",
                Query(SHARE, instant=True, table=True),
                Query(f"2 * 1024 * 1024 * {total(metric('direct_map_stranded_regions'), 'instance')}", instant=True, table=True),
                Query(total(metric("direct_map_absent_bytes"), "instance"), instant=True, table=True),
                Query(hourly, instant=True, table=True),
                Query(hit_ratio, instant=True, table=True),
                Query(total(metric("audit_violations_total"), "instance"), instant=True, table=True),
                Query(f"min by (instance) ({metric('state_exact')})", instant=True, table=True),
                Query(f"max by (instance, kernel_release) ({metric('host_info')})", instant=True, table=True),
                by="instance",
                columns=[
                    Column("instance", "Host", links=(HOST_LINK,)),
                    Column("Value #A", "In large mappings", unit="percentunit", decimals=1, steps=LARGE_SHARE_STEPS, gauge=True, width=260),
                    Column(
                        "Value #D", "Splits / hour", unit="locale", decimals=0, width=130, steps=thresholds(TEXT, (60, ORANGE), (600, RED))
                    ),
                    Column("Value #B", "Stranded in 4K", unit="bytes", width=140),
                    Column("Value #C", "Absent", unit="bytes", width=120),
                    Column("Value #E", "Cache hits", unit="percentunit", decimals=1, width=120),
                    Column("Value #F", "Broken invariants", unit="locale", width=150, steps=ZERO_IS_GOOD),
                    Column(
                        "Value #G",
                        "State",
                        width=110,
                        mappings=(value_names({0: ("not exact", RED), 1: ("exact", GREEN)}),),
                        steps=thresholds(RED, (1, GREEN)),
                    ),
                    Column("kernel_release", "Kernel", width=200),
                ],
                hidden=("Value #H",),
                height=14,
                sort=("In large mappings", False),
            ),
            timeseries(
                "Ten hosts with the least memory in large mappings",
                "Share in 2M and 1G mappings over time. Steps down are events (see the host's dashboard for the cause); a slope is a "
                "workload.",
                Query(f"bottomk(10, {SHARE})", "{{instance}}"),
                unit="percentunit",
                maximum=1,
                fill=0,
                height=9,
            ),
            timeseries(
                "Ten hosts that split most, per minute",
                "Hosts where it is getting worse now.",
                Query(f"topk(10, 60 * {total(rate(metric('direct_map_splits_total')), 'instance')})", "{{instance}}"),
                unit="cpm",
                fill=0,
                height=9,
            ),
        ],
    )


def make() -> Json:
    """The dashboard."""
    return dashboard(
        UID,
        "uaptrace / Fleet",
        "Many hosts at once, the worst first, with a link from each host to its own dashboard.",
        [overview(), hosts()],
        one_host=False,
    )
