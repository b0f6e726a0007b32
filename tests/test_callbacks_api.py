"""/api/v1/callbacks and `postrider callbacks`: seeing and replaying them, and testing a receiver."""

import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
import redis
import standardwebhooks
from flask import g
from flask.testing import FlaskClient

from postrider.callbacks import Result
from postrider.model import Client
from postrider.outbox import Outbox
from postrider.selftest.fleet import free_port
from postrider.settings import Settings
from postrider.web import create_app
from tests.conftest import PASSWORD, Api, Postrider
from tests.receiver import Receiver, Says
from tests.test_callbacks import SECRET
from tests.test_outbox import DEAD, record, told


@pytest.fixture
def env(env: dict[str, str]) -> dict[str, str]:
    return env | {"WEBHOOK_SECRET": SECRET, "CALLBACK_ALLOW_PRIVATE": "127.0.0.0/8"}


@pytest.fixture
def outbox(client: redis.Redis) -> Outbox:
    return Outbox(client)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


As = Callable[[str, str], FlaskClient]


@pytest.fixture
def as_client(settings: Settings) -> As:
    """The API as a client with that id and role meets it."""

    def make(id_: str, role: str) -> FlaskClient:
        app = create_app(settings, sweeps=False)

        def become() -> None:
            g.client = Client(id_, id_, role)  # type: ignore[arg-type]

        # Behind the gate, as a key would be known there.
        app.before_request_funcs["callbacks"].append(become)
        found = app.test_client()
        known = base64.b64encode(f"postrider:{PASSWORD}".encode()).decode()
        found.environ_base["HTTP_AUTHORIZATION"] = f"Basic {known}"
        return found

    return make


def test_a_list_shows_what_became_of_each(api: Api, outbox: Outbox) -> None:
    waits, dead, done = told(outbox, 3)
    record(outbox, [dead], DEAD)
    record(outbox, [done], Result("done", 204))
    found = api.get("/api/v1/callbacks").json()
    assert (found["total"], found["next"]) == (1, None)
    (one,) = found["callbacks"]
    assert one["id"] == dead.id
    assert (one["state"], one["tries"], one["status"], one["reason"]) == ("dead", 1, 500, "no")
    assert (one["url"], one["type"]) == (dead.url, "message.received")
    assert one["data"] in [{"n": n} for n in range(3)]
    assert one["next_try_at"] is None
    assert datetime.fromisoformat(one["ended_at"]).tzinfo == UTC
    waiting = api.get("/api/v1/callbacks?state=waiting").json()["callbacks"]
    assert [one["id"] for one in waiting] == [waits.id]
    assert waiting[0]["next_try_at"]
    assert [one["id"] for one in api.get("/api/v1/callbacks?state=done").json()["callbacks"]] == [
        done.id
    ]


def test_pages_go_on_where_the_one_before_ended(api: Api, outbox: Outbox) -> None:
    made = [one.id for one in told(outbox, 7)]
    seen, cursor = [], None
    while True:
        params = {"state": "waiting", "limit": 3} | ({"cursor": cursor} if cursor else {})
        found = api.get("/api/v1/callbacks", params=params).json()
        seen += [one["id"] for one in found["callbacks"]]
        if not (cursor := found["next"]):
            break
    assert seen == sorted(made, reverse=True)


@pytest.mark.parametrize("query", ["state=lost", "limit=0", "limit=x", "cursor=x", "status=dead"])
def test_a_wrong_question_is_refused(api: Api, query: str) -> None:
    answer = api.get(f"/api/v1/callbacks?{query}")
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["errors"][0]["field"] == query.partition("=")[0]


def test_one_is_replayed_once_it_has_ended(api: Api, outbox: Outbox) -> None:
    (one,) = told(outbox)
    assert api.post(f"/api/v1/callbacks/{one.id}/replay").status_code == 409
    record(outbox, [one], DEAD)
    replayed = api.post(f"/api/v1/callbacks/{one.id}/replay")
    assert (replayed.status_code, replayed.json()["state"]) == (200, "waiting")
    assert api.get(f"/api/v1/callbacks/{one.id}").json()["tries"] == 0


def test_all_dead_ones_are_replayed(api: Api, outbox: Outbox) -> None:
    record(outbox, told(outbox, 5), DEAD)
    assert api.post("/api/v1/callbacks/replay").json() == {"replayed": 5, "left": 0}


