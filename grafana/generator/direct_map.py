# SPDX-License-Identifier: Apache-2.0
"""*Direct map*: one host, six questions from top to bottom."""

from __future__ import annotations

from .layout import Row, dashboard
from .panels import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    TEXT,
    YELLOW,
    ZERO_IS_GOOD,
    Json,
    Panel,
    Query,
    bars,
    count_of,
    in_range,
    metric,
    named_color,
    rate,
    stat,
    thresholds,
    timeseries,
    total,
)
from .trust import trust, wrong

UID = "uaptrace-direct-map"

LARGE = metric("direct_map_bytes", level="2m|1g")
TREND_SHARE = 0.8
"""Share of the variance that a straight line has to explain to be called a trend; the alert has the same."""
ALL_BYTES = f"({total(metric('direct_map_bytes'))} + {total(metric('direct_map_absent_bytes'))})"
LARGE_SHARE_STEPS = thresholds(RED, (0.5, ORANGE), (0.8, YELLOW), (0.95, GREEN))
LEVEL_COLORS = (named_color("1G", "dark-green"), named_color("2M", "green"), named_color("4K", ORANGE), named_color("absent", PURPLE))


def by_level(name: str, level: str) -> str:
    """Sum over the chosen hosts of one level."""
    return total(metric(name, level=level))


def splits_by_level(height: int = 8) -> Panel:
    """Splits per minute; used by two dashboards."""
    return timeseries(
        "Splits per minute by size",
        "How often a large mapping is cut into smaller ones. Each split of a 2M mapping costs 511 more TLB entries for that memory, and "
        "it is not undone "
        "by itself. Spikes when a module is loaded or a service starts are normal; a steady rate is not: see who does it, below.",
        *(
            Query(f"60 * {total(rate(metric('direct_map_splits_total', level=level)))}", f"{name} split")
            for level, name in (("2m", "2M"), ("1g", "1G"))
        ),
        unit="cpm",
        width=10,
        height=height,
        overrides=(named_color("2M split", ORANGE), named_color("1G split", RED)),
    )


def fragmented() -> Row:
    """How fragmented is it?"""
    return Row(
        "How fragmented is it?",
        [
            timeseries(
                "Direct map by size of mapping",
                "All memory the kernel maps for itself, by the size of the mapping. Green is good: large mappings need few TLB entries. "
                "Orange is memory that "
                "needs one entry for every 4 KiB. Purple is absent: nobody can reach it through the direct map, as is meant for secret "
                "memory. "
                "Growing orange: find the cause under “Who does it?”.",
                Query(by_level("direct_map_bytes", "1g"), "1G"),
                Query(by_level("direct_map_bytes", "2m"), "2M"),
                Query(by_level("direct_map_bytes", "4k"), "4K"),
                Query(total(metric("direct_map_absent_bytes")), "absent"),
                unit="bytes",
                stacked=True,
                width=14,
                height=8,
                overrides=LEVEL_COLORS,
            ),
            stat(
                "In large mappings",
                "Share of the direct map in 2M and 1G mappings. Freshly booted hosts are above 95 %. Below 80 % is worth a look at the "
                "cause, below 50 % workloads "
                "that are bound by the TLB are measurably slower. A reboot restores it; nothing else does on kernels that cannot collapse"
                " mappings.",
                Query(f"{total(LARGE)} / ({ALL_BYTES} > 0)"),
                unit="percentunit",
                decimals=1,
                steps=LARGE_SHARE_STEPS,
                sparkline=True,
                width=5,
            ),
            stat(
                "Longest intact run",
                "The longest stretch of memory that is mapped by 2M and 1G entries only (the smallest of the hosts chosen). When it is "
                "far below the size of the host, "
                "splits are scattered over all of memory rather than grouped: that is what the unmapped cache is meant to avoid.",
                Query(f"min({metric('direct_map_largest_intact_bytes')})"),
                unit="bytes",
                sparkline=True,
                width=5,
            ),
            stat(
                "Absent",
                "Memory that was taken out of the direct map: secret memory, pages of the unmapped cache, guarded pages. It should follow"
                " what is in use; "
                "if it only grows, something takes pages and never gives them back.",
                Query(total(metric("direct_map_absent_bytes"))),
                unit="bytes",
                width=5,
            ),
            stat(
                "Stranded in 4K",
                "Memory in 2M regions that are whole again, but still mapped by 512 small entries: damage without a benefit. It stays "
                "until a reboot, "
                "or until the kernel can collapse mappings. Compare hosts with and without the unmapped cache by this figure.",
                Query(f"2 * 1024 * 1024 * {total(metric('direct_map_stranded_regions'))}"),
                unit="bytes",
                width=5,
            ),
        ],
    )


