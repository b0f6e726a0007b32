"""Who a credential belongs to: how long that is remembered, how soon forgotten, and how slow guessing is."""

import base64
import hashlib
import math
import random
import secrets
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
import requests

from postrider import credentials
from postrider.admission import FRESH_S, REMEMBERED_S, Admission, Basic, Key
from postrider.clients import Clients
from postrider.errors import Unavailable
from postrider.link import connect
from postrider.logins import SPAN_S, TRIES, Logins, TooManyTries
from postrider.model import Client, Quota
from postrider.selftest.fleet import free_port
from postrider.settings import Settings
from postrider.web.address import origin
from postrider.web.auth import credential
from tests.conftest import PASSWORD, Api, Start, wait_until

HERE, THERE = "192.0.2.1", "198.51.100.7"
RIGHT = Basic("postrider", PASSWORD)
ANAS = "a password of ana's"


class Clock:
    """Monotonic seconds that go on when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def clients(client: redis.Redis) -> Clients:
    return Clients(client)


@pytest.fixture
def admission(settings: Settings, clients: Clients, clock: Clock) -> Admission:
    return Admission(settings, clients, Logins(clients.redis, clock), clock)


@pytest.fixture
def another(settings: Settings, clients: Clients, clock: Clock) -> Admission:
    """A second process."""
    return Admission(settings, clients, Logins(clients.redis, clock), clock)


def age(client: redis.Redis, seconds: float) -> None:
    """Makes all tries so much older."""
    for key in client.scan_iter("pr:tries:*"):
        if client.type(key) == b"zset":
            for member in client.zrange(key, 0, -1):
                client.zincrby(key, -seconds, member)


# -- who comes in


def test_the_user_of_the_settings_is_an_admin_without_an_id(admission: Admission) -> None:
    assert admission.admit(RIGHT, HERE) == Client("", "postrider", "admin")


def test_a_key_comes_in_with_its_role_and_limits(admission: Admission, clients: Clients) -> None:
    made, key = clients.add_key("shop", "sender", "tests", Quota(rate=5))
    assert admission.admit(Key(key), HERE) == Client(made.id, "shop", "sender", Quota(rate=5))


def test_a_user_comes_in_by_name_and_password(admission: Admission, clients: Clients) -> None:
    made = clients.add_user("ana", "viewer", "tests", Quota(), ANAS)
    assert admission.admit(Basic("ana", ANAS), HERE) == Client(made.id, "ana", "viewer")


@pytest.mark.parametrize(
    "wrong",
    [
        Basic("postrider", "wrong"),
        Basic("nobody", PASSWORD),
        Basic("ana", PASSWORD),
        Basic("ana", ANAS + " "),
        Basic("", ""),
        Basic("\ud800", "\udfff"),
        Basic("ana", "x" * 100_000),
        Key("pr_" + "0" * 43),
        Key(PASSWORD),
        Key("\ud800"),
        Key("x" * 100_000),
    ],
    ids=repr,
)
def test_nobody_else_does(admission: Admission, clients: Clients, wrong: Basic | Key) -> None:
    clients.add_user("ana", "viewer", "tests", Quota(), ANAS)
    assert admission.admit(wrong, HERE) is None


def test_neither_a_key_nor_a_password_is_stored(clients: Clients, client: redis.Redis) -> None:
    _, key = clients.add_key("shop", "sender", "tests", Quota())
    clients.add_user("ana", "viewer", "tests", Quota(), ANAS)
    stored = b"".join(client.dump(name) or b"" for name in client.scan_iter())
    assert key[4:20].encode() not in stored
    assert b"password of ana" not in stored


def test_a_key_has_256_bits_and_an_id_that_nobody_guesses() -> None:
    keys = {credentials.new_key() for _ in range(200)}
    assert len(keys) == 200
    assert {len(key) for key in keys} == {46}
    assert len({credentials.new_id() for _ in range(1000)}) == 1000


# -- what is remembered


def test_a_password_is_worked_out_once_and_then_remembered(
    admission: Admission, clients: Clients, clock: Clock
) -> None:
    clients.add_user("ana", "viewer", "tests", Quota(), ANAS)
    admission.admit(Basic("ana", ANAS), HERE)
    started = time.process_time()
    for _ in range(100):
        assert admission.admit(Basic("ana", ANAS), HERE)
    assert time.process_time() - started < 0.1  # scrypt alone would take 20 s
    clock.now += REMEMBERED_S
    started = time.process_time()
    assert admission.admit(Basic("ana", ANAS), HERE)
    assert time.process_time() - started > 0.02


def test_what_is_remembered_does_not_name_the_secret(
    admission: Admission, clients: Clients
) -> None:
    _, key = clients.add_key("shop", "sender", "tests", Quota())
    admission.admit(Key(key), HERE)
    assert key not in repr(vars(admission)).replace(PASSWORD, "")


@pytest.mark.parametrize("how", ["delete", "disable"])
def test_a_key_that_is_revoked_is_worth_nothing_in_any_process(
    admission: Admission, another: Admission, clients: Clients, clock: Clock, how: str
) -> None:
    made, key = clients.add_key("shop", "sender", "tests", Quota())
    assert admission.admit(Key(key), HERE)
    assert another.admit(Key(key), HERE)
    if how == "delete":
        clients.delete("key", made.id)
    else:
        clients.change("key", made.id, disabled=True)
    clock.now += FRESH_S
    assert admission.admit(Key(key), HERE) is None
    assert another.admit(Key(key), HERE) is None
    if how == "disable":
        clients.change("key", made.id, disabled=False)
        clock.now += FRESH_S
        assert another.admit(Key(key), HERE)


def test_another_role_counts_at_once_and_another_password_too(
    admission: Admission, clients: Clients, clock: Clock
) -> None:
    made = clients.add_user("ana", "admin", "tests", Quota(), ANAS)
    assert admission.admit(Basic("ana", ANAS), HERE)
    clients.change("user", made.id, role="viewer")
    clock.now += FRESH_S
    found = admission.admit(Basic("ana", ANAS), HERE)
    assert found is not None
    assert found.role == "viewer"
    clients.change("user", made.id, password="another password")
    clock.now += FRESH_S
    assert admission.admit(Basic("ana", ANAS), HERE) is None
    assert admission.admit(Basic("ana", "another password"), HERE)


def test_a_name_that_is_free_again_does_not_inherit(
    admission: Admission, clients: Clients, clock: Clock
) -> None:
    made, key = clients.add_key("shop", "admin", "tests", Quota())
    assert admission.admit(Key(key), HERE)
    clients.delete("key", made.id)
    again, _ = clients.add_key("shop", "viewer", "tests", Quota())
    clock.now += FRESH_S
    assert admission.admit(Key(key), HERE) is None
    assert again.id != made.id


def test_a_key_revoked_by_the_command_is_refused_by_two_api_processes_within_a_second(
    start: Start, clients: Clients, postrider: object
) -> None:
    made, key = clients.add_key("shop", "sender", "tests", Quota())
    port = free_port()
    start("postrider", "api", BIND=f"127.0.0.1:{port}", API_PROCESSES="2")
    url = f"http://127.0.0.1:{port}/api/v1/me"

    def status(_: int = 0) -> int:
        try:
            headers = {"Authorization": f"Bearer {key}", "Connection": "close"}
            return requests.get(url, headers=headers, timeout=30).status_code
        except requests.ConnectionError:
            return 0

    wait_until(lambda: status() == 200, 15)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(status, range(60))) == {200}  # both processes know it
        clients.delete("key", made.id)
        time.sleep(1.0)  # the promise itself
        assert set(pool.map(status, range(TRIES - 1))) == {401}


# -- when a client was last there


def test_a_client_shows_when_it_was_last_there(
    admission: Admission, clients: Clients, clock: Clock
) -> None:
    made, key = clients.add_key("shop", "sender", "tests", Quota())
    assert clients.get("key", made.id).used_at is None
    admission.admit(Key(key), HERE)
    first = clients.get("key", made.id).used_at
    assert first is not None
    assert abs(first.timestamp() - time.time()) < 5


# -- guessing


def guess(admission: Admission, address: str, user: str = "postrider") -> str:
    try:
        found = admission.admit(Basic(user, secrets.token_hex(8)), address)
    except TooManyTries as error:
        return "slow" if 1 <= error.retry_after_s <= SPAN_S else "wrong wait"
    assert found is None
    return "no"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """scrypt with less work: these tests count tries."""
    monkeypatch.setattr(credentials, "LOG2_N", 4)
    monkeypatch.setattr(credentials, "P", 1)


@pytest.mark.usefixtures("quick")
def test_an_address_has_ten_tries_a_minute_in_all_processes_together(
    admission: Admission, another: Admission, client: redis.Redis
) -> None:
    told = [guess((admission, another)[n % 2], HERE, f"user{n}") for n in range(30)]
    assert told == ["no"] * TRIES + ["slow"] * 20
    with pytest.raises(TooManyTries):  # nobody learns there that it was right
        another.admit(RIGHT, HERE)
    assert another.admit(RIGHT, THERE)
    age(client, SPAN_S)
    assert admission.admit(RIGHT, HERE)


@pytest.mark.usefixtures("quick")
def test_a_hundred_tries_at_once_are_no_more_than_ten(
    admission: Admission, another: Admission
) -> None:
    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(lambda n: guess((admission, another)[n % 2], HERE), range(100)))
    assert told.count("no") == TRIES


@pytest.mark.usefixtures("quick")
def test_an_account_has_ten_tries_a_minute_from_all_strange_addresses_together(
    admission: Admission,
) -> None:
    told = [guess(admission, f"203.0.113.{n}") for n in range(30)]
    assert told.count("no") == TRIES
    assert guess(admission, HERE, "somebody else") == "no"


@pytest.mark.usefixtures("quick")
def test_an_owner_is_not_locked_out_by_who_knows_the_name(
    admission: Admission, another: Admission, settings: Settings, clients: Clients
) -> None:
    assert admission.admit(RIGHT, HERE)
    for n in range(30):
        guess(admission, f"203.0.113.{n}")
    assert another.admit(RIGHT, HERE)
    third = Admission(settings, clients, Logins(clients.redis))
    with pytest.raises(TooManyTries):
        third.admit(RIGHT, THERE)


@pytest.mark.usefixtures("quick")
def test_who_is_in_already_stays_in_whatever_comes_from_the_same_address(
    admission: Admission,
) -> None:
    assert admission.admit(RIGHT, HERE)
    assert [guess(admission, HERE) for _ in range(12)].count("slow") == 2
    assert admission.admit(RIGHT, HERE)


def test_a_right_key_comes_in_from_an_address_that_guesses(
    admission: Admission, another: Admission, clients: Clients
) -> None:
    _, key = clients.add_key("shop", "sender", "tests", Quota())
    for n in range(TRIES):
        assert admission.admit(Key(f"pr_{n}"), HERE) is None
    with pytest.raises(TooManyTries):
        admission.admit(Key("pr_another"), HERE)
    assert another.admit(Key(key), HERE)


@pytest.mark.usefixtures("quick")
def test_right_logins_use_up_no_tries(admission: Admission, clients: Clients, clock: Clock) -> None:
    for _ in range(3 * TRIES):
        assert admission.admit(RIGHT, HERE)
        clock.now += REMEMBERED_S


def test_a_burst_that_begins_with_the_same_password_is_one_try(
    admission: Admission, clients: Clients
) -> None:
    clients.add_user("ana", "viewer", "tests", Quota(), ANAS)
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda _: admission.admit(Basic("ana", ANAS), HERE), range(64)))
    assert all(found)


@pytest.mark.usefixtures("quick")
def test_ipv6_addresses_of_one_network_are_one(admission: Admission) -> None:
    told = [guess(admission, f"2001:db8:1:2::{n:x}", f"user{n}") for n in range(1, 13)]
    assert told.count("slow") == 2
    assert guess(admission, "2001:db8:1:3::1", "nobody") == "no"


@pytest.fixture
def gone(settings: Settings) -> Iterator[Clients]:
    with connect("unix:///nowhere/s.sock") as client:
        yield Clients(client)


def test_without_redis_the_user_of_the_settings_comes_in_and_guessing_stays_slow(
    settings: Settings, gone: Clients, clock: Clock
) -> None:
    admission = Admission(settings, gone, Logins(gone.redis, clock), clock)
    assert admission.admit(RIGHT, HERE)
    for _ in range(TRIES):
        with pytest.raises(Unavailable):
            admission.admit(Basic("postrider", "wrong"), HERE)
    with pytest.raises(TooManyTries):
        admission.admit(Basic("postrider", "wrong"), THERE)
    clock.now += SPAN_S
    with pytest.raises(Unavailable):
        admission.admit(Key("pr_x"), HERE)


# -- the time a no takes


def test_every_wrong_password_is_the_same_work(
    settings: Settings, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same hashes, with the same parameters, and the same calls of Redis: whoever is named."""
    clients.add_user("ana", "viewer", "tests", Quota(), ANAS)
    clients.change("user", clients.add_user("ben", "viewer", "t", Quota(), ANAS).id, disabled=True)
    done: list[object] = []
    scrypt, run = hashlib.scrypt, clients.redis.execute_command

    def hashed(text: bytes, **how: Any) -> bytes:
        done.append((how["n"], how["r"], how["p"], len(how["salt"])))
        return scrypt(text, **how)

    monkeypatch.setattr(hashlib, "scrypt", hashed)

    def told(*args: object, **options: object) -> object:
        done.append(args[0])
        return run(*args, **options)

    monkeypatch.setattr(clients.redis, "execute_command", told)
    work = []
    for user in ("ana", "ben", "postrider", "nobody"):
        done.clear()
        admission = Admission(settings, clients, Logins(clients.redis))
        assert admission.admit(Basic(user, "not the password"), user) is None
        work.append(list(done))
    assert work[0] == work[1] == work[2] == work[3]
    assert (1 << 14, 8, 5, 16) in work[0]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["ana", "postrider"])
