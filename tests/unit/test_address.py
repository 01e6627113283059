"""Where the store is: every form of URL, and no password in sight."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from celery import Celery
from redis import CredentialProvider

from celery_perpetual.errors import SettingsError
from celery_perpetual.settings import Settings
from celery_perpetual.store.address import address, is_redis, without_password
from celery_perpetual.store.connection import Store

SECRET = "s3cret"
MASTER = {"master_name": "main"}

PLACES = [
    ("redis://", "tcp", ("127.0.0.1", 6379), 0),
    ("redis:///", "tcp", ("127.0.0.1", 6379), 0),
    ("redis://localhost", "tcp", ("127.0.0.1", 6379), 0),
    ("redis://localhost:6380/3", "tcp", ("127.0.0.1", 6380), 3),
    ("redis://Cache.Example.org/1", "tcp", ("cache.example.org", 6379), 1),
    ("redis://cache/1/", "tcp", ("cache", 6379), 1),
    ("redis://[::1]:6380/2", "tcp", ("::1", 6380), 2),
    ("rediss://cache:6380/1", "tcp", ("cache", 6380), 1),
    ("redis+socket:///run/redis.sock", "socket", ("/run/redis.sock",), 0),
    ("redis+socket:///run/redis.sock?virtual_host=3", "socket", ("/run/redis.sock",), 3),
    ("redis+socket:///run/with%20space.sock", "socket", ("/run/with space.sock",), 0),
    ("unix:///run/redis.sock", "socket", ("/run/redis.sock",), 0),
    ("unix:///run/redis.sock?db=2", "socket", ("/run/redis.sock",), 2),
    ("socket:///run/redis.sock?virtual_host=1", "socket", ("/run/redis.sock",), 1),
    ("sentinel://a:26380/2", "sentinel", ("main", ("a", 26380)), 2),
    ("sentinel://a;sentinel://localhost:26380", "sentinel", ("main", ("a", 26379), ("127.0.0.1", 26380)), 0),
    ("sentinel://a:1;sentinel://b:2/3", "sentinel", ("main", ("a", 1), ("b", 2)), 3),
    ("sentinel://a:1;sentinel://b:2/3;", "sentinel", ("main", ("a", 1), ("b", 2)), 3),
]


@pytest.mark.parametrize(("url", "kind", "place", "db"), PLACES)
def test_every_form_of_url_is_read(url: str, kind: str, place: tuple[Any, ...], db: int) -> None:
    """Each form that Celery and Kombu take names the same server for us."""
    found = address(url, MASTER)

    assert (found.kind, found.place, found.db) == (kind, place, db)


@pytest.mark.parametrize(
    ("url", "login"),
    [
        (f"redis://:{SECRET}@cache", {"password": SECRET}),
        (f"redis://me:{SECRET}@cache", {"username": "me", "password": SECRET}),
        ("redis://:a%2Fb%40c@cache", {"password": "a/b@c"}),
        ("redis://me@cache", {"username": "me"}),
        (f"unix://:{SECRET}@/run/redis.sock", {"password": SECRET}),
        (f"redis+socket://me:{SECRET}@/run/redis.sock", {"username": "me", "password": SECRET}),
        (f"sentinel://:{SECRET}@a;sentinel://b", {"password": SECRET}),
    ],
)
def test_user_and_password_are_read(url: str, login: dict[str, str]) -> None:
    """User and password come from the URL, percent-decoded."""
    assert address(url, MASTER).login == login


@pytest.mark.parametrize(
    ("url", "given", "login"),
    [
        ("rediss://cache", None, {"ssl": True}),
        ("rediss://cache?ssl_cert_reqs=none", None, {"ssl": True, "ssl_cert_reqs": ssl.CERT_NONE}),
        (
            "rediss://cache?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs=/etc/ca.pem",
            None,
            {"ssl": True, "ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/etc/ca.pem"},
        ),
        ("rediss://cache?ssl_check_hostname=false", None, {"ssl": True, "ssl_check_hostname": False}),
        ("redis://cache", {"ssl_cert_reqs": ssl.CERT_NONE}, {"ssl": True, "ssl_cert_reqs": ssl.CERT_NONE}),
        ("redis://cache", True, {"ssl": True}),
    ],
)
def test_tls_is_read_from_url_and_configuration(url: str, given: Any, login: dict[str, Any]) -> None:
    """TLS comes from ``rediss``, from the URL's query or from ``broker_use_ssl``."""
    assert address(url, None, given).login == login


