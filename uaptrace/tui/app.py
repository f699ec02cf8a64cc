# SPDX-License-Identifier: Apache-2.0
"""``TopApp``: the screen of ``uaptrace top``, live, connected or over a recording.

It asks its feed for the newest snapshot on an interval, does no I/O itself, and draws only the view that is on top, only when
there is something new. It loads no style sheet and animates nothing, so that it is light on a slow machine.
"""

from __future__ import annotations

import signal
from typing import ClassVar, Final

from rich.text import Text
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import ContentSwitcher, Input, Static

from uaptrace.abi.errors import UaptraceError
from uaptrace.model.feed import FeedEndedError, SnapshotFeed
from uaptrace.tui.help import help_lines
from uaptrace.tui.panes import LinesScreen, MapPane, OverviewPane, Picture, TablePane, split_detail
from uaptrace.tui.styles import RICH
from uaptrace.tui.tables import PROCESSES, splits_table
from uaptrace.tui.terminal import Ending, ScreenDriver, hung_up
from uaptrace.tui.time_control import ReplayControl, parse_position
from uaptrace.views import panels, words
from uaptrace.views.rates import History

VIEWS = ("overview", "processes", "splits", "map")
_HANG_UP_S: Final = 0.5
"""How often it is looked whether the terminal is still there."""


def show(feed: SnapshotFeed, replay: ReplayControl | None = None, *, refresh_s: float) -> None:
    """Show the screen until its user leaves it. Raises what ended it; SystemExit with 128 + N after signal N."""
    app = TopApp(feed, replay, refresh_s=refresh_s)
    try:
        app.run()
    finally:
        app.ending.stop()


