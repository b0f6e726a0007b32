"""The older WhatsApp interface, by curl: every call and everything that comes of it, with the phone there, away, and unlinked meanwhile."""

import itertools
import json
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
import requests
import standardwebhooks

from postrider import tasks
from postrider.errors import InvalidRequest, TooManyRequests
from postrider.link import connect
from postrider.outbox import Outbox
from postrider.store import Store
from postrider.tasks import Tasks
from postrider.web import raw
from tests.conftest import BIN, PASSWORD, redis_with, wait_until
from tests.receiver import Receiver, Says
from tests.sidecar import Sidecar
from tests.test_callbacks import SECRET

ANA = "375291234567"
NOBODY = "375290000000"
CAP = 6
COUNTER = itertools.count()


class World:
    """A whole service in processes of its own, its sidecar, and who listens at return URLs."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.folder = folder
        self.redis_url = stack.enter_context(redis_with(folder, "--appendonly", "yes"))
        self.redis: redis.Redis = stack.enter_context(connect(self.redis_url))
        self.sidecar = stack.enter_context(Sidecar(scale=0.1))
        self.receiver = stack.enter_context(Receiver())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            bind = f"127.0.0.1:{free.getsockname()[1]}"
        self.url = f"http://{bind}"
        self.env = {
            "PATH": str(BIN),
            "REDIS_URL": self.redis_url,
            "API_PASSWORD": PASSWORD,
            "DATA_DIR": str(folder),
            "BIND": bind,
            "API_PROCESSES": "1",
            "WEBHOOK_SECRET": SECRET,
            "CALLBACK_ALLOW_PRIVATE": "127.0.0.0/8",
            "WHATSAPP_WEB_HOOK_URL": self.url,
            "WHATSAPP_WEB_CHECK_CAP": str(CAP),
            **self.sidecar.env(),
        }
        self.processes = {name: self.start(name) for name in ("api", "keeper", "worker", "courier")}
        stack.callback(self.end)
        self.http = stack.enter_context(requests.Session())
        self.http.trust_env = False
        self.tasks = Tasks(self.redis)
        wait_until(self.is_up, 30, "the API")

    def start(self, name: str) -> subprocess.Popen[bytes]:
        with (self.folder / "processes.log").open("ab") as log:
            return subprocess.Popen(
                [BIN / "postrider", name],
                env=self.env,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def end(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def is_up(self) -> bool:
        try:
            return self.http.get(f"{self.url}/readyz", timeout=2).ok
        except (requests.ConnectionError, requests.Timeout):
            return False

    def kill_keeper(self) -> None:
        """Kills it as it works, and starts another, whose turn has come at once."""
        self.processes["keeper"].send_signal(signal.SIGKILL)
        self.processes["keeper"].wait()
        self.hurry()
        self.processes["keeper"] = self.start("keeper")

    def hurry(self) -> None:
        """Has every lease and every wait be over."""
        for key in ("pr:work:due", "pr:sessions:due"):
            for name in self.redis.zrange(key, 0, -1):
                self.redis.zadd(key, {name: 0}, xx=True)

    def client(self, name: str, role: str = "sender") -> "Caller":
        return Caller(self, name, role)


class Caller:
    """A client of its own, by curl."""

    def __init__(self, world: World, name: str, role: str) -> None:
        self.world = world
        made = world.http.post(
            f"{world.url}/api/v1/keys",
            json={"name": name, "role": role},
            auth=("postrider", PASSWORD),
            timeout=30,
        ).json()
        self.id, self.key = made["id"], made["key"]
        self.session = f"default_{self.id}"

    def curl(self, path: str, *args: str) -> tuple[int, Any]:
        """Status and JSON of `curl -X POST`; shows both."""
        command = ["curl", "-s", "-S", "-g", "--path-as-is", "-X", "POST", *args]
        command += ["-H", f"Authorization: Token token={self.key}", "-w", "\n%{http_code}"]
        done = subprocess.run(
            [*command, f"{self.world.url}{path}"],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        body, _, status = done.stdout.rpartition("\n")
        told = f"$ curl -X POST -H 'Authorization: Token token=KEY' HOST{path}\n{status} {body.strip()}"
        print(told)  # noqa: T201 - each answer is to be seen
        return int(status), json.loads(body)

    def call(self, what: str, *words: str, back: str = "") -> str:
        """Makes a call that is taken; gives its task's id. `back`: the return URL as it is to stand there."""
        path = "/".join(quote(word, safe="") for word in (what, *words))
        status, told = self.curl(f"/ws/{path}/{back or self.back(what)}")
        assert (status, told["status"]) == (200, "success")
        assert told["data"]["task_name"] == f"whatsapp {what}"
        assert set(told["data"]) == {"task_id", "task_name"}
        assert set(told) == {"data", "status"}
        task: str = told["data"]["task_id"]
        return task

    def back(self, what: str) -> str:
        return f"{self.world.receiver.url}/{what}?of={self.id}"

    def came(self, task: str) -> list[Any]:
        """Every result that was posted for a task."""
        return [
            got.json["result"] for got in self.world.receiver.calls if got.json["task_id"] == task
        ]

    def comes(self, task: str, within_s: float = 20) -> Any:
        """What is posted for a task; shows it."""
        wait_until(lambda: self.came(task), within_s, f"the result of {task}")
        got = next(got for got in self.world.receiver.calls if got.json["task_id"] == task)
        print(f"return URL: POST {got.path} {got.body.decode()}")  # noqa: T201 - to be seen
        assert got.json == {"task_id": task, "result": got.json["result"]}
        return got.json["result"]

    def state(self) -> str:
        return (self.world.redis.hget(f"pr:session:{self.session}", "state") or b"").decode()

    def waits(self) -> int:
        return int(self.world.redis.hget("pr:work:of", self.id) or 0)

    def linked(self) -> "Caller":
        """The same, with a phone."""
        assert self.comes(self.call("login")) == "Please scan qr code"
        self.scan()
        return self

    def scan(self) -> None:
        wait_until(lambda: self.world.sidecar.status(self.session) == "SCAN_QR_CODE", 20, "a code")
        self.world.sidecar.scan(self.session)
        wait_until(lambda: self.state() == "linked", 20, "a linked phone")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        yield World(stack, Path(folder))