def worse() -> Row:
    """Is it getting worse?"""
    return Row(
        "Is it getting worse?",
        [
            splits_by_level(),
            timeseries(
                "2M regions",
                "Touched: at least one page is absent now. Mapped by 4K: split, whatever is absent. Stranded: split, though nothing is "
                "absent any more. "
                "Touched without split cannot be; a gap between the lines that widens is memory that was damaged and left behind.",
                Query(total(metric("direct_map_split_regions")), "mapped by 4K"),
                Query(total(metric("direct_map_touched_regions")), "touched"),
                Query(total(metric("direct_map_stranded_regions")), "stranded"),
                unit="short",
                width=9,
                decimals=0,
                overrides=(named_color("mapped by 4K", ORANGE), named_color("touched", PURPLE), named_color("stranded", RED)),
            ),
            stat(
                "Splits in the time shown",
                "Large mappings that were split in the time that this dashboard shows, by what was split.",
                Query(count_of(metric("direct_map_splits_total", level="2m")), "2M", instant=True),
                Query(count_of(metric("direct_map_splits_total", level="1g")), "1G", instant=True),
                unit="locale",
                width=5,
                decimals=0,
                steps=thresholds(GREEN, (1, TEXT), (1000, ORANGE), (10000, RED)),
            ),
            stat(
                "Large mappings used up in",
                "If it goes on as in the time shown, no large mapping will be left after this time. Under a day: act now, find the cause "
                "below and plan a reboot. “no trend”: they do not shrink, or did so at once and not steadily (a straight line explains "
                "less than 80 % of the variance).",
                Query(used_up_in(), instant=True),
                unit="s",
                width=5,
                steps=thresholds(RED, (86400, ORANGE), (7 * 86400, GREEN)),
                no_value="no trend",
            ),
        ],
    )


def used_up_in() -> str:
    """Seconds until no large mapping is left, by the regression line through the time shown; nothing where that line explains too
    little: R² of time and value is slope² · var(time) / var(value). A single burst in an even series reaches 0.75 at most."""
    now = f"sum({LARGE})"
    slope = f"deriv({now}[$__range:])"
    explained = f"{slope} ^ 2 * stdvar_over_time(timestamp({now})[$__range:]) / stdvar_over_time({now}[$__range:])"
    return f"({now} / -{slope} > 0) and ({explained} > {TREND_SHARE})"


def walk_share() -> str:
    """Cycles of walks in all cycles, of the hosts whose processors tell both."""
    cycles, of_walks = metric("kernel_cycles_total"), metric("kernel_dtlb_walk_cycles_total")
    return f"{total(rate(of_walks))} / ({total(f'{rate(cycles)} and on (instance) {of_walks}')} > 0)"


def price() -> Row:
    """What does it take?"""
    entries, split = total(metric("direct_map_entries")), total(metric("direct_map_split_regions"))
    return Row(
        "What does it take?",
        [
            timeseries(
                "TLB entries that cover it",
                "So many entries of the TLB would have all that is mapped within reach; a processor has some 1,500 to 3,000 (second level)."
                " Below: as many if each 2M region in 4K entries were one of 2M. Both count page-table entries; neither is a time.",
                Query(entries, "entries"),
                Query(f"{entries} - {by_level('direct_map_bytes', '4k')} / 4096 + {split}", "with no 2M split"),
                unit="short",
                width=13,
                height=9,
                decimals=0,
                overrides=(named_color("entries", ORANGE), named_color("with no 2M split", GREEN)),
            ),
            stat(
                "Kernel's cycles in page walks",
                "Cycles in kernel mode in which a walk of page tables for data was going on, as a share of all, counted by the processor. "
                "Compare a host with itself, before and after splits. “not counted”: `uaptrace serve` runs without `--count-walks`, or the "
                "processor has no such counters (AMD's do not tell the cycles).",
                Query(walk_share()),
                unit="percentunit",
                decimals=1,
                width=5,
                height=5,
                no_value="not counted",
            ),
            stat(
                "Times as many entries",
                "Entries that cover what is mapped, by those that would do if no 2M mapping had been split.",
                Query(f"{entries} / ({entries} - {by_level('direct_map_bytes', '4k')} / 4096 + {split} > 0)"),
                unit="none",
                decimals=1,
                sparkline=True,
                width=6,
                height=3,
            ),
            stat(
                "Within reach of the TLB",
                "The most of the direct map that the TLB of one CPU can hold at once (filled with the largest mappings that there are), as"
                " a share of all that is present. “TLB not known”: CPUID does not say which it is, or nobody asked it then.",
                Query(f"{total(metric('direct_map_tlb_reach_bytes'))} / {total(metric('direct_map_bytes'))}"),
                unit="percentunit",
                decimals=1,
                width=6,
                height=3,
                no_value="TLB not known",
            ),
            stat(
                "Kernel's page walks",
                "Walks of page tables for data in kernel mode, a second, counted by the processor. “not counted”: as above.",
                Query(total(rate(metric("kernel_dtlb_walks_total")))),
                unit="cps",
                decimals=1,
                sparkline=True,
                width=5,
                no_value="not counted",
            ),
            stat(
                "Page tables of 4K entries",
                "One page of memory for each 2M region that is mapped by 4K entries.",
                Query(f"4096 * {split}"),
                unit="bytes",
                width=6,
                height=3,
            ),
        ],
    )