class TopApp(App[None]):
    """Shows the snapshots of ``feed``; ``replay`` adds the keys of time."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { layout: vertical; }
    #header, #footer { height: auto; width: 100%; }
    #waiting { height: 1fr; width: 100%; content-align: center middle; text-align: center; }
    ContentSwitcher { height: 1fr; }
    #overview, #map { height: 100%; width: 100%; scrollbar-size-vertical: 1; }
    #overview-text, #lines-text { width: auto; height: auto; }
    TablePane { height: 100%; }
    .table-title { height: auto; width: 100%; }
    TablePane Horizontal { height: 1fr; }
    DataTable { height: 1fr; scrollbar-size: 1 1; overflow-x: hidden; background: $background; }
    .table-detail { width: 1fr; height: 100%; padding: 0 0 0 1; }
    #prompt { border: none; height: 1; padding: 0 1; display: none; }
    LinesScreen { align: center middle; }
    #lines {
        width: 78; max-width: 100%; height: auto; max-height: 100%;
        border: solid $primary; padding: 0 1; background: $background; scrollbar-size-vertical: 1;
    }
    #lines.wide { width: 100%; max-width: 110; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", show=False),
        Binding("ctrl+c", "interrupt", show=False, priority=True),
        Binding("ctrl+z", "suspend_process", show=False, priority=True),
        Binding("h,question_mark", "help", show=False),
        Binding("1", "view('overview')", show=False),
        Binding("2", "view('processes')", show=False),
        Binding("3", "view('splits')", show=False),
        Binding("4", "view('map')", show=False),
        Binding("space", "pause", show=False),
        Binding("s", "sort", show=False),
        Binding("slash", "filter", show=False),
        Binding("escape", "clear", show=False),
        Binding("a", "audit", show=False),
        Binding("g", "jump", show=False),
        Binding("plus,equals_sign", "faster", show=False),
        Binding("minus", "slower", show=False),
        Binding("left", "step(-1)", show=False, priority=True),
        Binding("right", "step(1)", show=False, priority=True),
    ]

    def __init__(self, feed: SnapshotFeed, replay: ReplayControl | None = None, *, refresh_s: float = 0.5, view: str = "overview") -> None:
        """``refresh_s``: how often the feed is asked. ``view``: one of VIEWS, shown first."""
        super().__init__(driver_class=ScreenDriver)
        self.ending = Ending()
        self.animation_level = "none"
        self._feed = feed
        self._replay = replay
        self._refresh_s = refresh_s
        self._view = view
        self._history = History()
        self._picture: Picture | None = None
        self._paused = False
        self._trouble = ""
        self._prompt_for = ""
        self._header_shown = ""
        # Held, not looked up: a last tick of the timer while the screen is taken down, or one below a dialog, finds them too.
        self._top = Static(id="header")
        self._bottom = Static(id="footer")
        self._waiting = Static(id="waiting")
        self._prompt = Input(id="prompt", select_on_focus=False)
        self._panes: dict[str, OverviewPane | TablePane | MapPane] = {
            "overview": OverviewPane(id="overview"),
            "processes": TablePane(id="processes", what="Processes", rows=lambda s: s.processes, table=lambda s: PROCESSES),
            "splits": TablePane(
                id="splits", what="Splits", rows=lambda s: s.split_rows, table=lambda s: splits_table(s.start_time_ns), detail=split_detail
            ),
            "map": MapPane(id="map"),
        }
        self._switcher = ContentSwitcher(*self._panes.values(), initial=None)

    # What is on the screen

    def compose(self) -> ComposeResult:
        yield self._top
        yield self._waiting
        yield self._switcher
        yield self._prompt
        yield self._bottom

    def on_load(self) -> None:
        self.ending.watch(self.exit)

    def on_mount(self) -> None:
        self._switcher.display = False
        self._want_regions()
        self._draw_frame()
        self._poll()
        self.set_interval(self._refresh_s, self._poll)
        if not self.is_headless:
            self.set_interval(_HANG_UP_S, self._look_at_terminal)

    def on_resize(self, event: events.Resize) -> None:
        self._header_shown = ""
        self._draw_frame(width=event.size.width)

    def _look_at_terminal(self) -> None:
        if hung_up():
            self.ending.by_signal(signal.SIGHUP, self.exit)

    def _handle_exception(self, error: Exception) -> None:
        self.ending.error = self.ending.error or error
        super()._handle_exception(error)

    def _print_error_renderables(self) -> None:
        """Textual's traceback: whoever called gets the error itself (``ending``)."""
        self._exit_renderables.clear()

    # New snapshots

    def _poll(self) -> None:
        """Asks the feed; draws only what is new."""
        if not self._switcher.is_attached:
            return
        trouble = ""
        snapshot = None
        try:
            snapshot = self._feed.latest()
        except FeedEndedError:
            self.exit()
            return
        except UaptraceError as error:
            trouble = str(error)
        if self._paused and self._replay is None:
            return
        if trouble != self._trouble:
            self._trouble = trouble
        if snapshot is not None and (self._picture is None or snapshot is not self._picture.snapshot):
            rates = self._history.add(snapshot)
            self._picture = Picture(snapshot, rates, self._history.samples)
            self._draw_view()
        self._draw_frame()

    def _draw_view(self) -> None:
        if self._picture is None:
            return
        if not self._switcher.display:
            self._switcher.display = True
            self._waiting.display = False
            self._switch()
        self._pane().show(self._picture)
        for screen in self.screen_stack[1:]:
            if isinstance(screen, LinesScreen):
                screen.show(self._picture)

    def _pane(self) -> OverviewPane | TablePane | MapPane:
        return self._panes[self._view]

    def _switch(self) -> None:
        self._switcher.current = self._view
        pane = self._pane()
        (pane.data if isinstance(pane, TablePane) else pane).focus()

    def _want_regions(self) -> None:
        self._feed.want_regions(self._view == "map")

    # Header and footer

    def _draw_frame(self, width: int | None = None) -> None:
        width = width or self.size.width
        header = self._header(width)
        if header.plain != self._header_shown:
            self._header_shown = header.plain
            self._top.update(header)
            self._bottom.update(self._footer(width))
        if self._picture is None:
            text = self._trouble or f"Waiting for the first snapshot: {self._feed.waiting_for()} …"
            self._waiting.update(Text(text))

    def _header(self, width: int) -> Text:
        left = " uaptrace"
        right = ""
        out = Text(no_wrap=True, overflow="crop", end="")
        snapshot = self._picture.snapshot if self._picture else None
        if snapshot is not None:
            host = snapshot.host
            traced = words.clock((snapshot.time_ns - snapshot.start_time_ns) / 1e9)
            left += f" · {words.host(host)} · {words.kernel(host)} · traced {traced}"
            right = "EXACT" if snapshot.exactness.exact else "! INEXACT"
        if self._replay is not None:
            replay = self._replay
            state = "paused" if replay.paused else "playing"
            right = f"replay {words.clock(replay.position_s)}/{words.clock(replay.length_s)} ×{replay.speed:g} {state}  {right}"
        elif self._paused:
            right = f"PAUSED  {right}"
        left = words.shorten(left, max(9, width - len(right) - 3))
        style = "reverse" if snapshot is None or snapshot.exactness.exact else "bold reverse"
        out.append(f"{left}{right.rjust(max(0, width - len(left) - 1))} ", style)
        if snapshot is not None and not snapshot.exactness.exact:
            out.append("\n" + words.shorten(" ! " + panels.exactness_words(snapshot), width), RICH["warn"])
        if self._trouble and snapshot is not None:
            out.append("\n" + words.shorten(f" ! {self._trouble}; the last picture is shown", width), RICH["bad"])
        return out

    def _footer(self, width: int) -> Text:
        names = ("overview", "who", "splits", "map")
        out = Text(no_wrap=True, overflow="crop", end="")
        for i, (view, name) in enumerate(zip(VIEWS, names, strict=True), 1):
            here = view == self._view
            out.append(f"[{i} {name}]" if here else f" {i} {name} ", "bold reverse" if here else None)
        keys = [("h", "help"), ("q", "quit"), ("space", "pause"), ("a", "audit")]
        if self._view in ("processes", "splits"):
            keys = [("s", "sort"), ("/", "filter"), *keys]
        if self._view == "splits":
            keys = [("⏎", "stack"), *keys]
        if self._view == "map":
            keys = [("z x", "zoom"), ("n", "next"), *keys]
        if self._replay is not None:
            keys = [("←→", "step"), ("+-", "speed"), ("g", "jump"), *keys]
        out.append(" │", "dim")
        for key, what in keys:
            if len(out) + len(key) + len(what) + 2 > width:
                continue
            out.append(f" {key}", "bold")
            out.append(f" {what}", "dim")
        return out

    # Keys

    def action_interrupt(self) -> None:
        """What Ctrl-C does everywhere else; here the terminal sends no signal for it."""
        self.ending.by_signal(signal.SIGINT, self.exit)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "step":
            return self._replay is not None and not self._prompt_for and len(self.screen_stack) == 1
        return True

    def action_view(self, view: str) -> None:
        """Shows another view."""
        self._close_prompt()
        self._view = view
        self._want_regions()
        if self._picture is not None:
            self._switch()
            self._draw_view()
        self._header_shown = ""
        self._poll()  # A replay that is paused has the map of this moment at once.
        self._draw_frame()

    def action_help(self) -> None:
        """Keys and words."""
        replay = self._replay is not None
        self.push_screen(LinesScreen(lambda picture, width: help_lines(width, replay=replay), self._picture))

    def action_audit(self) -> None:
        """The invariants with the pages that break them."""
        if self._picture is not None:
            self.push_screen(LinesScreen(lambda p, width: panels.audit_detail(p.snapshot, width) if p else [], self._picture, wide=True))

    def on_table_pane_chosen(self, message: TablePane.Chosen) -> None:
        if message.pane.id == "splits" and self._picture is not None:
            row = message.row
            self.push_screen(LinesScreen(lambda p, width: split_detail(row, p.snapshot, width) if p else [], self._picture, wide=True))

    def action_pause(self) -> None:
        """Stops the picture (live), or time (replay)."""
        if self._replay is not None:
            self._replay.pause(not self._replay.paused)
        else:
            self._paused = not self._paused
        self._poll()
        self._draw_frame()

    def action_sort(self) -> None:
        """Sorts by the next column."""
        pane = self._pane()
        if isinstance(pane, TablePane):
            pane.next_sort()

    def action_filter(self) -> None:
        """Asks for a filter."""
        pane = self._pane()
        if isinstance(pane, TablePane) and self._picture is not None:
            self._open_prompt("filter", pane.pattern, "filter: words that a row must have; Enter keeps it, Esc clears it")

    def action_clear(self) -> None:
        """Closes the prompt; without one, clears the filter."""
        was = self._prompt_for
        self._close_prompt()
        pane = self._pane()
        if was != "jump" and isinstance(pane, TablePane):
            pane.set_filter("")

    def action_jump(self) -> None:
        """Asks where to jump."""
        if self._replay is not None:
            self._open_prompt("jump", "", f"jump to: 90, 1:30, 50%, +10, -10, start, end (of {words.clock(self._replay.length_s)})")

    def action_step(self, number: int) -> None:
        """One snapshot on or back."""
        if self._replay is not None:
            self._replay.step(number)
            self._poll()

    def action_faster(self) -> None:
        """Doubles the speed of the replay, or whatever its control does."""
        if self._replay is not None:
            self._replay.faster()
            self._draw_frame()

    def action_slower(self) -> None:
        """The opposite."""
        if self._replay is not None:
            self._replay.slower()
            self._draw_frame()

    def on_input_changed(self, event: Input.Changed) -> None:
        pane = self._pane()
        if self._prompt_for == "filter" and isinstance(pane, TablePane):
            pane.set_filter(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if self._prompt_for == "jump" and self._replay is not None:
            try:
                self._replay.jump(parse_position(event.value, self._replay.position_s, self._replay.length_s))
            except UaptraceError as error:
                event.input.placeholder = str(error)
                event.input.value = ""
                return
        self._close_prompt()
        self._poll()

    def _open_prompt(self, purpose: str, value: str, placeholder: str) -> None:
        self._prompt_for = purpose
        self._prompt.placeholder = placeholder
        self._prompt.value = value
        self._prompt.display = True
        self._prompt.focus()

    def _close_prompt(self) -> None:
        if not self._prompt_for:
            return
        self._prompt_for = ""
        self._prompt.display = False
        pane = self._pane()
        (pane.data if isinstance(pane, TablePane) else pane).focus()
