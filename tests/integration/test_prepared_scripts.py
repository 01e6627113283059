"""Scripts with values for slots in their text, and the connections that their calls keep."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import StoreUnavailable
from celery_perpetual.store.commands.leases import LeaseText
from celery_perpetual.store.connection import Store
from celery_perpetual.store.prepared import Prepared
from tests.support.case import dump
from tests.support.lease_world import LeaseWorld
from tests.support.proxy import Proxy
from tests.support.script_slots import Slots
from tests.support.scripts import store_at

if TYPE_CHECKING:
    import redis

FIXED = ("acknowledges", "unacked", "unacked_index")


@pytest.fixture
def world(redis_url: str) -> Iterator[LeaseWorld]:
    world = LeaseWorld(redis_url)
    yield world
    world.store.close()


def prepared(world: LeaseWorld, store: Store | None = None, **options: Any) -> tuple[Prepared, Slots]:
    slots = world.start(**options)
    fixed = {name: slots.pop(name) for name in FIXED}
    return Prepared(store or world.store, "start", **fixed), slots


def connections(client: redis.Redis) -> int:
    return len([each for each in client.client_list() if each["name"] == "celery-perpetual"])


def test_it_does_what_the_script_does(world: LeaseWorld) -> None:
    """The same keys with the same content, whether values are literals in the text or arguments."""
    world.committed()
    before = dump(world.redis)
    moving = (world.keys.leases, world.keys.workers)
    ask, slots = prepared(world)
    verdict, with_literals = ask(**slots), dump(world.redis, moving)
    written = with_literals.keys() - before.keys()
    assert len(written) == 4
    world.redis.delete(*written)

    assert world.run("start", world.start()) == verdict
    assert dump(world.redis, moving) == with_literals


@pytest.mark.parametrize(
    "name", ["it's", 'two "words"', "back\\slash", "new\nline", "zürich%東京", "%d KEYS[1] ARGV[2]", "{} ]]"]
)
def test_a_literal_is_the_value(world: LeaseWorld, name: str) -> None:
    """A script works with every name exactly as it is given, quotes and all."""
    world.committed()
    slots = world.start(task=name)
    ask = Prepared(world.store, "start", lease_ends=slots.pop("lease_ends"))

    assert ask(**slots)[0] == b"run"
    lease = world.redis.hget(world.keys.leases, slots["id"])
    assert LeaseText.read(lease).task == name


@pytest.mark.parametrize("name", ["plain", "100 % sure %s %d", "zürich%東京", "new\r\nline $3"])
@pytest.mark.parametrize("known_before", [True, False])
def test_a_call_may_be_begun_before_all_is_known(world: LeaseWorld, name: str, known_before: bool) -> None:
    """The call is the same whichever part is known first, also where it is repeated and the script is forgotten."""
    world.committed()
    ask, slots = prepared(world, task=name)
    early = ask.slots[: ask.slots.index("lease_ends") + known_before]
    begun = ask.begun({slot: slots[slot] for slot in early})
    rest = {slot: str(value) for slot, value in slots.items() if slot not in early}

    assert begun(**rest) == begun(**rest) == ask(**slots)
    assert LeaseText.read(world.redis.hget(world.keys.leases, slots["id"])).task == name
    world.redis.hdel(world.keys.leases, slots["id"])
    world.redis.script_flush()
    assert begun(**rest)[0] == b"run"
    assert LeaseText.read(world.redis.hget(world.keys.leases, slots["id"])).task == name


def test_a_call_begins_with_its_first_slots(world: LeaseWorld) -> None:
    """A slot in the middle that is not known is found out at once, and not when the call is made."""
    ask, slots = prepared(world)

    with pytest.raises(TypeError, match=f"'{ask.slots[0]}' has to be known before"):
        ask.begun({"copy": slots["copy"]})


def test_a_yielding_call_gives_its_own_reply(world: LeaseWorld) -> None:
    """Also where the server refuses what goes before it, and where it is made again over a new connection."""
    world.committed()
    slots = world.start()
    fixed = {name: slots.pop(name) for name in FIXED}
    world.redis.acl_setuser("default", enabled=True, commands=["-ping"])
    try:
        ask = Prepared(world.store, "start", yielding=True, **fixed)
        world.redis.set(slots["held"], "of a wrong type")
        with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
            ask(**slots)
        world.redis.delete(slots["held"])
        assert [ask(**slots)[0] for _ in range(3)] == [b"run"] * 3
        world.redis.client_kill_filter(_type="normal", skipme=True)
        assert ask(**slots)[0] == b"run"
    finally:
        world.redis.acl_setuser("default", enabled=True, commands=["+ping"])


def test_an_unknown_slot_is_told_at_once(world: LeaseWorld) -> None:
    with pytest.raises(TypeError, match=r"start.lua has no slot flavour"):
        Prepared(world.store, "start", flavour="sweet")


def test_it_is_sent_whole_to_a_server_that_has_forgotten_it(world: LeaseWorld) -> None:
    """After SCRIPT FLUSH, a restart or a fail-over."""
    world.committed()
    ask, slots = prepared(world)
    world.redis.script_flush()

    assert ask(**slots)[0] == b"run"
    assert ask(**slots)[0] == b"run"


def test_a_connection_is_kept_and_replaced_when_it_is_gone(world: LeaseWorld) -> None:
    """One connection for any number of calls; one that the server has closed costs nothing but the next."""
    world.committed()
    ask, slots = prepared(world)
    ask(**slots)
    before = connections(world.redis)
    for _ in range(20):
        ask(**slots)
    assert connections(world.redis) == before
    world.redis.client_kill_filter(_type="normal", skipme=True)

    assert ask(**slots)[0] == b"run"


def test_a_script_error_leaves_the_connection_usable(world: LeaseWorld) -> None:
    world.committed()
    ask, slots = prepared(world)
    world.redis.set(slots["held"], "of a wrong type")
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        ask(**slots)
    world.redis.delete(slots["held"])

    assert ask(**slots)[0] == b"run"


def test_a_time_limit_in_the_middle_of_a_call_does_not_mix_up_replies(world: LeaseWorld) -> None:
    """Celery's soft time limit is raised wherever the task is: the reply that is on its way is dropped."""

    class Limit(Exception):
        pass

    def limit(*_: object) -> None:
        raise Limit

    world.committed()
    ask, slots = prepared(world)
    ask(**slots)
    former = signal.signal(signal.SIGALRM, limit)
    try:
        world.redis.client_pause(500)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Limit):
            ask(**{**slots, "lease_begins": world.start("of another delivery")["lease_begins"]})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)

    assert ask(**slots)[0] == b"run"