Client = Callable[..., Caller]


@pytest.fixture
def caller(world: World, request: pytest.FixtureRequest) -> Iterator[Caller]:
    """A client that nobody knows yet."""
    yield world.client(f"{request.node.originalname[:40]} {next(COUNTER)}")
    world.sidecar.heal()
    world.sidecar.absent()


# -- calls and their results


def test_every_call_and_what_comes_of_it(world: World, caller: Caller) -> None:
    world.sidecar.absent(NOBODY)
    first = caller.call("login")
    assert caller.comes(first) == "Please scan qr code"
    caller.scan()
    assert caller.comes(caller.call("login")) == "Whatsapp already logged in"
    assert caller.comes(caller.call("check", ANA)) is True
    assert caller.comes(caller.call("check", NOBODY)) is False
    text = 'Grüße, Ана: 1/2 + 50 % of?what#ever\n& "more" 👋'
    sent = caller.call("message", f"+{ANA}", text, back=quote(caller.back("message"), safe=""))
    assert caller.comes(sent) is True
    (message,) = (m for m in world.sidecar.messages if m["session"] == caller.session)
    assert (message["text"], message["to"]) == (text, f"{ANA}@c.us")
    assert caller.comes(caller.call("logout")) == "Log out successful"
    wait_until(lambda: world.sidecar.sessions[caller.session]["number"] == "", what="no phone")
    assert caller.comes(caller.call("logout")) == "Currently not logged into any account"
    paths = {got.path for got in world.receiver.calls if caller.id in got.path}
    assert paths == {f"/{what}?of={caller.id}" for what in ("login", "check", "message", "logout")}


def test_a_result_is_signed_as_every_callback(world: World, caller: Caller) -> None:
    task = caller.call("logout")
    assert caller.comes(task) == "Currently not logged into any account"
    (got,) = (got for got in world.receiver.calls if got.json["task_id"] == task)
    assert standardwebhooks.Webhook(SECRET).verify(got.body, got.headers) == got.json
    assert got.headers["content-type"] == "application/json"


def test_a_message_is_one_like_any_other(world: World, caller: Caller) -> None:
    task = caller.call("message", ANA, "Hi")
    headers = {"Authorization": f"Bearer {caller.key}"}
    found = world.http.get(f"{world.url}/api/v1/messages/{task}", headers=headers, timeout=30)
    assert (found.json()["body"], found.json()["state"]) == ("Hi", "scheduled")
    assert world.http.delete(f"{world.url}/api/v1/messages/{task}", headers=headers, timeout=30).ok
    assert caller.comes(task) is False


