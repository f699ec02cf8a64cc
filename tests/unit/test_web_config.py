# SPDX-License-Identifier: Apache-2.0
"""One web configuration file serves all exporters of a host; a mistake in it is one clear line."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import bcrypt
import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from uaptrace.abi.errors import UsageError
from uaptrace.exporter.web_config import ConfigWatch, load_web_config

HASH = bcrypt.hashpw(b"secret", b"$2b$04$BZfZhQp/TvOtSEIj4ubFfu").decode()
"""The same in every process: it is part of tests' names."""


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    """A folder with server.crt, server.key and ca.crt."""
    ca = trustme.CA()
    server = ca.issue_cert("localhost", "127.0.0.1")
    server.private_key_pem.write_to_path(tmp_path / "server.key")
    for i, blob in enumerate(server.cert_chain_pems):
        blob.write_to_path(tmp_path / "server.crt", append=i > 0)
    ca.cert_pem.write_to_path(tmp_path / "ca.crt")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    file = folder / "web.yml"
    file.write_text(text)
    return file


def test_everything_in_one_file(pki: Path) -> None:
    config = load_web_config(
        write(
            pki,
            f"""
tls_server_config:
  cert_file: server.crt
  key_file: server.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.crt
  client_allowed_sans: [prometheus.example]
  min_version: TLS13
  max_version: TLS13
  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_AES_128_GCM_SHA256]
  prefer_server_cipher_suites: true
  curve_preferences: [CurveP256]
http_server_config:
  http2: true
  headers:
    X-Frame-Options: deny
    X-Content-Type-Options: nosniff
    Strict-Transport-Security: max-age=3600
basic_auth_users:
  prometheus: {HASH}
rate_limit:
  interval: 1m0.5s
  burst: 20
""",
        )
    )
    assert config.tls is not None
    assert config.tls.verify_mode == ssl.CERT_REQUIRED
    assert config.tls.minimum_version == ssl.TLSVersion.TLSv1_3
    assert config.client_allowed_sans == {"prometheus.example"}
    assert dict(config.headers) == {
        "X-Frame-Options": "deny",
        "X-Content-Type-Options": "nosniff",
        "Strict-Transport-Security": "max-age=3600",
    }
    assert dict(config.users) == {"prometheus": HASH}
    assert (config.rate_limit_interval_s, config.rate_limit_burst) == (60.5, 20)
    assert config.files == tuple(pki / name for name in ("web.yml", "server.crt", "server.key", "ca.crt"))
    assert HASH not in repr(config)


def test_certificates_in_the_file_itself(pki: Path) -> None:
    def block(name: str) -> str:
        return "|\n    " + (pki / name).read_text().replace("\n", "\n    ")

    text = f"tls_server_config:\n  cert: {block('server.crt')}\n  key: {block('server.key')}\n"
    text += f"  client_ca: {block('ca.crt')}\n  client_auth_type: VerifyClientCertIfGiven\n"
    config = load_web_config(write(pki, text))
    assert config.tls is not None
    assert config.tls.verify_mode == ssl.CERT_OPTIONAL
    assert config.files == (pki / "web.yml",)


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "{}", "tls_server_config:\nbasic_auth_users:\n", "http_server_config: {headers: {X-Frame-Options: ''}}"]
)
def test_an_empty_file_changes_nothing(tmp_path: Path, text: str) -> None:
    config = load_web_config(write(tmp_path, text))
    assert (config.tls, dict(config.users), dict(config.headers), config.rate_limit_interval_s) == (None, {}, {}, 0)


def test_no_transport_security_header_without_transport_security(tmp_path: Path) -> None:
    text = "http_server_config: {headers: {Strict-Transport-Security: max-age=1}}"
    assert not load_web_config(write(tmp_path, text)).headers


SCALARS = ("1", "1234", "0x10", "0o17", "1_000", "0777", "1.5", "1e3", ".inf", ".nan", "true", "no", "2026-11-26", "2026-99-99", "-1")


@pytest.mark.parametrize("text", SCALARS)
def test_a_scalar_is_the_text_that_the_file_has(tmp_path: Path, text: str) -> None:
    """As with the exporters written in Go: what a number looks like is a name where a name is wanted."""
    document = f"http_server_config: {{headers: {{X-XSS-Protection: {text}}}}}\nbasic_auth_users:\n  {text}: {HASH}\n"
    config = load_web_config(write(tmp_path, document))
    assert dict(config.headers) == {"X-XSS-Protection": text}
    assert dict(config.users) == {text: HASH}