def test_threads_have_connections_of_their_own(world: LeaseWorld) -> None:
    """Fifty at once, each gets its own answer."""
    world.committed()
    echo = Prepared(world.store, "start", **{name: world.start()[name] for name in FIXED})
    found: dict[str, bytes] = {}

    def run(number: int) -> None:
        task_id = f"task-{number}"
        slots = {**world.start(task_id=task_id), "worker": f"w{number}"}
        found[task_id] = echo(**{name: value for name, value in slots.items() if name not in FIXED})[1]

    threads = [threading.Thread(target=run, args=[number]) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    tokens = {
        task_id.decode(): b"%d" % LeaseText.read(lease).token
        for task_id, lease in world.redis.hgetall(world.keys.leases).items()
    }
    assert found == tokens
    assert len(set(found.values())) == 50


def test_there_are_connections_for_as_many_threads_as_a_worker_has(world: LeaseWorld) -> None:
    """redis-py's pools end at a hundred connections unless another number is given."""
    wire = world.store.wire
    clients = [wire._client() for _ in range(150)]

    for client in clients:
        with wire._lent(client):
            assert client.ping()


def test_a_forked_child_does_not_use_its_parents_connections(world: LeaseWorld) -> None:
    world.committed()
    ask, slots = prepared(world)
    ask(**slots)
    child = os.fork()
    if child == 0:
        os._exit(0 if ask(**slots)[0] == b"run" else 1)

    replies = {ask(**slots)[0] for _ in range(50)}

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert replies == {b"run"}


def test_a_store_that_does_not_answer_is_told_in_time(world: LeaseWorld, redis_url: str) -> None:
    world.committed()
    port = int(redis_url.rsplit(":", 1)[1].split("/", 1)[0])
    with Proxy(port) as proxy:
        store = store_at(redis_url.replace(str(port), str(proxy.port)), timeout=1.0, patient=False)
        ask, slots = prepared(world, store)
        assert ask(**slots)[0] == b"run"
        proxy.cut()
        with pytest.raises(StoreUnavailable, match=r"\(start\)"):
            ask(**slots)
        proxy.mend()

        assert ask(**slots)[0] == b"run"
        store.close()


@pytest.mark.parametrize("name", ["leases", "events", "chunk"])
def test_the_check_of_types_names_the_key_that_is_wrong(world: LeaseWorld, name: str) -> None:
    """Filled in or sent: the check goes by the slot, and not by its number among the keys that are sent."""
    world.committed()
    slots = world.declare_lost()
    key = {**vars(world.keys), **slots}[name]
    world.redis.delete(key)
    world.redis.set(key, "of a wrong type")
    before = dump(world.redis)

    with pytest.raises(StoreUnavailable, match=rf"WRONGTYPE {key} holds a string, not a (hash|stream|list)"):
        Prepared(world.store, "declare_lost")(**slots)
    assert dump(world.redis) == before


def test_a_connection_that_is_forgotten_on_the_way_costs_one_more_try(world: LeaseWorld, redis_url: str) -> None:
    """A firewall has dropped it without telling anybody: the call is made anew, within the store's time-out."""
    world.committed()
    port = int(redis_url.rsplit(":", 1)[1].split("/", 1)[0])
    with Proxy(port) as proxy:
        patient = store_at(redis_url.replace(str(port), str(proxy.port)), timeout=3.0)
        store = patient.clone(patient=False)
        ask, slots = prepared(world, store)
        assert ask(**slots)[0] == b"run"
        proxy.forget()

        begun = time.monotonic()
        assert ask(**slots)[0] == b"run"
        assert time.monotonic() - begun < 3
        store.close()