@pytest.mark.parametrize("what", ["check", "message"])
def test_a_call_without_a_session_starts_the_login_and_is_done_once_it_is_linked(
    world: World, caller: Caller, what: str
) -> None:
    task = caller.call(what, ANA, *(["Hi"] if what == "message" else []))
    wait_until(lambda: caller.state() == "scan", 20, "a code to scan")
    assert caller.came(task) == []
    caller.scan()
    assert caller.comes(task) is True


def test_a_call_after_a_logout_starts_the_login_again(world: World, caller: Caller) -> None:
    caller.linked()
    assert caller.comes(caller.call("logout")) == "Log out successful"
    task = caller.call("check", ANA)
    caller.scan()
    assert caller.comes(task) is True


# -- what goes wrong


def test_what_is_asked_while_the_phone_is_away_is_done_when_it_is_back(
    world: World, caller: Caller
) -> None:
    caller.linked()
    world.sidecar.drop(caller.session, away=True)
    wait_until(lambda: caller.state() == "dropped", 20, "a lost session")
    tasks_ = [
        caller.call("check", ANA),
        caller.call("message", ANA, "late"),
        caller.call("check", NOBODY),
    ]
    world.sidecar.absent(NOBODY)
    time.sleep(1)  # long enough for whoever would not wait
    assert [caller.came(task) for task in tasks_] == [[], [], []]
    world.sidecar.come_back(caller.session)
    # A text that met the session in between waits half a minute for its next try.
    assert [caller.comes(task, 60) for task in tasks_] == [True, True, False]
    assert [m["text"] for m in world.sidecar.messages if m["session"] == caller.session] == ["late"]


def test_what_a_killed_keeper_was_asking_is_asked_again_and_told_once(
    world: World, caller: Caller
) -> None:
    caller.linked()
    world.sidecar.spoil("slow", "check-exists", session=caller.session, value=2, times=1)
    task = caller.call("check", ANA)

    def asked() -> int:
        return sum(
            caller.session in str(r["query"]) and "check" in r["path"]
            for r in world.sidecar.requests
        )

    wait_until(asked, what="the question")
    world.kill_keeper()
    assert caller.comes(task) is True
    assert asked() == 2
    assert caller.came(task) == [True]


def test_a_logout_that_a_killed_keeper_had_done_is_told_as_done(
    world: World, caller: Caller
) -> None:
    caller.linked()
    world.sidecar.spoil("slow", "POST .*/logout", session=caller.session, value=1, times=1)
    task = caller.call("logout")
    wait_until(
        lambda: any(
            r["path"] == f"/api/sessions/{caller.session}/logout" for r in world.sidecar.requests
        ),
        what="the call",
    )
    world.processes["keeper"].send_signal(signal.SIGKILL)
    wait_until(lambda: not world.sidecar.sessions[caller.session]["number"], what="no phone")
    world.kill_keeper()
    assert caller.comes(task) == "Log out successful"


def test_a_sidecar_that_does_not_answer_is_asked_again(world: World, caller: Caller) -> None:
    caller.linked()
    world.sidecar.spoil("garbage", "check-exists", session=caller.session, times=1)
    world.sidecar.spoil("cut", "POST .*/logout", session=caller.session, times=1)
    check, logout = caller.call("check", ANA), caller.call("logout")
    assert caller.comes(logout) == "Log out successful"
    caller.linked()
    world.hurry()
    assert caller.comes(check) is True


def test_over_the_hourly_cap_a_check_waits(world: World, caller: Caller) -> None:
    caller.linked()
    found = [caller.call("check", f"3752912345{n:02}") for n in range(CAP + 1)]
    assert [caller.comes(task) for task in found[:CAP]] == [True] * CAP
    wait_until(lambda: caller.waits() == 1, what="one that waits")
    assert caller.came(found[CAP]) == []
    world.redis.delete(f"pr:checks:{caller.session}")
    world.hurry()
    assert caller.comes(found[CAP]) is True


def test_what_is_unknown_after_a_day_is_told_as_false(world: World, caller: Caller) -> None:
    asked = [caller.call("check", ANA), caller.call("check", NOBODY)]
    wait_until(lambda: caller.waits() == 2, what="both")
    for task in asked:
        assert world.redis.zscore("pr:work:until", task) == pytest.approx(
            time.time() + 86_400, abs=60
        )
        world.redis.zadd("pr:work:until", {task: 1})
    assert [caller.comes(task) for task in asked] == [False, False]
    assert caller.waits() == 0
    assert not [key for key in world.redis.scan_iter("pr:task:*") if caller.id.encode() in key]