def test_the_time_a_no_takes_does_not_tell_a_user_from_nobody(
    settings: Settings,
    clients: Clients,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    long: bool,
) -> None:
    """Welch's test over interleaved tries, with less scrypt for a difference to hide in; 10,000 in the long form."""
    if long:
        monkeypatch.setattr(credentials, "LOG2_N", 10)
    rounds = 5_000 if long else 200
    clients.add_user("ana", "viewer", "tests", Quota(), ANAS)
    nobody = "nob" if name == "ana" else "nobodyyet"
    took: dict[str, list[float]] = {name: [], nobody: []}
    admission = Admission(settings, clients, Logins(clients.redis))
    for n in range(rounds):
        for who in random.sample(list(took), 2):
            for key in clients.redis.scan_iter("pr:tries:*"):
                clients.redis.delete(key)
            started = time.perf_counter()
            admission.admit(Basic(who, f"wrong {n}"), HERE)
            took[who].append(time.perf_counter() - started)
    # A pause of the machine is no sign: the slowest twentieth of each goes.
    one, two = (sorted(times)[: rounds * 19 // 20] for times in took.values())
    error = math.sqrt((statistics.variance(one) + statistics.variance(two)) / len(one))
    t = (statistics.mean(one) - statistics.mean(two)) / error
    p = math.erfc(abs(t) / math.sqrt(2))
    medians = statistics.median(one), statistics.median(two)
    sys.stderr.write(f"\nS1: {name}: {2 * rounds} tries, t = {t:.2f}, p = {p:.3f}, {medians} s\n")
    assert p > 0.01 if long else abs(medians[0] / medians[1] - 1) < 0.2


# -- what a header says


def basic(text: bytes) -> str:
    return "Basic " + base64.b64encode(text).decode()


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (basic(b"a:b:c"), Basic("a", "b:c")),
        (basic(b"a:b").replace("Basic", "bAsIc"), Basic("a", "b")),
        (basic("ä:ö".encode()), Basic("ä", "ö")),
        (basic("ä:ö".encode("latin-1")), Basic("ä", "ö")),
        ("Bearer pr_x", Key("pr_x")),
        ("bearer   pr_x ", Key("pr_x")),
        ("Token token=pr_x", Key("pr_x")),
        ('Token token="pr_x"', Key("pr_x")),
        ('token TOKEN = "pr_x"', Key("pr_x")),
        ("", None),
        ("Basic", None),
        ("Basic !", None),
        (basic(b"no colon"), None),
        ("Bearer", None),
        ("Bearer ", None),
        ("Token pr_x", None),
        ("Token token=", None),
        ("Token secret=pr_x", None),
        ("Digest username=a", None),
        ("\x00\ud800", None),
    ],
)
def test_a_header_is_read(header: str, found: object) -> None:
    assert credential(header) == found