def test_what_is_another_clients_is_not_there(as_client: As, outbox: Outbox) -> None:
    mine, others = told(outbox, 1, owner="a"), told(outbox, 1, owner="b")
    record(outbox, [*mine, *others], DEAD)
    a = as_client("a", "sender")
    assert [one["id"] for one in a.get("/api/v1/callbacks").json["callbacks"]] == [mine[0].id]
    unknown = a.get(f"/api/v1/callbacks/{'x' * 30}")
    for answer in (
        a.get(f"/api/v1/callbacks/{others[0].id}"),
        a.post(f"/api/v1/callbacks/{others[0].id}/replay"),
    ):
        assert answer.status_code == unknown.status_code == 404
        assert answer.data == unknown.data
    assert a.post("/api/v1/callbacks/replay").json == {"replayed": 1, "left": 0}
    assert outbox.find(others[0].id, None).state == "dead"


def test_a_viewer_looks_and_does_not_replay(as_client: As, outbox: Outbox) -> None:
    (one,) = told(outbox, 1, owner="a")
    record(outbox, [one], DEAD)
    viewer = as_client("a", "viewer")
    assert viewer.get(f"/api/v1/callbacks/{one.id}").status_code == 200
    for path in (f"{one.id}/replay", "replay"):
        assert viewer.post(f"/api/v1/callbacks/{path}").status_code == 403


def test_nobody_comes_in_without_a_login(api: Api) -> None:
    for answer in (
        api.get("/api/v1/callbacks", auth=("x", "y")),
        api.post("/api/v1/callbacks/replay", auth=("x", "y")),
    ):
        assert answer.status_code == 401


# --- the command


def test_the_command_lists_and_replays(
    postrider: Postrider, outbox: Outbox, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = told(outbox, 2)
    record(outbox, [one, other], Result("dead", 500, "no\t\x1b[2J"))
    assert postrider("callbacks", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == [other.id, one.id]
    assert lines[0].endswith("\t500 no\\t\\x1b[2J")
    assert postrider("callbacks", "list", "--json", "--limit", "1") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["total"], found["callbacks"][0]["id"]) == (2, other.id)
    assert postrider("callbacks", "list", "--limit", "1", "--cursor", found["next"]) == 0
    assert capsys.readouterr().out.startswith(one.id)
    assert postrider("callbacks", "replay", one.id) == 0
    assert postrider("callbacks", "replay", one.id) == 1
    assert postrider("callbacks", "replay") == 0
    assert capsys.readouterr().out == "1 tried anew\n1 tried anew\n"
    assert postrider("callbacks", "replay", "nobody") == 1
    assert capsys.readouterr().err.endswith("no such callback\n")


def test_a_test_posts_a_signed_event(
    postrider: Postrider, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    assert postrider("callbacks", "test", receiver.url) == 0
    (got,) = receiver.calls
    assert standardwebhooks.Webhook(SECRET).verify(got.body, got.headers)["type"] == "test"
    assert "HTTP 204\n-> well" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("says", "advice"),
    [
        (Says(302, {"Location": "https://new.example/"}), "give the address it redirects to"),
        (Says(401), "WEBHOOK_SECRET"),
        (Says(404), "the path"),
        (Says(410), "turns an address off"),
        (Says(500, body=b"\x1b[2J"), "only 2xx is a yes"),
    ],
)
def test_a_test_says_what_to_do(
    postrider: Postrider,
    receiver: Receiver,
    capsys: pytest.CaptureFixture[str],
    says: Says,
    advice: str,
) -> None:
    receiver.script = lambda _: says
    assert postrider("callbacks", "test", receiver.url) == 1
    out = capsys.readouterr().out
    assert f"HTTP {says.status} " in out
    assert advice in out
    assert "\x1b" not in out


def test_a_test_that_does_not_get_through_says_why(
    postrider: Postrider, capsys: pytest.CaptureFixture[str]
) -> None:
    assert postrider("callbacks", "test", f"http://127.0.0.1:{free_port()}") == 1
    assert "could not connect\n-> see that it runs" in capsys.readouterr().out
    assert postrider("callbacks", "test", "http://10.0.0.1/") == 1
    assert "CALLBACK_ALLOW_PRIVATE" in capsys.readouterr().out
    assert postrider("callbacks", "test", "http://10.0.0.1/", WEBHOOK_SECRET=None) == 2
