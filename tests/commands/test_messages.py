"""What /api/v1 does for messages, deliveries, stops, the ledger, schedules and incoming messages, done by `postrider`."""

import csv
import io
import json
from typing import Any

import pytest

from messengers.inward import Incoming
from postrider import audit
from postrider.clients import Clients
from postrider.finding import Wanted
from postrider.model import Quota
from postrider.service import Service
from tests.conftest import Api, AtTerminal, Postrider, wait_until
from tests.test_receipts import hear, receipt, sent

AT = "2030-10-05 13:48:00"
EVIL = "first\x1b[31m red\n\u202esecond\ttab"
NOBODY = "0" * 21
Json = dict[str, Any]


def post(api: Api, *uuids: str, at: str | None = AT, **more: Any) -> str:
    """The id of a message to these of the sandbox."""
    to = [{"uuid": uuid, "service": "sandbox"} for uuid in uuids or ("1",)]
    when = {"send_at": at} if at else {}
    answer = api.post("/api/v1/messages", json={"body": "Hi", "recipients": to, **when, **more})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


@pytest.fixture
def told(postrider: Postrider, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `postrider ...` and gives its exit code, stdout and stderr."""

    def run(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = postrider(*argv)
        return (code, *capsys.readouterr())

    return run


def done_by(service: Service) -> list[tuple[str, str]]:
    """What the audit log has of shells: action, what; newest first."""
    found, _ = audit.Audit(service.store.redis, 100).page(audit.Wanted(), 100)
    return [(e.action, e.what) for e in found if e.name.startswith("shell:")]


# -- lists


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"tag": "autumn"},
        {"reference": "order-17"},
        {"uuid": "2"},
        {"service": "sandbox"},
        {"service": "telegram"},
        {"state": "scheduled"},
        {"from": "2001-01-01 00:00:00"},
        {"to": "2001-01-01 00:00:00"},
        {"limit": "1"},
    ],
)
def test_both_lists_as_json_are_the_api_s(told: Any, api: Api, filters: dict[str, str]) -> None:
    post(api, "1", "2", tags=["autumn"], body=EVIL)
    post(api, "3", reference="order-17")
    flags = [word for name, value in filters.items() for word in (f"--{name}", value)]
    for which in ("messages", "deliveries"):
        code, out, _ = told(which, "--json", *flags)
        assert code == 0
        assert json.loads(out) == api.get(f"/api/v1/{which}", params=filters).json()
        assert out.isascii()


def test_deliveries_are_also_found_by_message_and_account(told: Any, api: Api) -> None:
    mid = post(api, "1", "2")
    post(api, "3")
    for flags in (
        ("--message", mid),
        ("--message", mid, "--service", "sandbox", "--account", "default"),
    ):
        _, out, _ = told("deliveries", *flags)
        assert [line.split("\t")[2] for line in out.splitlines()] == ["1", "2"]


def test_a_piped_list_is_a_line_each_with_nothing_a_terminal_obeys(told: Any, api: Api) -> None:
    mid = post(api, body=EVIL)
    _, out, err = told("messages")
    text = r"first\x1b[31m red\n\u202esecond\ttab"
    assert out == f"{AT}\tscheduled\t1\t{text}\t{mid}\n"
    assert err == ""


def test_a_part_of_a_list_leads_to_the_next(told: Any, api: Api) -> None:
    ids = [post(api), post(api)]
    _, out, err = told("messages", "--limit", "1")
    assert "the next: " in err
    _, rest, _ = told("messages", "--limit", "1", "--cursor", err.split()[-1])
    assert [line.split("\t")[-1] for line in (out + rest).splitlines()] == ids[::-1]


@pytest.mark.parametrize("which", ["messages", "deliveries"])
def test_an_export_holds_all_that_is_found_and_is_the_api_s(
    which: str, told: Any, api: Api
) -> None:
    for n in range(3):
        post(api, f"={n}", reference="+1-1" if n else "-2")
    _, out, _ = told(which, "--ndjson", "--limit", "1")
    rows = [json.loads(line) for line in out.splitlines()]
    theirs = api.get(f"/api/v1/{which}", headers={"Accept": "application/x-ndjson"}).text
    assert rows == [json.loads(line) for line in theirs.splitlines()]
    assert len(rows) == 3
    _, out, _ = told(which, "--csv")
    theirs = api.get(f"/api/v1/{which}", headers={"Accept": "text/csv"}).text
    assert list(csv.reader(io.StringIO(out))) == list(csv.reader(io.StringIO(theirs)))


def test_a_terminal_gets_a_table_that_nobody_s_text_can_command(
    at_terminal: AtTerminal, api: Api
) -> None:
    mid = post(api, body=EVIL)
    code, screen = at_terminal("messages")
    assert code == 0
    assert "Due (UTC)" in screen
    assert "\x1b[36mscheduled" in screen
    assert mid in screen
    assert r"first\x1b[31m red" in screen
    assert not {"\u202e"} & set(screen)
    assert "\x1b[31m" not in screen
    _, screen = at_terminal("messages", "--csv")
    assert "\x1b" not in screen


# -- one


@pytest.mark.usefixtures("worker")
def test_show_tells_of_each_try(told: Any, api: Api, service: Service) -> None:
    mid = post(api, "1", "blocked", at=None)
    wait_until(lambda: service.finished(9, None).total == 2)
    answer = json.loads(told("show", "--json", mid)[1])
    deliveries = answer.pop("deliveries")
    assert answer.pop("next") is None
    assert answer == api.get(f"/api/v1/messages/{mid}").json()
    for one in deliveries:
        alone = json.loads(told("show", "--json", one["id"])[1])
        assert alone == one
        assert one == api.get(f"/api/v1/deliveries/{one['id']}").json()
        assert len(one["tries"]) == 1
    lines = told("show", f"{mid}-1")[1].splitlines()
    assert f"id: {mid}-1" in lines
    assert sum(line.startswith("try: ") for line in lines) == 1


def test_show_tells_what_the_messenger_said_later(told: Any, service: Service) -> None:
    id_ = sent(service)
    hear(service, receipt("delivered"), receipt("read"))
    said = json.loads(told("show", "--json", id_)[1])["receipts"]
    assert [(r["state"], r["reason"]) for r in said] == [("delivered", ""), ("read", "")]
    lines = told("show", id_.partition("-")[0])[1].splitlines()
    assert [line for line in lines if line.startswith("receipt: ")] == [
        f"receipt: {r['at']}: {r['state']}" for r in said
    ]


# -- changes


def test_cancel_stops_one_message(told: Any, api: Api, service: Service) -> None:
    mid = post(api, "1", "2")
    assert told("cancel", mid) == (0, "2 cancelled.\n", "")
    assert api.get(f"/api/v1/messages/{mid}").json()["counts"] == {"cancelled": 2}
    assert told("cancel", mid) == (1, "", "postrider: 0 cancelled; as before: 2 cancelled.\n")
    assert done_by(service) == [("cancel", mid)] * 2


@pytest.mark.parametrize("flag", ["tag", "reference"])
def test_cancel_stops_all_with_a_tag_or_reference(
    flag: str, told: Any, api: Api, service: Service
) -> None:
    mark: Json = {"tags": ["autumn"]} if flag == "tag" else {"reference": "autumn"}
    ids = [post(api, **mark), post(api, **mark)]
    other = post(api)
    code, out, _ = told("cancel", f"--{flag}", "autumn", "--json")
    assert (code, json.loads(out)) == (0, {"changed": 2, "unchanged": {}})
    states = [api.get(f"/api/v1/messages/{mid}").json()["state"] for mid in (*ids, other)]
    assert states == ["cancelled", "cancelled", "scheduled"]
    assert done_by(service) == [("cancel", f"{flag} autumn")]


def test_one_delivery_is_cancelled_and_sent_again(told: Any, api: Api, service: Service) -> None:
    mid = post(api, "1", "2")
    assert told("cancel", f"{mid}-1") == (0, f"{mid}-1 is cancelled.\n", "")
    assert api.get(f"/api/v1/messages/{mid}").json()["counts"] == {"cancelled": 1, "scheduled": 1}
    code, _, err = told("cancel", f"{mid}-1")
    assert (code, err) == (1, "postrider: it is cancelled; only what waits can be stopped\n")
    assert told("retry", f"{mid}-1")[0] == 0
    assert "cancelled" not in api.get(f"/api/v1/messages/{mid}").json()["counts"]
    assert told("retry", f"{mid}-0")[0] == 1
    assert done_by(service) == [("retry", f"{mid}-1"), ("cancel", f"{mid}-1")]


def test_a_message_is_paused_moved_rewritten_and_resumed(
    told: Any, api: Api, service: Service
) -> None:
    mid = post(api)
    assert told("pause", mid) == (0, "1 paused.\n", "")
    assert api.get(f"/api/v1/messages/{mid}").json()["counts"] == {"paused": 1}
    zone = ("--timezone", "Asia/Tokyo")
    assert told("move", mid, "--at", "2031-01-01 09:00:00", *zone) == (0, "1 moved.\n", "")
    assert told("rewrite", mid, "Other")[0] == 0
    assert told("resume", mid) == (0, "1 resumed.\n", "")
    (one,) = api.get("/api/v1/deliveries").json()["deliveries"]
    assert (one["state"], one["due_at"]) == ("scheduled", "2031-01-01T00:00:00Z")
    assert api.get(f"/api/v1/messages/{mid}").json()["body"] == "Other"
    actions = ["resume", "rewrite", "move", "pause"]
    assert done_by(service) == [(action, mid) for action in actions]


def test_a_message_is_moved_by_seconds_from_now(told: Any, api: Api, service: Service) -> None:
    mid = post(api)
    assert told("move", mid, "--in", "3600")[0] == 0
    (found,), _ = service.finder.messages(Wanted(), 9)
    (one,), _ = service.finder.deliveries(Wanted(), 9)
    assert found.message.id == mid
    assert one.at is not None
    assert 3500 < (one.at - service.store.now()).total_seconds() <= 3600


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["show", NOBODY], "there is no such message"),
        (["show", f"{NOBODY}-0"], "there is no such delivery"),
        (["show", "\x1b[2J"], "there is no such message"),
        (["cancel", NOBODY], "there is no such message"),
        (["cancel", f"{NOBODY}-0"], "there is no such delivery"),
        (["retry", NOBODY], "there is no such delivery"),
        (["pause", NOBODY], "there is no such message"),
        (["resume", f"{NOBODY}-0"], "there is no such message"),
        (["move", NOBODY, "--in", "5"], "there is no such message"),
        (["move", NOBODY, "--in", "5", "--timezone", "UTC"], "--timezone: is for --at"),
        (["move", NOBODY, "--at", "tomorrow"], "send_at: write it as"),
        (["rewrite", NOBODY, "Hi"], "there is no such message"),
        (["messages", "--from", "tomorrow"], "--from: write it as"),
        (["deliveries", "--cursor", "%"], "cursor: is not one that this service gave"),
        (["cancel", "--tag", "nobody has it"], "0 cancelled."),
        (["stop", "--service", "fax"], "service: is none that is set up here"),
        (["stop", "--account", "shop"], "account: is none that is set up here"),
        (["stop", "--client", "k"], "client: is neither the id nor the name of an API key or user"),
        (["stop", "--client", "k", "--service", "sandbox"], "client: stop a client or a messenger"),
        (["go-on"], "that is not stopped"),
        (["ledger", "--to", "x"], "--to: write it as"),
        (["incoming", "--cursor", "x"], "cursor: is not one that this service gave"),
        (["schedules", "list", "--cursor", "x"], "cursor: is not one that this service gave"),
        (["schedules", "show", NOBODY], "no such schedule"),
        (["schedules", "pause", NOBODY], "no such schedule"),
        (["schedules", "delete", NOBODY], "no such schedule"),
    ],
)
def test_what_is_refused_is_one_line_and_changes_nothing(
    argv: list[str], says: str, told: Any, service: Service
) -> None:
    code, out, err = told(*argv)
    assert (code, out) == (1, "")
    assert err.startswith(f"postrider: {says}")
    assert err.count("\n") == 1
    assert "\x1b" not in err
    assert [action for action, what in done_by(service) if not what.startswith("tag")] == []


@pytest.mark.parametrize(
    "argv",
    [
        ["cancel"],
        ["cancel", NOBODY, "--tag", "t"],
        ["move", NOBODY],
        ["move", NOBODY, "--in", "-1"],
        ["move", NOBODY, "--in", "nan"],
        ["messages", "--limit", "0"],
        ["messages", "--state", "sent"],
        ["messages", "--tag", "a\udcffb"],
        ["deliveries", "--csv", "--json"],
        ["stops", "all"],
    ],
)
def test_a_wrong_call_is_explained(argv: list[str], postrider: Postrider) -> None:
    with pytest.raises(SystemExit) as left:
        postrider(*argv)
    assert left.value.code == 2


# -- operations


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ([], "all"),
        (["--service", "sandbox"], "service sandbox"),
        (["--service", "sandbox", "--account", "default"], "account sandbox"),
        (["--client", "shop"], "client ID"),
    ],
)
def test_a_stop_is_the_api_s_until_it_goes_on(
    flags: list[str], name: str, told: Any, api: Api, service: Service
) -> None:
    shop, _ = Clients(service.store.redis).add_key("shop", "sender", "me", Quota())
    name = name.replace("ID", shop.id)
    assert told("stop", *flags)[0] == 0
    stops = api.get("/api/v1/stops").json()
    assert len(stops["stops"]) == 1
    assert json.loads(told("stops", "--json")[1]) == stops
    assert told("stops", "list")[1].startswith(f"{name}\t")
    assert told("go-on", *flags) == (0, "", "It goes on.\n")
    assert api.get("/api/v1/stops").json() == {"stops": []}
    assert done_by(service) == [("go-on", name), ("stop", name)]


def test_the_ledger_is_the_api_s(told: Any, api: Api) -> None:
    post(api, "1", "2")
    told("cancel", f"{post(api)}-0")
    for span in ({}, {"from": "2001-01-01 00:00:00", "to": "2002-01-01 00:00:00"}):
        flags = [word for end, at in span.items() for word in (f"--{end}", at)]
        answer = json.loads(told("ledger", "--json", *flags)[1])
        assert answer == api.get("/api/v1/ledger", params=span).json()
    lines = told("ledger")[1].splitlines()
    assert {"accepted: 3", "cancelled: 1", "waiting: 2", "difference: 0"} <= set(lines)


def test_incoming_messages_are_the_api_s(told: Any, api: Api, service: Service) -> None:
    heard = [Incoming(f"m{n}", None, str(n), EVIL, EVIL) for n in range(3)]
    nothing: frozenset[str] = frozenset()
    service.arrivals.take("viber", "default", heard, kept=9, opt_out=nothing, opt_in=nothing)
    for filters in ({}, {"uuid": "1"}, {"service": "telegram"}, {"limit": "2"}):
        flags = [word for name, value in filters.items() for word in (f"--{name}", value)]
        answer = json.loads(told("incoming", "--json", *flags)[1])
        assert answer == api.get("/api/v1/incoming", params=filters).json()
    _, out, _ = told("incoming")
    assert len(out.splitlines()) == 3
    assert "\x1b" not in out


def test_schedules_are_the_api_s_and_are_paused_resumed_and_deleted(
    told: Any, api: Api, service: Service
) -> None:
    ids = []
    for _ in range(2):
        to = [{"uuid": "1", "service": "sandbox"}]
        new = {"body": "Hi", "recipients": to, "repeat": {"cron": "0 9 * * 1-5"}}
        ids.append(api.post("/api/v1/schedules", json=new).json()["id"])
    part = json.loads(told("schedules", "list", "--json", "--limit", "1")[1])
    assert part == api.get("/api/v1/schedules?limit=1").json()
    assert [line.split("\t")[-1] for line in told("schedules")[1].splitlines()] == ids[::-1]
    path = f"/api/v1/schedules/{ids[0]}"
    for act, state in (("pause", "paused"), ("resume", "active")):
        answer = json.loads(told("schedules", act, "--json", ids[0])[1])
        assert answer["state"] == state
        assert answer == api.get(path).json()
    assert told("schedules", "show", ids[0])[1].count("date: ") == 10
    assert told("schedules", "delete", ids[0])[0] == 0
    assert api.get(path).status_code == 404
    acts = ["schedules delete", "schedules resume", "schedules pause"]
    assert done_by(service) == [(act, ids[0]) for act in acts]
