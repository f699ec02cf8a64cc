# SPDX-License-Identifier: Apache-2.0
"""The file of ``--web.config.file``: TLS, client certificates, passwords, headers and a rate limit.

The format is the one that Prometheus and its exporters share (exporter-toolkit, docs/web-configuration.md), so one
file serves all exporters of a host. docs/serving.md says where this implementation differs.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

from uaptrace.abi.errors import UsageError
from uaptrace.exporter.tls_names import _TLS13CIPHERS, CIPHERS, CLIENT_AUTH, CURVES, UNVERIFIED_CLIENT_AUTH, VERSIONS
from uaptrace.exporter.yaml_text import NotYamlError, Scalar, one_line, parse_yaml

T = TypeVar("T")

_TLS: Final = "tls_server_config"

_HEADERS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "Content-Security-Policy": (),
        "X-Frame-Options": ("deny", "sameorigin"),
        "X-Content-Type-Options": ("nosniff",),
        "X-XSS-Protection": (),
        "Strict-Transport-Security": (),
    }
)
_BCRYPT: Final = re.compile(r"\$2[abxy]?\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}")
_DURATION: Final = re.compile(r"(?:(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))")
_MAX_FILE_BYTES: Final = 1 << 20
_UNIT_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class WebConfig:
    """What the file says, checked: every part of it can be put to use."""

    tls: ssl.SSLContext | None = None
    client_allowed_sans: frozenset[str] = frozenset()
    """Where not empty, a client's certificate must have one of these as a subject alternative name."""
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    users: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    """bcrypt hashes by user name; empty: no password is asked for."""
    rate_limit_interval_s: float = 0.0
    """Time in which one more request is allowed; 0: no limit."""
    rate_limit_burst: int = 0
    files: tuple[Path, ...] = ()
    """The configuration file and all that it names: when one of them changes, it is read again."""


def load_web_config(path: str | os.PathLike[str]) -> WebConfig:
    """Read and check a web configuration file. Raises UsageError with the file, the key and what is wrong with it."""
    file = Path(path)
    text = _read(file, str(file), "web configuration")
    try:
        document = parse_yaml(text)
    except NotYamlError as error:
        raise UsageError(f"{file}: {error}") from None
    return _Reader(file).config({} if document is None else document)


class ConfigWatch:
    """A web configuration that follows its files: a renewed certificate or a new password needs no restart.

    ``current()`` is called for each connection. A change that cannot be used leaves the last good configuration in
    force and is told to ``complain`` once.
    """

    def __init__(self, path: str | os.PathLike[str], complain: Callable[[str], None]) -> None:
        self._path = Path(path)
        self._complain = complain
        self._config = load_web_config(path)
        self._seen = _identities(self._config.files)

    def current(self) -> WebConfig:
        """The configuration as the files say now, or the last one that could be used."""
        seen = _identities(self._config.files)
        if seen != self._seen:
            self._seen = seen
            try:
                self._config = load_web_config(self._path)
                self._seen = _identities(self._config.files)
            except UsageError as error:
                self._complain(f"{error}; the former configuration stays in force")
        return self._config


@dataclass(frozen=True, slots=True)
class _TlsKeys:
    """The keys of tls_server_config, each checked by itself; empty where it is not given."""

    certificate: str
    certificate_file: str
    key: str
    key_file: str
    client_ca: str
    client_ca_file: str
    client_auth: str
    sans: frozenset[str]
    minimum: ssl.TLSVersion
    maximum: ssl.TLSVersion
    ciphers: list[str]
    server_order: bool
    curves: list[str]

    @property
    def switches_tls_on(self) -> bool:
        files = (self.certificate, self.certificate_file, self.key, self.key_file, self.client_ca, self.client_ca_file)
        return any(files) or bool(self.client_auth)