def test_sentinel_needs_the_name_of_its_master() -> None:
    """Without ``master_name`` a Sentinel URL is refused, with what to set."""
    with pytest.raises(SettingsError, match=r"needs the name of the master: set broker_transport_options"):
        address("sentinel://a;sentinel://b")


def test_sentinel_has_options_of_its_own() -> None:
    """Password and the like of the Sentinels themselves come from Kombu's ``sentinel_kwargs``."""
    found = address("sentinel://a", {**MASTER, "sentinel_kwargs": {"password": SECRET}})

    assert found.extra == {"password": SECRET}
    assert found.login == {}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("redis://", "redis://localhost:6379/0"),
        (f"redis://:{SECRET}@cache", "redis://cache"),
        ("redis://cache", "rediss://CACHE:6379/0"),
        ("unix:///run/redis.sock?db=1", "redis+socket:///run/redis.sock?virtual_host=1"),
        (f"sentinel://:{SECRET}@a", "sentinel://a:26379/0"),
    ],
)
def test_addresses_of_one_database_are_equal(one: str, other: str) -> None:
    """Two URLs of the same server and database are the same Redis, whatever the login."""
    assert address(one, MASTER) == address(other, MASTER)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("redis://cache/0", "redis://cache/1"),
        ("redis://cache:1", "redis://cache:2"),
        ("redis://a", "redis://b"),
        ("unix:///run/a.sock", "unix:///run/b.sock"),
        ("sentinel://a", "redis://a:26379"),
    ],
)
def test_addresses_of_two_databases_differ(one: str, other: str) -> None:
    """Another server, port, socket or database number is another Redis."""
    assert address(one, MASTER) != address(other, MASTER)


@pytest.mark.parametrize("url", [None, "", "amqp://cache", "memory://", "redislike://cache", "redis", "sqs://"])
def test_other_brokers_are_no_redis(url: str | None) -> None:
    """Only Redis schemes count as Redis."""
    assert not is_redis(url)


@pytest.mark.parametrize("url", ["redis://cache/first", "redis://cache/-1", "redis://cache/1/2", "unix:///run/a?db=x"])
def test_a_database_is_a_number(url: str) -> None:
    """A database that is no number is refused."""
    with pytest.raises(SettingsError, match=r"must name a database number, got"):
        address(url)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("amqp://cache", r"is not a Redis URL; it must begin with one of redis://, rediss://, redis\+socket://, unix://"),
        ("valkey://cache", "must begin with one of redis://, .*, also where the server is Valkey"),
        (" redis://cache/1", "store URL redis://cache/1 begins or ends with white space"),
        ("rediss://cache/1?ssl_cert_reqs=never", "has ssl_cert_reqs=never; write required, optional or none"),
        # Passed over in silence, the store would be reached in another way than the broker.
        ("redis://:secret@cache/1?health_check_interval=5&ssl_cert_reqs=none", "the option health_check_interval, which"),
    ],
)  # fmt: skip
def test_what_cannot_name_a_store_is_refused(url: str, says: str) -> None:
    """With what is wrong, and with what would be right."""
    with pytest.raises(SettingsError, match=says):
        address(url)


@pytest.mark.parametrize("url", ["redis://cache?db=3", "redis://cache/1?db=3", "rediss://cache/?db=3"])
def test_a_database_in_the_query_is_not_overlooked(url: str) -> None:
    """The database number in redis-py's other notation is honoured or refused, never silently another database."""
    try:
        found = address(url)
    except SettingsError:
        return
    assert found.db == 3


BROKEN = [
    "redis://:{}@cache:not-a-port/0",
    "redis://:{}@cache:99999/0",
    "redis://:{}@[::1/0",
    # Characters that must be percent-encoded in a URL and often are not.
    "redis://:{}/x@cache/0",
    "redis://:{}#x@cache/0",
    "redis://:{}?x@cache/0",
    "sentinel://:{}@a:x;sentinel://b",
]


@pytest.mark.parametrize("form", BROKEN)
def test_a_broken_url_is_refused_without_its_password(form: str) -> None:
    """A URL that cannot be taken apart is a wrong setting, and the refusal shows nothing of the password."""
    with pytest.raises(SettingsError) as seen:
        address(form.format(SECRET), MASTER)

    assert SECRET not in str(seen.value)