@pytest.mark.parametrize("text", ["null", "~", "Null"])
def test_a_null_is_a_name_and_no_value(tmp_path: Path, text: str) -> None:
    document = f"http_server_config: {{headers: {{X-XSS-Protection: {text}}}}}\nbasic_auth_users:\n  {text}: {HASH}\n"
    config = load_web_config(write(tmp_path, document))
    assert not config.headers
    assert dict(config.users) == {text: HASH}


def test_files_and_names_of_clients_may_be_numbers_too(pki: Path) -> None:
    (pki / "server.crt").rename(pki / "2026")
    (pki / "server.key").rename(pki / "1e3")
    (pki / "ca.crt").rename(pki / "true")
    tls = "cert_file: 2026, key_file: 1e3, client_auth_type: RequireAndVerifyClientCert, client_ca_file: true, client_allowed_sans: [10]"
    config = load_web_config(write(pki, f"tls_server_config: {{{tls}}}\nrate_limit: {{interval: 0, burst: 0x10}}"))
    assert config.client_allowed_sans == {"10"}
    assert config.files == tuple(pki / name for name in ("web.yml", "2026", "1e3", "true"))
    assert (config.rate_limit_interval_s, config.rate_limit_burst) == (0, 16)


TLS = "tls_server_config: {cert_file: server.crt, key_file: server.key, %s}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tls_server_confg: {}", "unknown key 'tls_server_confg'"),
        (TLS % "certfile: x", "tls_server_config: unknown key 'certfile'"),
        ("http_server_config: {http3: true}", "http_server_config: unknown key 'http3'"),
        ("http_server_config: {http2: maybe}", "http_server_config.http2: must be true or false"),
        ("http_server_config: {headers: {Server: x}}", "unknown header 'Server'"),
        ("http_server_config: {headers: {X-Frame-Options: allow}}", "X-Frame-Options: unknown value 'allow'; one of deny, sameorigin"),
        ('http_server_config: {headers: {X-XSS-Protection: "a\\r\\nSet-Cookie: b"}}', "must be a line of text"),
        ("basic_auth_users: {prometheus: secret}", "basic_auth_users.prometheus: not a bcrypt hash"),
        ("basic_auth_users: {prometheus: 12345}", "not a bcrypt hash"),
        (f"basic_auth_users: {{'a:b': {HASH}}}", "cannot be a user name"),
        (f"basic_auth_users: {{'': {HASH}}}", "cannot be a user name"),
        ("basic_auth_users: [prometheus]", "basic_auth_users: must be a table"),
        ("basic_auth_users: {1: x}", "basic_auth_users.1: not a bcrypt hash"),
        ("basic_auth_users: {[1]: x}", "found unhashable key"),
        (f"basic_auth_users: {{1234: {HASH}, '1234': {HASH}}}", "key '1234' is given twice"),
        ("http_server_config: {http2: 'true'}", "http_server_config.http2: must be true or false"),
        ("http_server_config: {headers: {X-Frame-Options: 1}}", "X-Frame-Options: unknown value '1'"),
        ("http_server_config: {headers: {X-XSS-Protection: [1]}}", "must be a line of text"),
        ("rate_limit: {burst: '3'}", "must be a whole number"),
        ("rate_limit: {interval: soon, burst: 1}", "'soon' is not a duration"),
        ("rate_limit: {interval: 1s}", "rate_limit.burst: must be at least 1"),
        ("rate_limit: {burst: -1}", "must not be negative"),
        ("rate_limit: {burst: true}", "must be a whole number"),
        ("rate_limit: {interval: 1s, burst: 1, per: host}", "unknown key 'per'"),
        ("tls_server_config: {cert_file: server.crt}", "exactly one of key and key_file"),
        ("tls_server_config: {key_file: server.key}", "exactly one of cert and cert_file"),
        (TLS % "cert: x", "exactly one of cert and cert_file"),
        ("tls_server_config: {cert_file: nowhere.crt, key_file: server.key}", "tls_server_config.cert_file: .*nowhere.crt: No such file"),
        ("tls_server_config: {cert_file: server.crt, key_file: ca.crt}", "certificate and key cannot be used"),
        ("tls_server_config: {client_auth_type: NoClientCert}", "exactly one of cert and cert_file"),
        ("tls_server_config: {cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]}", "it would have no effect"),
        (TLS % "client_auth_type: Sometimes", "client_auth_type: unknown value 'Sometimes'"),
        (TLS % "client_auth_type: RequireAnyClientCert", "checks nothing; use RequireAndVerifyClientCert"),
        (TLS % "client_ca_file: ca.crt", "a client CA needs client_auth_type"),
        (TLS % "client_allowed_sans: [a]", "needs client_auth_type: RequireAndVerifyClientCert"),
        (TLS % "client_auth_type: RequireAndVerifyClientCert, client_ca_file: server.key", "not a CA certificate"),
        (TLS % "client_auth_type: RequireAndVerifyClientCert, client_ca_file: no.crt", "No such file"),
        (TLS % "client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.crt, client_ca: x", "only one of client_ca"),
        (TLS % "min_version: TLS14", "min_version: unknown version 'TLS14'; one of TLS10, TLS11, TLS12, TLS13"),
        (TLS % "min_version: TLS13, max_version: TLS12", "min_version is above max_version"),
        (TLS % "min_version: 1.2", "min_version: unknown version '1.2'"),
        (TLS % "cipher_suites: [RC4-MD5]", "unknown cipher suite 'RC4-MD5'"),
        (TLS % "cipher_suites: [TLS_AES_128_GCM_SHA256]", "cannot be chosen"),
        (TLS % "cipher_suites: TLS_AES_128_GCM_SHA256", "must be a list of texts"),
        (TLS % "curve_preferences: [P-256]", "unknown curve 'P-256'"),
        (TLS % "curve_preferences: [CurveP384, CurveP256]", "more than one curve"),
        ("a: b: c", "line 1: mapping values are not allowed here"),
        ("basic_auth_users:\n  a: secret\n  a: secret\n", "line 3: key 'a' is given twice"),
        ("- a\n- b\n", "must be a table"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("\x00", "not YAML"),
    ],
)
def test_a_mistake_is_one_line_with_file_key_and_reason(pki: Path, text: str, message: str) -> None:
    file = write(pki, text)
    with pytest.raises(UsageError, match=message) as caught:
        load_web_config(file)
    assert caught.value.exit_status == 2
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)
    assert "secret" not in str(caught.value), "what may be a password is not repeated"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"web configuration .*none\.yml: No such file"):
        load_web_config(tmp_path / "none.yml")
    with pytest.raises(UsageError, match="Is a directory"):
        load_web_config(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not a text file"):
        load_web_config(tmp_path / "binary")


def test_a_key_with_a_pass_phrase_does_not_ask_on_the_terminal(pki: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key((pki / "server.key").read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"phrase")
    )
    (pki / "locked.key").write_bytes(locked)
    with pytest.raises(UsageError, match="pass phrase"):
        load_web_config(write(pki, "tls_server_config: {cert_file: server.crt, key_file: locked.key}"))


SECTIONS = ("tls_server_config", "http_server_config", "basic_auth_users", "rate_limit")
KEYS = st.sampled_from((*SECTIONS, "cert_file", "key_file", "client_auth_type", "headers", "interval", "burst", "x"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.integers(), inner, max_size=4),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=4) | VALUES)
def test_no_document_gives_anything_but_a_configuration_or_that_one_line(tmp_path: Path, document: object) -> None:
    import yaml

    file = write(tmp_path, yaml.safe_dump(document))
    try:
        load_web_config(file)
    except UsageError as error:
        assert "\n" not in str(error)  # noqa: PT017  # both outcomes are right


