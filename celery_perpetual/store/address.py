"""Where a store lives: URLs in every form that kombu takes, as one comparable value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kombu.utils.imports import symbol_by_name
from kombu.utils.url import parse_ssl_cert_reqs, sanitize_url, url_to_parts
from redis import CredentialProvider

from celery_perpetual.errors import SettingsError

REDIS_SCHEMES = ("redis", "rediss", "redis+socket", "unix", "socket", "sentinel")


#: The options that may stand in the query of a URL, besides those of TLS.
QUERY = ("db", "virtual_host", "credential_provider")


@dataclass(frozen=True, slots=True)
class Address:
    """A Redis database. Two addresses are equal when they name the same server and database."""

    kind: str
    """``tcp``, ``socket`` or ``sentinel``."""
    place: tuple[Any, ...]
    """``(host, port)``, ``(path,)``, or ``(master name, (host, port), …)``."""
    db: int
    login: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """User, password and TLS options, as redis-py takes them."""
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """Sentinel's own options."""


def is_redis(url: str | None) -> bool:
    """Whether the URL names a Redis server."""
    scheme, separator, _ = str(url or "").partition("://")
    return bool(separator) and scheme in REDIS_SCHEMES


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    try:
        return ";".join(_part_without_password(part) for part in url.split(";"))
    except ValueError:
        return f"{url.split('://', 1)[0]}://(cannot be read)"


def _part_without_password(part: str) -> str:
    if "://" in part:
        return sanitize_url(part)
    _, at, place = part.rpartition("@")  # kombu would read it as a scheme and a path, and show neither
    return f"**@{place}" if at else part


def address(url: str, transport_options: Mapping[str, Any] | None = None, ssl: Any = None) -> Address:
    """Read a Redis URL.

    Args:
        url: ``redis://``, ``rediss://``, ``redis+socket://``, ``unix://`` or ``sentinel://a;sentinel://b``.
        transport_options: kombu's, for ``master_name`` and ``sentinel_kwargs``.
        ssl: ``broker_use_ssl`` or ``redis_backend_use_ssl``.

    Raises:
        SettingsError: the URL does not name a Redis database.
    """
    if url != url.strip():
        raise SettingsError(f"store URL {without_password(url.strip())} begins or ends with white space; remove it")
    if not is_redis(url):
        known = ", ".join(f"{scheme}://" for scheme in REDIS_SCHEMES)
        raise SettingsError(
            f"store URL {without_password(url)} is not a Redis URL; it must begin with one of {known}, "
            "also where the server is Valkey"
        )
    try:
        parts = [url_to_parts(part) for part in url.split(";") if part]
    except ValueError:  # its text may hold the password
        raise SettingsError(
            "the store URL (perpetual_store_url or broker_url) cannot be parsed; write special characters of the "
            "user and the password percent-encoded, and a number for the port"
        ) from None
    first, query = parts[0], dict(parts[0].query)
    _must_be_known(url, query)
    login = {**_identity(url, first, query), **_tls(url, first.scheme, query, ssl)}
    login = {name: value for name, value in login.items() if value is not None}
    if first.scheme in ("redis", "rediss"):
        db = _db(url, query.get("db") or first.path)
        return Address("tcp", (_host(first.hostname), first.port or 6379), db, login)
    if first.scheme == "sentinel":
        return _sentinel(url, parts, transport_options or {}, login)
    path = "/" + "/".join(part for part in (first.hostname, first.path) if part).lstrip("/")
    return Address("socket", (path,), _db(url, query.get("virtual_host") or query.get("db")), login)


def _sentinel(url: str, parts: Sequence[Any], options: Mapping[str, Any], login: Mapping[str, Any]) -> Address:
    master = options.get("master_name")
    if not master:
        raise SettingsError(
            f"store URL {without_password(url)} needs the name of the master: "
            "set broker_transport_options = {'master_name': …}"
        )
    nodes = tuple((_host(part.hostname), part.port or 26379) for part in parts)
    db = next((part.path for part in reversed(parts) if part.path), None)
    return Address("sentinel", (master, *nodes), _db(url, db), login, options.get("sentinel_kwargs") or {})


def _must_be_known(url: str, query: Mapping[str, str]) -> None:
    """An option that is passed over would be a connection other than the one that was asked for."""
    unknown = [name for name in query if name not in QUERY and not name.startswith("ssl_")]
    if unknown:
        raise SettingsError(
            f"store URL {without_password(url)} has the option {', '.join(unknown)}, which celery-perpetual does not "
            f"know; it knows {', '.join(QUERY)} and ssl_…; name the store without it in perpetual_store_url"
        )


def _identity(url: str, first: Any, query: Mapping[str, str]) -> dict[str, Any]:
    """User and password, or what provides them."""
    name = query.get("credential_provider")
    if not name:
        return {"username": first.username, "password": first.password}
    try:
        provider = symbol_by_name(name)()
    except Exception as error:
        raise SettingsError(
            f"store URL {without_password(url)} names the credential provider {name!r}, which cannot be made: {error}"
        ) from error
    if not isinstance(provider, CredentialProvider):
        raise SettingsError(
            f"store URL {without_password(url)} names the credential provider {name!r}, which is no "
            "redis.CredentialProvider"
        )
    return {"credential_provider": provider}


def _host(name: str | None) -> str:
    return "127.0.0.1" if name in (None, "", "localhost") else str(name)


def _db(url: str, path: str | None) -> int:
    text = (path or "0").strip("/") or "0"
    if not text.isdigit():
        raise SettingsError(
            f"store URL {without_password(url)} must name a database number, got {text!r}; end it with /0 for example"
        )
    return int(text)


def _tls(url: str, scheme: str, query: Mapping[str, str], ssl: Any) -> dict[str, Any]:
    options = dict(ssl) if isinstance(ssl, Mapping) else {}
    for name, value in query.items():
        if name == "ssl_cert_reqs":
            try:
                options[name] = parse_ssl_cert_reqs(value)
            except KeyError:
                raise SettingsError(
                    f"store URL {without_password(url)} has ssl_cert_reqs={value}; write required, optional or none"
                ) from None
        elif name == "ssl_check_hostname":
            options[name] = value.lower() != "false"
        elif name.startswith("ssl_"):
            options[name] = value
    return {"ssl": True, **options} if scheme == "rediss" or options or ssl else {}
