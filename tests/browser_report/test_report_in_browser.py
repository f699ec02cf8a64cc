# SPDX-License-Identifier: Apache-2.0
"""The report in a real Chromium: it draws, reacts, asks the network for nothing, and fits the screen it is on.

Screenshots go to the folder named by UAPTRACE_SCREENSHOTS, to be looked at:

    UAPTRACE_SCREENSHOTS=/tmp/shots pytest -m browser tests/browser_report
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.archive_pieces import host_recording
from tests.unit.recording_pieces import task
from tests.unit.simulated_host import host_updates
from uaptrace.archive.days import day_rows
from uaptrace.archive.questions import Scope, ask
from uaptrace.archive.store import Archive
from uaptrace.model.updates import Records
from uaptrace.recording import RecordingWriter
from uaptrace.reports.page.archive_page import archive_page
from uaptrace.reports.page.gather import Recorded, gather
from uaptrace.reports.page.page import page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian's package chromium)")]
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright; no browser of its own)")
    with playwright.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    recorded: dict[str, Recorded] = {}
    for name, series in (("plain", False), ("series", True)):
        updates = host_updates(series=series, seconds=12)
        if series:
            # Names come from the traced host, and anyone may choose the name of a process.
            updates.insert(-1, Records(np.concatenate([task(500, b"<svg onload=a>"), task(501, b'"><script>x(')])))
        with RecordingWriter(folder / f"{name}.rec", sync=False) as writer:
            for update in updates:
                writer.write(update)
        recorded[name] = gather(folder / f"{name}.rec")
    out = {}
    for name, of in (("one", ["series"]), ("two", ["plain", "series"])):
        out[name] = folder / f"{name}.html"
        out[name].write_text(page([recorded[r] for r in of]))
    return out


class Shown:
    """A page that is open, and what it complained of and asked for."""

    def __init__(self, browser: Any, path: Path, *, scheme: str = "light", width: int = 1280, scripts: bool = True) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=scripts)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text) if message.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_load_state("networkidle")

    def __enter__(self) -> Shown:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def screenshot(self, name: str) -> None:
        folder = os.environ.get("UAPTRACE_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["one", "two"])
def test_it_draws_on_every_screen_and_asks_for_nothing(browser: Any, pages: dict[str, Path], name: str, scheme: str, width: int) -> None:
    with Shown(browser, pages[name], scheme=scheme, width=width) as shown:
        assert shown.complaints == []
        assert [url for url in shown.requests if not url.startswith(("file:", "data:"))] == []
        size = shown.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert size[0] <= size[1]
        # Every chart has more than one colour on it, which an empty canvas has not.
        colours = shown.page.evaluate(
            """[...document.querySelectorAll(".chart canvas")].map((c) => {
                const d = new Uint32Array(c.getContext("2d").getImageData(0, 0, c.width, c.height).data.buffer);
                return new Set(d).size; })"""
        )
        assert len(colours) == (4 if name == "one" else 7)
        assert min(colours) > 2
        assert shown.page.evaluate("[...document.images].every((i) => i.complete && i.naturalWidth > 1)")
        background = shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(15, 18, 22)" if scheme == "dark" else "rgb(245, 246, 248)")
        shown.screenshot(f"{name}-{scheme}-{width}")


def test_the_page_of_an_archive_draws_each_day(browser: Any, tmp_path: Path) -> None:
    """Names are those of hosts and processes, which anyone may choose."""
    archive = Archive(str(tmp_path / "archive"))
    for day in range(3):
        path = host_recording(
            tmp_path / f"{day}.rec",
            hostname="<img src=x onerror=a>",
            wall_time_s=1_750_000_000.0 + 86_400 * day,
            pause_s=600,
            boot_id=str(day),
        )
        for row in day_rows(path):
            archive.add(row)
    with archive.local(None, None) as folders:
        (tmp_path / "archive.html").write_text(archive_page(ask("archive", folders, Scope()), 10))
    for width in (390, 1280):
        with Shown(browser, tmp_path / "archive.html", width=width) as shown:
            assert shown.complaints == []
            assert [url for url in shown.requests if not url.startswith(("file:", "data:"))] == []
            size = shown.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert size[0] <= size[1]
            legends = [shown.page.locator(f"#{name} .legend .when").inner_text() for name in ("causes", "hosts")]
            assert legends == ["2025-06-17"] * 2
            assert shown.page.locator("#flame .f").count() > 5
            assert shown.page.locator("#updates .none").inner_text() == "No host changed its kernel."
            shown.screenshot(f"archive-{width}")


def test_the_legend_follows_the_pointer(browser: Any, pages: dict[str, Path]) -> None:
    with Shown(browser, pages["one"]) as shown:
        legend = shown.page.locator("#splits .legend").first
        at_the_end = legend.inner_text()
        over = shown.page.locator("#splits .u-over").first
        over.scroll_into_view_if_needed()
        over.hover(position={"x": 5, "y": 50})
        assert legend.inner_text() != at_the_end
        assert legend.locator(".when").inner_text() in ("0 s", "0.05 s", "0.1 s")


def test_a_frame_of_the_film_is_shown_large(browser: Any, pages: dict[str, Path]) -> None:
    with Shown(browser, pages["two"]) as shown:
        later = shown.page.locator(".map.later").first
        end, caption = later.locator("img").get_attribute("src"), later.locator("figcaption").inner_text()
        frames = shown.page.locator(".film").first.locator(".frame")
        assert frames.count() == 12
        frames.nth(3).click()
        assert later.locator("img").get_attribute("src") == frames.nth(3).locator("img").get_attribute("src") != end
        assert later.locator("figcaption").inner_text().startswith("at 3.")
        frames.nth(11).click()
        assert (later.locator("img").get_attribute("src"), later.locator("figcaption").inner_text()) == (end, caption)
        # The other recording's picture stays what it was.
        other = shown.page.locator(".map.later").nth(1).locator("figcaption").inner_text()
        assert other.startswith("at the end")


def test_the_map_names_what_is_under_the_pointer(browser: Any, pages: dict[str, Path]) -> None:
    with Shown(browser, pages["one"]) as shown:
        first = shown.page.locator(".map").first
        box = first.locator("img").bounding_box()
        first.locator("img").hover(position={"x": 2, "y": 2})
        assert first.locator("output").inner_text() == "0 B (pfn 0, 2M region 0): 4K mappings"
        first.locator("img").hover(position={"x": box["width"] - 3, "y": box["height"] - 3})
        assert first.locator("output").inner_text().endswith("2M region 3071): 1G mapping")


def test_a_stack_is_enlarged_and_brought_back(browser: Any, pages: dict[str, Path]) -> None:
    with Shown(browser, pages["one"]) as shown:
        frames = shown.page.locator(".flame .f")
        before = frames.count()
        shown.page.locator(".flame .f", has_text="load_module").first.click()
        assert 3 < shown.page.locator(".flame .f:not(.out)").count() < before
        widths = shown.page.evaluate("[...document.querySelectorAll('.flame .f:not(.out)')].map((f) => f.style.width)")
        assert set(widths[:3]) == {"100%"}
        frames.first.click()
        assert shown.page.locator(".flame .f:not(.out)").count() == before


def test_names_of_processes_do_nothing(browser: Any, pages: dict[str, Path]) -> None:
    with Shown(browser, pages["one"]) as shown:
        assert "<svg onload=a>" in shown.page.locator("#splits").inner_text()
        assert shown.page.locator("svg, script[src]").count() == 0
        assert shown.complaints == []


def test_without_scripts_pictures_and_tables_are_still_there(browser: Any, pages: dict[str, Path]) -> None:
    with Shown(browser, pages["two"], scripts=False) as shown:
        assert shown.page.locator(".map img").count() == 4
        assert "2M mappings split" in shown.page.locator("#differences").inner_text()
        assert shown.page.locator(".flame .f").count() > 10
        assert shown.page.locator("#flame-difference .f.more, #flame-difference .f.fewer").count() > 10