def test_a_return_url_that_fails_is_called_again(world: World, caller: Caller) -> None:
    world.receiver.script = lambda got: Says(
        500 if len(caller.came(got.json["task_id"])) == 0 and "again" in got.path else 204
    )
    task = caller.call("logout", back=f"{world.receiver.url}/again")
    wait_until(lambda: caller.came(task), what="the first call")
    outbox = Outbox(world.redis)
    wait_until(lambda: outbox.find(task, caller.id).tries == 1, what="its end")
    assert outbox.replay_dead(caller.id) == (0, 0)
    (key,) = (k for k in world.redis.scan_iter("pr:cb:due:*") if world.redis.zscore(k, task))
    world.redis.zadd(key, {task: 0}, xx=True)
    world.redis.zadd("pr:cb:hosts", {key.removeprefix(b"pr:cb:due:"): 0}, xx=True)
    wait_until(lambda: len(caller.came(task)) == 2, what="the second call")
    world.receiver.script = lambda _: Says()
    assert len({json.dumps(one) for one in caller.came(task)}) == 1


# -- what is refused


MALFORMED = (
    "check", "check/", f"check/{ANA}", f"check/{ANA}/", "check/{back}", f"check/{ANA}/ftp://127.0.0.1/",
    "check/12/{back}", "check/abc/{back}", f"check/{ANA}/x/{{back}}", f"check/{ANA}-1@g.us/{{back}}",
    "message", f"message/{ANA}/{{back}}", f"message/{ANA}/Hi", f"message/{ANA}//{{back}}",
    f"message/{ANA}/%20/{{back}}", f"message/{ANA}/%FF/{{back}}", f"message/{ANA}/a%00b/{{back}}",
    f"message/{ANA}/" + "x" * 4097 + "/{back}", "message/12/Hi/{back}",
    "login", "login/", "login/x", "login/x/{back}", "logout/", "logout/http:",
)  # fmt: skip
NOT_PUBLIC = (
    "http://10.0.0.1/", "http://192.168.1.1/x", "http://169.254.169.254/latest/meta-data", "http://[::1]/",
    "http://localhost/", "http://2130706433/", "http://0x7f.1/", "http://[::ffff:10.0.0.1]/", "http://0.0.0.0/",
    "http://user:word@127.0.0.1/", "http://redis.internal/", "http:/10.0.0.1/", "https://127.0.0.1:99999/",
    "http://[fd00::1]/", "http://100.64.0.1/",
)  # fmt: skip


def test_a_malformed_call_is_refused_in_words(world: World, caller: Caller) -> None:
    for path in MALFORMED:
        status, told = caller.curl("/ws/" + path.replace("{back}", caller.back("check")))
        assert (status, told["status"]) == (400, "error"), path
        assert set(told) == {"status", "error"}
        assert len(told["error"]) > 10
    assert caller.waits() == 0
    assert caller.state() == ""


def test_a_return_url_that_is_not_public_is_refused(world: World, caller: Caller) -> None:
    calls = itertools.cycle((f"check/{ANA}", f"message/{ANA}/Hi", "login", "logout", "login"))
    encoded = itertools.cycle((True, False))
    for url, call in zip(NOT_PUBLIC, calls, strict=False):
        back = quote(url, safe="") if next(encoded) else url
        status, told = caller.curl(f"/ws/{call}/{back}")
        assert (status, told["status"]) == (400, "error"), back
        assert "return URL" in told["error"]
    assert caller.state() == ""
    assert caller.waits() == 0


def test_a_return_url_is_guarded_when_it_is_called_too(world: World, caller: Caller) -> None:
    port = world.receiver.url.rpartition(":")[2]
    task = world.tasks.put(
        "logout",
        "nobody",
        caller.id,
        url=f"http://localhost:{port}/",
        now=Store(world.redis).now(),
    )
    outbox = Outbox(world.redis)

    def reason() -> str:
        page, _, _ = outbox.page("waiting", caller.id, 10)
        return "".join(one.reason for one in page if one.id == task)

    wait_until(reason, what="a try")
    assert "not public" in reason()
    assert caller.came(task) == []


