# SPDX-License-Identifier: Apache-2.0
"""The endpoint by https: certificates of the server and of clients."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import bcrypt
import pytest
import trustme

from tests.unit.exporter_snapshots import largest_snapshot
from tests.unit.web_server import PATIENCE_S, RATIO, basic, get, raw, running, scrape_times_s, wait_until
from uaptrace.exporter.http import Limits
from uaptrace.exporter.server import Server
from uaptrace.exporter.web_config import ConfigWatch
from uaptrace.session.remote import RemoteError, RemoteFeed


class Pki:
    """A CA, a server certificate in a folder, and clients."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        server = self.ca.issue_cert("127.0.0.1", "localhost")
        server.private_key_pem.write_to_path(folder / "server.key")
        for i, blob in enumerate(server.cert_chain_pems):
            blob.write_to_path(folder / "server.crt", append=i > 0)
        self.ca.cert_pem.write_to_path(folder / "ca.crt")

    def config(self, text: str = "", tls: str = "") -> ConfigWatch:
        file = self.folder / "web.yml"
        file.write_text(f"tls_server_config: {{cert_file: server.crt, key_file: server.key, {tls}}}\n{text}")
        return ConfigWatch(file, pytest.fail)

    def client(self, name: str | None = None, ca: trustme.CA | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if name is not None:
            (ca or self.ca).issue_cert(name).configure_cert(context)
        return context


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


def test_https(pki: Pki) -> None:
    with running(largest_snapshot, web_config=pki.config()) as server:
        assert server.url.startswith("https://")
        status, _, body = get(server, tls=pki.client())
        assert status == 200
        assert b"uaptrace_state_exact" in body
        feed = RemoteFeed("127.0.0.1", server.port, tls=pki.client())
        assert feed.latest() == largest_snapshot()
        feed.close()
        with pytest.raises(RemoteError, match="CERTIFICATE_VERIFY_FAILED"):
            RemoteFeed("127.0.0.1", server.port, tls=ssl.create_default_context()).latest()


def test_the_commands_reach_a_daemon_that_is_guarded(pki: Pki) -> None:
    """``--connect https://USER@HOST:PORT`` with the password from the environment, as a person would type it."""
    users = f"basic_auth_users: {{watcher: '{bcrypt.hashpw(b'right', bcrypt.gensalt(4)).decode()}'}}"
    with running(largest_snapshot, web_config=pki.config(users)) as server:

        def connect(target: str, **environment: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "uaptrace", "splits", "--json", "--connect", target],
                env={**os.environ, "SSL_CERT_FILE": str(pki.folder / "ca.crt"), **environment},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )

        address = f"127.0.0.1:{server.port}"
        good = connect(f"https://watcher@{address}", UAPTRACE_PASSWORD="right")
        assert good.returncode == 0, good.stderr
        assert json.loads(good.stdout)["groups"]
        for target, environment, said in (
            (f"https://watcher@{address}", {"UAPTRACE_PASSWORD": "wrong"}, "requires a user name and password"),
            (f"https://{address}", {}, "requires a user name and password"),
            (f"https://watcher@{address}", {}, "set UAPTRACE_PASSWORD"),
            (f"https://watcher:right@{address}", {}, "does not belong on the command line"),
            (f"https://watcher@{address}", {"UAPTRACE_PASSWORD": "right", "SSL_CERT_FILE": os.devnull}, "CERTIFICATE_VERIFY_FAILED"),
            (f"ftp://{address}", {}, "cannot connect to"),
        ):
            done = connect(target, **environment)
            assert done.returncode != 0
            assert said in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1


def test_plain_http_to_the_https_port_is_refused_and_counted(pki: Pki) -> None:
    with running(web_config=pki.config()) as server:
        assert raw(server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")[:5] != b"HTTP/"
        wait_until(lambda: server.statistics.dropped["handshake"] == 1)
        assert get(server, "/healthz", tls=pki.client())[0] == 200


def test_minimum_version(pki: Pki) -> None:
    with running(web_config=pki.config(tls="min_version: TLS13")) as server:
        old = pki.client()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            get(server, tls=old)
        assert get(server, tls=pki.client())[0] == 200


def refused(server: Server, tls: ssl.SSLContext) -> bool:
    """Under TLS 1.3 a client learns of it only when it reads."""
    try:
        get(server, "/healthz", tls=tls)
    except (ssl.SSLError, ConnectionError, http.client.HTTPException):
        return True
    return False


def test_client_certificates(pki: Pki) -> None:
    tls = "client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.crt"
    with running(web_config=pki.config(tls=tls)) as server:
        assert refused(server, pki.client())
        assert refused(server, pki.client("prometheus.example", trustme.CA()))
        assert get(server, tls=pki.client("prometheus.example"))[0] == 200
        wait_until(lambda: server.statistics.dropped["handshake"] == 2)


def test_only_the_allowed_names_of_client_certificates(pki: Pki) -> None:
    tls = "client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.crt, client_allowed_sans: [prometheus.example, 192.0.2.7]"
    with running(web_config=pki.config(tls=tls)) as server:
        assert refused(server, pki.client("somebody.example"))
        assert get(server, tls=pki.client("prometheus.example"))[0] == 200
        assert get(server, tls=pki.client("192.0.2.7"))[0] == 200


def test_handshakes_that_never_end_do_not_slow_a_scrape(pki: Pki) -> None:
    with running(largest_snapshot, web_config=pki.config()) as server:
        client = pki.client()
        usual_s = scrape_times_s(lambda: get(server, tls=client), 20)
        stalled = []
        try:
            for i in range(60):
                connection = socket.create_connection(("127.0.0.1", server.port), PATIENCE_S)
                # Nothing at all, or the first bytes of a ClientHello.
                connection.sendall(b"\x16\x03\x01\x02\x00\x01"[: i % 7])
                stalled.append(connection)
            crowded_s = scrape_times_s(lambda: get(server, tls=client), 20)
        finally:
            for connection in stalled:
                connection.close()
        assert crowded_s < RATIO * usual_s


def test_a_handshake_has_a_deadline_and_leaves_nothing_behind(pki: Pki) -> None:
    with running(web_config=pki.config(), limits=Limits(handshake_s=0.1)) as server:
        before = len(os.listdir("/proc/self/fd"))
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as stalled:
            assert stalled.recv(1) == b""
        wait_until(lambda: server.statistics.dropped["handshake"] == 1)
        assert server.statistics.connections == 0
        wait_until(lambda: len(os.listdir("/proc/self/fd")) == before)


def test_handshakes_over_the_limit_make_room(pki: Pki) -> None:
    with running(web_config=pki.config(), limits=Limits(connections=8)) as server:
        before = len(os.listdir("/proc/self/fd"))
        stalled = [socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) for _ in range(40)]
        assert get(server, tls=pki.client())[0] == 200
        assert server.statistics.connections <= 8
        for connection in stalled:
            connection.close()
        wait_until(lambda: server.statistics.connections == 0)
        wait_until(lambda: len(os.listdir("/proc/self/fd")) == before)


def test_a_changed_password_takes_effect_at_once(pki: Pki) -> None:
    def users(password: bytes) -> str:
        return f"basic_auth_users: {{a: {bcrypt.hashpw(password, bcrypt.gensalt(4)).decode()}}}"

    with running(web_config=pki.config(users(b"one"))) as server:
        assert get(server, tls=pki.client(), Authorization=basic("a", "one"))[0] == 200
        pki.config(users(b"two"))
        assert get(server, tls=pki.client(), Authorization=basic("a", "one"))[0] == 401
        assert get(server, tls=pki.client(), Authorization=basic("a", "two"))[0] == 200