class _Reader:
    """One file being checked; knows its name and folder for messages and relative paths."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._files = [file]

    def config(self, document: object) -> WebConfig:
        top = self._table(document, "")
        tls_table = top.pop(_TLS, None)
        http_table = top.pop("http_server_config", None)
        users_table = top.pop("basic_auth_users", None)
        rate_table = top.pop("rate_limit", None)
        self._nothing_left(top, "")
        context, sans = self._tls(self._table(tls_table, _TLS))
        interval_s, burst = self._rate_limit(self._table(rate_table, "rate_limit"))
        return WebConfig(
            tls=context,
            client_allowed_sans=sans,
            headers=self._http(self._table(http_table, "http_server_config"), context is not None),
            users=self._users(self._table(users_table, "basic_auth_users")),
            rate_limit_interval_s=interval_s,
            rate_limit_burst=burst,
            files=tuple(self._files),
        )

    def _tls(self, table: dict[str, Any]) -> tuple[ssl.SSLContext | None, frozenset[str]]:
        keys = self._tls_keys(table)
        if not keys.switches_tls_on:
            # As with the toolkit: the other keys alone do not switch TLS on.
            if keys.sans or keys.ciphers or keys.curves:
                raise self._error(_TLS, "there is no cert_file and key_file, so it would have no effect")
            return None, frozenset()
        self._check_files(keys)
        verify = self._client_verification(keys)
        if keys.minimum > keys.maximum:
            raise self._error(_TLS, "min_version is above max_version")
        return self._context(keys, verify), keys.sans

    def _tls_keys(self, table: dict[str, Any]) -> _TlsKeys:
        def text(name: str) -> str:
            return str(self._take(table, _TLS, name, str, ""))

        keys = _TlsKeys(
            certificate=text("cert"),
            certificate_file=text("cert_file"),
            key=text("key"),
            key_file=text("key_file"),
            client_ca=text("client_ca"),
            client_ca_file=text("client_ca_file"),
            client_auth=text("client_auth_type"),
            sans=frozenset(self._strings(table, _TLS, "client_allowed_sans")),
            minimum=self._version(table, "min_version", "TLS12"),
            maximum=self._version(table, "max_version", "TLS13"),
            ciphers=self._strings(table, _TLS, "cipher_suites"),
            server_order=bool(self._take(table, _TLS, "prefer_server_cipher_suites", bool, True)),
            curves=self._strings(table, _TLS, "curve_preferences"),
        )
        self._nothing_left(table, _TLS)
        return keys

    def _check_files(self, keys: _TlsKeys) -> None:
        for name, inline, file in (("cert", keys.certificate, keys.certificate_file), ("key", keys.key, keys.key_file)):
            if bool(inline) == bool(file):
                raise self._error(_TLS, f"exactly one of {name} and {name}_file is needed")
        if keys.client_ca and keys.client_ca_file:
            raise self._error(_TLS, "only one of client_ca and client_ca_file can be given")

    def _client_verification(self, keys: _TlsKeys) -> ssl.VerifyMode:
        where = f"{_TLS}.client_auth_type"
        if keys.client_auth in UNVERIFIED_CLIENT_AUTH:
            raise self._error(where, f"{keys.client_auth} checks nothing; use RequireAndVerifyClientCert")
        if keys.client_auth not in CLIENT_AUTH:
            known = ", ".join(name for name in CLIENT_AUTH if name)
            raise self._error(where, f"unknown value {keys.client_auth!r}; one of {known}")
        verify = CLIENT_AUTH[keys.client_auth]
        if (keys.client_ca or keys.client_ca_file) and verify == ssl.CERT_NONE:
            raise self._error(_TLS, "a client CA needs client_auth_type: RequireAndVerifyClientCert")
        if keys.sans and verify != ssl.CERT_REQUIRED:
            raise self._error(f"{_TLS}.client_allowed_sans", "needs client_auth_type: RequireAndVerifyClientCert")
        return verify

    def _context(self, keys: _TlsKeys, verify: ssl.VerifyMode) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version, context.maximum_version = keys.minimum, keys.maximum
        context.set_alpn_protocols(["http/1.1"])
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        if keys.server_order:
            context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
        else:
            context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
        self._load_certificate(context, keys.certificate, keys.certificate_file, keys.key, keys.key_file)
        if verify != ssl.CERT_NONE:
            self._load_client_ca(context, keys.client_ca, keys.client_ca_file)
            context.verify_mode = verify
        if keys.ciphers:
            self._set_ciphers(context, keys.ciphers)
        if keys.curves:
            self._set_curves(context, keys.curves)
        return context

    def _load_certificate(self, context: ssl.SSLContext, certificate: str, certificate_file: str, key: str, key_file: str) -> None:
        where = _TLS
        for name, text in (("cert_file", certificate_file), ("key_file", key_file)):
            if text:
                file = self._path(text)
                _read(file, f"{self._file}: {where}.{name}: {file}", "")
                self._files.append(file)
        # OpenSSL takes files only; what is written in the configuration itself goes through memory.
        with _MemoryFile(certificate) as certificate_in_memory, _MemoryFile(key) as key_in_memory:
            certificate_path = certificate_in_memory or self._path(certificate_file)
            key_path = key_in_memory or self._path(key_file)
            try:
                # A key with a pass phrase would make OpenSSL ask on the terminal.
                context.load_cert_chain(certificate_path, key_path, password=_no_pass_phrase)
            except (ssl.SSLError, OSError, ValueError) as error:
                raise self._error(where, f"certificate and key cannot be used: {one_line(error)}") from None

    def _load_client_ca(self, context: ssl.SSLContext, client_ca: str, client_ca_file: str) -> None:
        where = f"{_TLS}.client_ca"
        if not client_ca and not client_ca_file:
            context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
            return
        if client_ca_file:
            file = self._path(client_ca_file)
            client_ca = _read(file, f"{self._file}: {where}_file: {file}", "")
            self._files.append(file)
        try:
            context.load_verify_locations(cadata=client_ca)
        except (ssl.SSLError, ValueError) as error:
            raise self._error(where, f"not a CA certificate in PEM form: {one_line(error)}") from None

    def _set_ciphers(self, context: ssl.SSLContext, names: list[str]) -> None:
        where = f"{_TLS}.cipher_suites"
        for name in names:
            if name not in CIPHERS and name not in _TLS13CIPHERS:
                raise self._error(where, f"unknown cipher suite {name!r}")
        chosen = [CIPHERS[name] for name in names if name in CIPHERS]
        if not chosen:
            if context.minimum_version < ssl.TLSVersion.TLSv1_3:
                raise self._error(where, "only TLS 1.3 suites, which cannot be chosen; set min_version: TLS13 instead")
            return
        try:
            context.set_ciphers(":".join(chosen))
        except ssl.SSLError as error:
            raise self._error(where, f"none of them is in this OpenSSL: {one_line(error)}") from None

    def _set_curves(self, context: ssl.SSLContext, names: list[str]) -> None:
        where = f"{_TLS}.curve_preferences"
        for name in names:
            if name not in CURVES:
                raise self._error(where, f"unknown curve {name!r}; one of {', '.join(CURVES)}")
        if len(names) > 1:
            raise self._error(where, "more than one curve cannot be set with this Python; give one, or none for OpenSSL's own order")
        try:
            context.set_ecdh_curve(CURVES[names[0]])
        except (ssl.SSLError, ValueError) as error:
            raise self._error(where, f"{names[0]} cannot be set with this Python ({one_line(error)}); leave it out") from None

    def _version(self, table: dict[str, Any], name: str, default: str) -> ssl.TLSVersion:
        text = self._take(table, _TLS, name, str, default)
        if text not in VERSIONS:
            raise self._error(f"{_TLS}.{name}", f"unknown version {text!r}; one of {', '.join(VERSIONS)}")
        return VERSIONS[text]

    def _http(self, table: dict[str, Any], has_tls: bool) -> Mapping[str, str]:
        where = "http_server_config"
        # The endpoint speaks HTTP/1.1, which a client that was offered HTTP/2 falls back to: nothing to set.
        self._take(table, where, "http2", bool, True)
        headers = self._table(table.pop("headers", None), f"{where}.headers")
        self._nothing_left(table, where)
        kept: dict[str, str] = {}
        for name, value in headers.items():
            if name not in _HEADERS:
                raise self._error(f"{where}.headers", f"unknown header {name!r}; one of {', '.join(_HEADERS)}")
            if value is None:
                continue
            if not isinstance(value, str) or not value.isascii() or not value.isprintable():
                raise self._error(f"{where}.headers.{name}", "must be a line of text")
            if value and _HEADERS[name] and value.lower() not in _HEADERS[name]:
                raise self._error(f"{where}.headers.{name}", f"unknown value {value!r}; one of {', '.join(_HEADERS[name])}")
            if value and (has_tls or name != "Strict-Transport-Security"):
                kept[name] = value
        return MappingProxyType(kept)

    def _users(self, table: dict[str, Any]) -> Mapping[str, str]:
        for name, value in table.items():
            if not name or ":" in name:
                raise self._error("basic_auth_users", f"{str(name)!r} cannot be a user name: it is empty or has a colon")
            if not isinstance(value, str) or not _BCRYPT.fullmatch(value):
                # The value is not repeated: it may be a password by mistake.
                raise self._error(f"basic_auth_users.{name}", "not a bcrypt hash; make one with: htpasswd -nBC 10 NAME")
        if table:
            try:
                import bcrypt  # noqa: F401  # only to say now, not at the first request, that it is missing
            except ImportError:
                raise self._error("basic_auth_users", "needs the Python package bcrypt: pip install bcrypt") from None
        return MappingProxyType(dict(table))

    def _rate_limit(self, table: dict[str, Any]) -> tuple[float, int]:
        where = "rate_limit"
        interval = table.pop("interval", "0")
        burst = self._take(table, where, "burst", int, 0)
        self._nothing_left(table, where)
        interval_s = 0.0
        text = str(interval)
        if text != "0":
            parts = _DURATION.findall(text)
            if "".join(number + unit for number, unit in parts) != text or not parts:
                raise self._error(f"{where}.interval", f"{text!r} is not a duration such as 100ms or 1s")
            interval_s = sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)
        if burst < 0:
            raise self._error(f"{where}.burst", "must not be negative")
        if interval_s and burst == 0:
            raise self._error(f"{where}.burst", "must be at least 1: with 0 no request would ever be answered")
        return interval_s, burst

    def _path(self, text: str) -> Path:
        """A path as the file says it: relative to the file's own folder."""
        return self._file.parent / text

    def _table(self, value: object, where: str) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._error(where, "must be a table of keys and values")
        for key in value:
            if not isinstance(key, str):
                raise self._error(where, f"key {key!r} must be text; put it in quotes")
        return dict(value)

    def _take(self, table: dict[str, Any], where: str, name: str, kind: type[T], default: T) -> T:
        value = table.pop(name, None)
        if value is None:
            return default
        if kind is not str and isinstance(value, Scalar):
            value = value.value
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            names = {str: "text", bool: "true or false", int: "a whole number"}
            raise self._error(f"{where}.{name}", f"must be {names[kind]}")
        return value

    def _strings(self, table: dict[str, Any], where: str, name: str) -> list[str]:
        value = table.pop(name, None)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._error(f"{where}.{name}", "must be a list of texts")
        return list(value)

    def _nothing_left(self, table: dict[str, Any], where: str) -> None:
        if table:
            raise self._error(where, f"unknown key {next(iter(table))!r}")

    def _error(self, where: str, what: str) -> UsageError:
        return UsageError(f"{self._file}: {where}: {what}" if where else f"{self._file}: {what}")