def test_a_request_without_credentials_is_no_failed_login(api: Api, client: redis.Redis) -> None:
    for header in ("", "Basic !", "Digest x"):
        api.auth = None
        for _ in range(TRIES):
            reply = api.get("/get_scheduled", headers={"Authorization": header} if header else {})
            assert (reply.status_code, reply.json()) == (401, {"error": "Unauthorized access"})
            assert reply.headers["WWW-Authenticate"] == 'Basic realm="Postrider"'
    assert not list(client.scan_iter("pr:tries:*"))
    assert api.get("/api/v1/audit", auth=("postrider", PASSWORD)).json()["entries"] == []


def test_too_many_failed_logins_are_told_to_come_again_and_audited_once(api: Api) -> None:
    api.auth = None
    told = [api.get("/get_scheduled", headers={"Authorization": f"Bearer {n}"}) for n in range(15)]
    assert [reply.status_code for reply in told] == [401] * TRIES + [429] * 5
    assert 1 <= int(told[-1].headers["Retry-After"]) <= SPAN_S
    assert set(told[-1].json()) == {"error"}
    # The right password is not told apart there.
    assert api.get("/get_scheduled", auth=("postrider", PASSWORD)).status_code == 429
    behind = {"X-Forwarded-For": THERE}  # from nobody whom we trust
    assert api.get("/me", auth=("postrider", PASSWORD), headers=behind).status_code == 404
    assert api.get("/api/v1/me", auth=("postrider", PASSWORD), headers=behind).status_code == 429


# -- from where


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "found"),
    [
        (HERE, "", HERE),
        (HERE, THERE, HERE),
        ("10.0.0.1", THERE, THERE),
        ("10.0.0.1", f"{HERE}, {THERE}", THERE),
        ("10.0.0.1", f"{THERE},10.0.0.2 , 10.0.0.3", THERE),
        ("10.0.0.1", "10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "junk", "10.0.0.1"),
        ("10.0.0.1", f"{THERE}, junk, 10.0.0.2", "10.0.0.2"),
        ("::ffff:10.0.0.1", THERE, THERE),
        ("fd00::1", "2001:db8::5", "2001:db8::5"),
        ("", THERE, ""),
    ],
)
def test_only_our_proxies_are_believed(peer: str, forwarded_for: str, found: str) -> None:
    trusted = Settings.from_env({"TRUSTED_PROXIES": "10.0.0.0/8, fd00::1"}, None).proxies
    assert origin(peer, forwarded_for, trusted) == found
    assert origin(peer, forwarded_for, ()) == peer