def test_who_may_not_is_told_so_and_the_audit_log_holds_neither_text_nor_address(
    world: World, caller: Caller
) -> None:
    viewer = world.client(f"{caller.id} looks", "viewer")
    call = f"/ws/message/{ANA}/tell-nobody/{caller.back('x')}"
    assert viewer.curl(call)[0] == 403
    assert viewer.curl(call)[1]["status"] == "error"
    viewer.key = "pr_nobodys"
    assert viewer.curl(call) == (401, {"status": "error", "error": "Unauthorized access"})
    caller.call("message", ANA, "tell-nobody")
    log = world.http.get(
        f"{world.url}/api/v1/audit?limit=1000", auth=("postrider", PASSWORD), timeout=30
    )
    assert "tell-nobody" not in log.text
    assert f"of={caller.id}" not in log.text
    logs = (world.folder / "processes.log").read_text()
    assert "tell-nobody" not in logs
    assert f"of={caller.id}" not in logs


def test_there_is_nothing_else(world: World, caller: Caller) -> None:
    assert caller.curl(f"/ws/scan/{caller.back('x')}")[0] == 404
    assert caller.curl(f"/ws/login/{caller.back('x')}", "-X", "GET")[0] == 405


# -- others


def test_nobody_reaches_anothers_session(world: World, caller: Caller) -> None:
    caller.linked()
    other = world.client(f"{caller.id} other")
    assert other.comes(other.call("logout")) == "Currently not logged into any account"
    assert other.comes(other.call("login")) == "Please scan qr code"
    task = other.call("check", ANA)
    assert caller.state() == "linked"
    assert world.sidecar.sessions[caller.session]["number"]
    seen = world.http.get(
        f"{world.url}/api/v1/callbacks",
        headers={"Authorization": f"Bearer {other.key}"},
        timeout=30,
    )
    assert caller.id not in seen.text
    assert other.came(task) == []
    assert not [
        r
        for r in world.sidecar.requests
        if "check-exists" in r["path"] and caller.session in str(r["query"])
    ]


def test_the_session_is_the_only_one_there_is(world: World, caller: Caller) -> None:
    headers = {"Authorization": f"Bearer {caller.key}"}
    for name in ("shop", "other"):
        made = world.http.post(
            f"{world.url}/register-session", json={"session_id": name}, headers=headers, timeout=30
        )
        assert made.status_code == 201
        if name == "shop":
            caller.comes(caller.call("login"))
            assert caller.state() == ""
            assert f"shop_{caller.id}" in world.sidecar.sessions
    caller.comes(caller.call("login"))
    assert caller.state() == "scan"


# -- the path


RAW = "http://h:1/p?x=1&x=2"


@pytest.mark.parametrize(
    ("asked", "number", "url"),
    [
        (f"{ANA}/{RAW}", ANA, RAW),
        (f"{ANA}/{quote(RAW, safe='')}", ANA, RAW),
        (f"{ANA}/{quote(RAW, safe=':/')}", ANA, "http://h:1/p%3Fx%3D1%26x%3D2"),
        (f"{ANA}/http%3A%2F%2Fh%2Fp?x=1", ANA, "http://h/p?x=1"),
        (f"{ANA}/http%3A%2F%2Fh%2Fp%3Fa?x=1", ANA, "http://h/p?a&x=1"),
        (f"%2B{ANA}/http:/h/p", f"+{ANA}", "http://h/p"),
        (f"{ANA}//https%3a//h/a%2520b", ANA, "https://h/a%20b"),
        (f"{ANA}/http://h/ws/check/{ANA}/http://i", ANA, f"http://h/ws/check/{ANA}/http://i"),
        (f"{ANA}/http%3A%2F%2Fh%2F%C3%A9%20", ANA, "http://h/%C3%A9%20"),
        (f"{ANA}/http://h/\xc3\xa9", ANA, "http://h/%C3%A9"),
        (f"{ANA}/http://h/%2F%2525", ANA, "http://h/%2F%2525"),
    ],
)
@pytest.mark.parametrize("before", ["", "/api", "http://me:1"])
def test_the_return_url_is_the_rest_of_the_path(
    asked: str, number: str, url: str, before: str
) -> None:
    environ = {"RAW_URI": f"{before}/ws/check/{asked}"}
    assert raw.words(environ, "/ws/check/", 1) == ([number], url)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("a%2Fb%20c%3F%23%25/http://h", "a/b c?#%"),
        ("a/b/http://h", "a/b"),
        ("a%2F/http://h", "a/"),
        ("how?/http://h", "how?"),
        ("%2Fx%0Ay/http%3A%2F%2Fh", "/x\ny"),
        ("see%20http%3A%2F%2Fx.y%2Fz/http://h", "see http://x.y/z"),
        ("http%3A%2F%2Fx.y/http://h", "http://x.y"),
        ("\xd0\x9f%D0%9F/http://h", "ПП"),
        ("a+b/http:///h", "a+b"),
    ],
)
def test_the_message_is_what_was_written(asked: str, text: str) -> None:
    environ = {"REQUEST_URI": f"/ws/message/{ANA}/{asked}"}
    assert raw.words(environ, "/ws/message/", 2) == ([ANA, text], "http://h")