class _MemoryFile:
    """Text under a path that no one else can read and that leaves nothing behind; the empty text has no path."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._fd = -1

    def __enter__(self) -> str | None:
        if not self._text:
            return None
        self._fd = os.memfd_create("uaptrace-tls", os.MFD_CLOEXEC)
        with open(self._fd, "w", closefd=False) as file:
            file.write(self._text)
        return f"/proc/self/fd/{self._fd}"

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def _no_pass_phrase() -> str:
    raise ValueError("the key has a pass phrase; give one without")


def _read(file: Path, subject: str, what: str) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(_MAX_FILE_BYTES + 1)
        if len(content) > _MAX_FILE_BYTES:
            raise UsageError(f"{what + ' ' if what else ''}{subject}: larger than {_MAX_FILE_BYTES >> 20} MiB, which no such file is")
        return content.decode()
    except OSError as error:
        raise UsageError(f"{what + ' ' if what else ''}{subject}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{what + ' ' if what else ''}{subject}: not a text file") from None


def _identities(files: tuple[Path, ...]) -> tuple[tuple[int, int, int] | None, ...]:
    """What changes when a file is written or replaced (inode, size, time of change); None where it is missing."""

    def identity(file: Path) -> tuple[int, int, int] | None:
        try:
            found = file.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    return tuple(identity(file) for file in files)
