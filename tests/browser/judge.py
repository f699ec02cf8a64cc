# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a rendered dashboard, as sentences; an empty list is a dashboard that works."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.dashboards.queries import MAY_BE_EMPTY, variables_in


def faults(uid: str, outcome: Mapping[str, Any]) -> list[str]:
    """All that is wrong; ``outcome`` is one element of what render.mjs prints."""
    if outcome["failed"]:
        return [f"the page failed: {outcome['failed']}"]
    found = ["not everything was loaded in time"] if outcome["timedOut"] else []
    found += [f"the browser complains: {text}" for text in outcome["complaints"]]
    report = outcome["report"]
    for variable in report["variables"]:
        found += [f"variable {variable['name']}: {fault}" for fault in _variable_faults(variable)]
    for panel in report["panels"]:
        found += [f"panel {panel['title']}: {fault}" for fault in _panel_faults(uid, panel)]
    for annotation in report["annotations"]:
        if annotation["state"] != "Done" or annotation["errors"]:
            found.append(f"annotation {annotation['name']}: {annotation['state']} {annotation['errors']}")
    for query in report["queries"]:
        # Only an answer that was an error has the key.
        if "error" in query:
            found.append(f"query {query['refId']}: {query['error']}: {query['expr']}")
        if left := variables_in(query["expr"]):
            found.append(f"query {query['refId']}: no value for {sorted(left)}: {query['expr']}")
    return found


def _variable_faults(variable: Mapping[str, Any]) -> Iterator[str]:
    if variable["loading"]:
        yield "is still being loaded"
    if variable["error"]:
        yield variable["error"]
    if not variable["options"]:
        yield "has nothing to choose from"
    if variable["value"] in ("", [], None):
        yield "is empty"


def _panel_faults(uid: str, panel: Mapping[str, Any]) -> Iterator[str]:
    if not panel["known"]:
        yield f"no panel of the kind {panel['kind']}"
    if panel["state"] != "Done":
        yield f"is {panel['state']}"
    yield from panel["errors"]
    if not panel["targets"]:
        yield "asks for nothing"
    for target in panel["targets"]:
        if not target["rows"] and (uid, panel["title"], target["refId"]) not in MAY_BE_EMPTY:
            yield f"target {target['refId']} has no data ({target['frames']} frames)"
    if not panel["canvases"] and not panel["text"]:
        yield "shows nothing"