def test_a_server_that_keeps_no_raw_path_is_made_do_with() -> None:
    environ = {"PATH_INFO": f"/ws/message/{ANA}/1/2 \xc3\xa9?/http:/h/p", "QUERY_STRING": "x=%20"}
    words = raw.words(environ, "/ws/message/", 2)
    assert words == ([ANA, "1/2 é?"], "http://h/p?x=%20")


def test_a_path_of_nothing_but_slashes_takes_no_time() -> None:
    started = time.monotonic()
    for asked in ("/" * 8_000, "a/" * 4_000, "http:" * 1_600, "/http:" * 1_300):
        try:
            raw.words({"RAW_URI": f"/ws/message/{ANA}/{asked}"}, "/ws/message/", 2)
        except InvalidRequest:
            continue
    assert time.monotonic() - started < 5


# -- tasks


@pytest.fixture
def kept(client: redis.Redis) -> Tasks:
    return Tasks(client)


def put(
    kept: Tasks, client: redis.Redis, session: str, kind: tasks.Kind = "check", n: int = 1
) -> list[str]:
    now = Store(client).now()
    return [kept.put(kind, session, "ann", url="http://h/", now=now, to=ANA) for _ in range(n)]


def told(client: redis.Redis) -> list[tuple[str, Any]]:
    lines = [json.loads(line) for line in client.lrange("pr:outbox", 0, -1)]
    return [(line["task"], line["data"]["result"]) for line in lines]


def test_tasks_of_a_session_are_done_one_after_the_other(client: redis.Redis, kept: Tasks) -> None:
    a1, a2 = put(kept, client, "a", n=2)
    (b1,) = put(kept, client, "b")
    (link,) = put(kept, client, "a", "login")
    taken = {task.id: task for task in kept.take(10, 60)}
    assert set(taken) == {a1, b1, link}
    assert kept.take(10, 60) == []
    after = kept.end(taken[a1], True, 60)
    assert after is not None
    assert after.id == a2
    assert kept.take(10, 60) == []
    assert kept.end(after, False, 60) is None
    assert told(client) == [(a1, True), (a2, False)]
    assert client.hgetall("pr:work:of") == {b"ann": b"2"}


def test_one_that_waits_keeps_its_place_or_goes_behind(client: redis.Redis, kept: Tasks) -> None:
    a1, a2 = put(kept, client, "a", n=2)
    (task,) = kept.take(10, 60)
    assert kept.wait(task, 0)
    (task,) = kept.take(10, 60)
    assert (task.id, task.tries) == (a1, 1)
    assert kept.wait(task, 0, behind=True)
    (task,) = kept.take(10, 60)
    assert task.id == a2
    assert kept.wait(task, 50)
    assert kept.take(10, 60) == []
    assert put(kept, client, "a")  # does not wake the others
    assert kept.take(10, 60) == []


def test_whoever_comes_late_changes_nothing(client: redis.Redis, kept: Tasks) -> None:
    (a1,) = put(kept, client, "a")
    (late,) = kept.take(1, 0)
    (task,) = kept.take(1, 60)
    assert (late.id, task.id) == (a1, a1)
    assert not kept.wait(late, 0)
    assert not kept.begin(late)
    assert kept.begin(task)
    assert kept.end(task, "said", 60) is None
    assert kept.end(late, "otherwise", 60) is None
    assert told(client) == [(a1, "said")]
    assert not kept.wait(task, 0)
    left = [key for key in client.scan_iter() if re.match(rb"pr:(task|work)", key)]
    assert left == []


def test_a_client_has_so_many_tasks_and_no_more(
    client: redis.Redis, kept: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "MOST_OF_ONE", 3)
    put(kept, client, "a", n=3)
    with pytest.raises(TooManyRequests, match="this client's"):
        put(kept, client, "b")
    (task, *_) = kept.take(10, 60)
    kept.end(task, True, 60)
    put(kept, client, "b")
    monkeypatch.setattr(tasks, "MOST", 3)
    with pytest.raises(TooManyRequests, match="everybody's"):
        kept.put("check", "c", "bob", url="http://h/", now=Store(client).now(), to=ANA)