WITH_PASSWORD = [
    "redis://:{}@cache:6380/1",
    "redis://me:{}@cache",
    "rediss://:{}@cache?ssl_cert_reqs=none",
    "rediss://cache?ssl_password={}",
    "redis://cache?password={}",
    "unix://:{}@/run/redis.sock?db=1",
    "redis+socket://me:{}@/run/redis.sock",
    "sentinel://:{0}@a;sentinel://:{0}@b/2",
    "redis://:{0}@a/1;redis://:{0}@b/1",
    "amqp://me:{}@rabbit//",
]


@pytest.mark.parametrize("form", WITH_PASSWORD)
def test_passwords_are_never_shown(form: str) -> None:
    """The address that may be shown has no password in it, wherever the URL had it."""
    assert SECRET not in without_password(form.format(SECRET))


@pytest.mark.parametrize("form", ["redis://:{}@cache/first", "sentinel://:{}@a", "amqp://me:{}@rabbit//"])
def test_refusals_show_no_password(form: str) -> None:
    """An error about a URL that we can read names it without its password."""
    with pytest.raises(SettingsError) as seen:
        address(form.format(SECRET))

    assert SECRET not in str(seen.value)


def test_the_repr_of_an_address_shows_no_password() -> None:
    """An address in a log or a traceback does not show how to log in."""
    found = address(f"sentinel://me:{SECRET}@a", {**MASTER, "sentinel_kwargs": {"password": SECRET}})

    assert SECRET not in repr(found)


def app_with(**config: Any) -> Celery:
    app = Celery("app", set_as_current=False)
    app.conf.update(config)
    return app


@pytest.mark.parametrize(
    ("config", "place"),
    [
        ({"broker_url": "redis://b"}, ("b", 6379)),
        ({"broker_url": ["redis://b", "redis://c"]}, ("b", 6379)),
        ({"broker_url": "amqp://b", "result_backend": "redis://r"}, ("r", 6379)),
        ({"broker_url": "redis://b", "result_backend": "redis://r"}, ("b", 6379)),
        ({"broker_url": "redis://b", "perpetual_store_url": "redis://s:7"}, ("s", 7)),
        ({"broker_url": "amqp://b", "broker_write_url": "redis://w"}, ("w", 6379)),
    ],
)
def test_the_store_is_the_broker_or_the_backend_or_named(config: dict[str, Any], place: tuple[Any, ...]) -> None:
    """The store is what is named, else the broker if it is Redis, else the result backend if it is Redis."""
    app = app_with(**config)

    store = Store.from_app(app, Settings.from_app(app))

    assert store.address.place == place


def test_without_any_redis_there_is_no_store() -> None:
    """Neither broker nor backend is Redis: refused with the setting that helps, and without passwords."""
    app = app_with(broker_url=f"amqp://me:{SECRET}@rabbit//", result_backend="rpc://")

    with pytest.raises(SettingsError, match=r"set perpetual_store_url = 'redis://…'") as seen:
        Store.from_app(app, Settings.from_app(app))

    assert SECRET not in str(seen.value)


def test_the_store_shows_no_password() -> None:
    """A store's own description of its place has no password."""
    app = app_with(broker_url=f"redis://me:{SECRET}@cache/1")

    assert Store.from_app(app, Settings.from_app(app)).shown == "redis://me:**@cache/1"


class Provider(CredentialProvider):
    """Gives the name and the password of the moment."""

    def get_credentials(self) -> tuple[str, str]:
        return "me", "secret"


@pytest.mark.parametrize(
    "url", ["redis://nobody:old@cache/1", "rediss://cache/1", "redis+socket:///run/redis.sock", "sentinel://cache:1"]
)
def test_a_credential_provider_is_used(url: str) -> None:
    """It stands in the query, as kombu takes it, and in the place of user and password."""
    found = address(f"{url}?credential_provider=tests.unit.test_address.Provider", {"master_name": "m"})

    assert isinstance(found.login["credential_provider"], Provider)
    assert not {"username", "password"} & set(found.login)


@pytest.mark.parametrize("name", ["no.such.Provider", "tests.unit.test_address.address"])
def test_a_credential_provider_that_cannot_be_used_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=f"names the credential provider '{name}'"):
        address(f"redis://cache/1?credential_provider={name}")


def test_a_url_without_a_scheme_is_shown_as_it_is_written() -> None:
    """Without the login, and not as a scheme and a path."""
    assert without_password("localhost:6379") == "localhost:6379"
    assert without_password("redis.example:6379/0") == "redis.example:6379/0"
    assert without_password(f"user:{SECRET}@localhost:6379") == "**@localhost:6379"