def who() -> Row:
    """Who does it?"""
    splits = metric("direct_map_splits_total")
    return Row(
        "Who does it?",
        [
            bars(
                "Splits in the time shown, by cause",
                "What made the kernel split large mappings, the six most frequent causes. “self” is uaptrace, “other” a caller outside"
                " the known list. For the process,"
                " the cgroup and the kernel stack "
                "behind a bar run `uaptrace splits` on the host: those would be too many series for Prometheus.",
                Query(f"sort_desc(topk(6, {count_of(splits, 'cause')}))", "{{cause}}", instant=True),
                unit="short",
                decimals=0,
                title_size=14,
                width=8,
            ),
            timeseries(
                "Splits per minute by cause",
                "When each cause was at work. Line it up with deployments, module loads and the annotations: the cause that rises with "
                "the orange area above is the one to fix.",
                Query(f"60 * {total(rate(splits), 'cause')}", "{{cause}}"),
                unit="cpm",
                stacked=True,
                width=12,
            ),
            stat(
                "Unexplained",
                "Splits that the kernel counted and no hook saw, in the time shown. Anything but zero means that a hook is missing or "
                "lost events: see “Can I trust these figures?”.",
                Query(count_of(metric("direct_map_unexplained_splits_total")), instant=True),
                unit="short",
                decimals=0,
                steps=ZERO_IS_GOOD,
                width=4,
            ),
            stat(
                "uaptrace's own",
                "Splits that uaptrace itself caused in the time shown, by attaching its programs and while it ran. Never counted as a "
                "finding; a handful after each start is normal.",
                Query(
                    f"{count_of(metric('direct_map_attach_splits_total'))} + {count_of(metric('direct_map_splits_total', cause='self'))}",
                    instant=True,
                ),
                unit="short",
                decimals=0,
                steps=thresholds(TEXT, (100, ORANGE)),
                width=4,
            ),
        ],
    )


def cache() -> Row:
    """Does the unmapped cache help?"""
    hits = metric("unmapped_cache_hits_total")
    requests = metric("unmapped_cache_requests_total")
    split_for_it = metric("direct_map_splits_total", cause="unmapped_alloc")
    refills = metric("unmapped_cache_refills_total")
    return Row(
        "Does the unmapped cache help?",
        [
            stat(
                "Served without a refill",
                "Share of requests in the time shown that the cache served from what it had: these split nothing. Low with many requests:"
                " the cache is drained as fast as it is filled, "
                "see the *Unmapped cache* dashboard. “no requests”: nothing on this kernel uses it, or the kernel has none.",
                Query(
                    f"{total(in_range(hits))} / ({total(in_range(requests))} > 0)",
                    instant=True,
                ),
                unit="percentunit",
                decimals=1,
                steps=thresholds(RED, (0.5, ORANGE), (0.9, GREEN)),
                no_value="no requests",
                width=4,
            ),
            timeseries(
                "Memory in the cache",
                "Memory that left the direct map through the cache: handed out to users, and free in the cache (absent and unused). "
                "Much free memory under memory pressure means that the shrinker does not do its work.",
                Query(f"4096 * {total(metric('unmapped_cache_handed_out_pages'))}", "handed out"),
                Query(f"4096 * {total(metric('unmapped_cache_cached_pages'))}", "free in the cache"),
                unit="bytes",
                stacked=True,
                width=10,
                overrides=(named_color("handed out", PURPLE), named_color("free in the cache", BLUE)),
            ),
            timeseries(
                "Requests of the cache",
                "Hits were served from the cache; refills had to take memory from the page allocator and unmap it, which is slow and may "
                "split a mapping; "
                "failures got nothing. Refills should be few and short-lived compared to hits.",
                Query(total(rate(hits)), "hits"),
                Query(total(rate(refills)), "refills"),
                Query(total(rate(metric("unmapped_cache_request_failures_total"))), "failures"),
                unit="reqps",
                width=10,
                overrides=(named_color("hits", GREEN), named_color("refills", ORANGE), named_color("failures", RED)),
            ),
            stat(
                "Requests for each split",
                "Requests that the cache served in the time shown for each large mapping that was split on its behalf. Where every "
                "request unmaps a page of "
                "its own in scattered memory this is close to 1; 512 and more means that each split mapping is used fully, and again.",
                Query(f"{total(in_range(requests))} / ({total(in_range(split_for_it))} > 0)", instant=True),
                unit="locale",
                decimals=0,
                no_value="no splits",
                width=4,
            ),
        ],
    )


def make() -> Json:
    """The dashboard."""
    return dashboard(
        UID,
        "uaptrace / Direct map",
        "One host: how fragmented its direct map is, whether that is getting worse, who does it, whether the unmapped cache helps, what "
        "is wrong, and whether the figures can be trusted. "
        "With several hosts chosen, sizes and rates are sums and states are those of the worst.",
        [fragmented(), worse(), price(), who(), cache(), wrong(), trust()],
    )