def replace_file(file: Path, text: str) -> None:
    """As certificate managers do it: a new file under the old name."""
    new = file.with_suffix(".new")
    new.write_text(text)
    os.replace(new, file)


def test_a_changed_file_is_followed_and_a_broken_one_is_not(tmp_path: Path) -> None:
    complaints: list[str] = []
    file = write(tmp_path, "http_server_config: {headers: {X-Frame-Options: deny}}")
    watch = ConfigWatch(file, complaints.append)
    first = watch.current()
    assert watch.current() is first
    replace_file(file, "http_server_config: {headers: {X-Frame-Options: sameorigin}}")
    assert watch.current().headers["X-Frame-Options"] == "sameorigin"
    replace_file(file, "nonsense: true")
    assert watch.current().headers["X-Frame-Options"] == "sameorigin"
    assert watch.current().headers["X-Frame-Options"] == "sameorigin"
    assert complaints == [f"{file}: unknown key 'nonsense'; the former configuration stays in force"]
    replace_file(file, "")
    assert not watch.current().headers


def test_a_renewed_certificate_is_taken_up(pki: Path) -> None:
    watch = ConfigWatch(write(pki, TLS % "min_version: TLS12"), pytest.fail)
    before = watch.current().tls
    renewed = trustme.CA().issue_cert("localhost")
    replace_file(pki / "server.key", renewed.private_key_pem.bytes().decode())
    (pki / "server.crt").unlink()
    renewed.cert_chain_pems[0].write_to_path(pki / "server.crt")
    assert watch.current().tls is not before


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        load_web_config("/dev/zero")
