# SPDX-License-Identifier: Apache-2.0
"""The scrape endpoint: a Snapshot as Prometheus metrics and as JSON, over HTTP or HTTPS.

Nothing is imported here, so that a command which only wants one part does not pay for the rest:

    metrics      Snapshot -> metric families (prometheus-client)
    rendering    families -> bytes in the format that the client asked for
    negotiation  which format and encoding that is
    web_config   --web.config.file (yaml_text: its YAML)
    auth         passwords and the rate limit
    listening    sockets
    http         the server (asyncio, h11; framing: what h11 lets pass; messages: request and answer)
    server       what is answered under which path: serve(feed, listen, web_config) -> Server

docs/serving.md describes it, docs/metrics.md lists the metrics.
"""
