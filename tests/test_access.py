"""/api/v1/keys, /users, /me and /audit over real HTTP, and the commands `keys`, `users` and `audit`."""

import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from postrider import audit
from postrider.audit import Audit, Wanted
from postrider.errors import InvalidRequest
from tests.conftest import PASSWORD, Api, AtTerminal, Postrider, wait_until

SHOP = {"name": "shop", "role": "sender"}
ANA = {"name": "ana", "role": "viewer", "password": "a password of ana's"}


def made(api: Api, what: str = "keys", **body: Any) -> dict[str, Any]:
    reply = api.post(f"/api/v1/{what}", json=body)
    assert reply.status_code == 201, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def as_key(key: str) -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {key}"}, "auth": lambda request: request}


# -- keys


def test_a_key_is_shown_once(api: Api) -> None:
    reply = api.post("/api/v1/keys", json={**SHOP, "limits": {"rate": 5}})
    assert (reply.status_code, reply.headers["Cache-Control"]) == (201, "no-store")
    key = reply.json()
    assert set(key) == {
        *("id", "key", "name", "role", "created_at", "by", "last_used_at", "disabled_at", "limits")
    }
    assert (key["by"], key["role"]) == ("postrider", "sender")
    assert key["limits"] == {"rate": 5.0, "waiting": None, "recipients": None, "file_bytes": None}
    secret = key.pop("key")
    assert api.get(f"/api/v1/keys/{key['id']}").json() == key
    assert api.get("/api/v1/keys").json() == {"keys": [key], "next": None}
    assert secret not in api.get("/api/v1/audit").text


@pytest.mark.parametrize("form", ["Bearer {}", "Token token={}", 'Token token="{}"'])
def test_a_key_comes_in_by_either_scheme(api: Api, form: str) -> None:
    key = made(api, **SHOP)
    api.auth = None
    me = api.get("/api/v1/me", headers={"Authorization": form.format(key["key"])}).json()
    assert (me["id"], me["name"], me["role"]) == (key["id"], "shop", "sender")


def test_me_is_the_user_of_the_settings(api: Api) -> None:
    assert api.get("/api/v1/me").json() == {
        "id": "",
        "name": "postrider",
        "role": "admin",
        "limits": {"rate": None, "waiting": None, "recipients": None, "file_bytes": None},
    }


def test_a_key_is_changed_and_taken_away(api: Api) -> None:
    key = made(api, **SHOP)
    path = f"/api/v1/keys/{key['id']}"
    changed = api.patch(path, json={"role": "admin", "disabled": True, "limits": {"waiting": 3}})
    assert changed.json()["role"] == "admin"
    assert changed.json()["disabled_at"] is not None
    assert changed.json()["limits"] == {
        "rate": None,
        "waiting": 3,
        "recipients": None,
        "file_bytes": None,
    }
    same = api.patch(path, json={}).json()
    assert same == changed.json()
    wait_until(
        lambda: api.get("/api/v1/me", **as_key(key["key"])).status_code == 401, 2, figure=True
    )
    on = api.patch(path, json={"disabled": False, "limits": {}}).json()
    assert (on["disabled_at"], on["limits"]["waiting"]) == (None, None)
    gone = api.delete(path)
    assert (gone.status_code, gone.content) == (204, b"")
    for method in ("GET", "PATCH", "DELETE"):
        assert api.request(method, path, json={} if method == "PATCH" else None).status_code == 404
    made(api, **SHOP)  # the name is free again


@pytest.mark.parametrize(
    ("what", "body", "field"),
    [
        ("keys", {"name": "shop"}, "role"),
        ("keys", {**SHOP, "role": "owner"}, "role"),
        ("keys", {**SHOP, "name": ""}, "name"),
        ("keys", {**SHOP, "name": "a:b"}, "name"),
        ("keys", {**SHOP, "name": "a\n"}, "name"),
        ("keys", {**SHOP, "name": "x" * 65}, "name"),
        ("keys", {**SHOP, "key": "mine"}, "key"),
        ("keys", {**SHOP, "limits": {"rate": 0}}, "limits.rate"),
        ("keys", {**SHOP, "limits": {"waiting": -1}}, "limits.waiting"),
        ("keys", {**SHOP, "limits": {"speed": 1}}, "limits.speed"),
        ("users", SHOP, "password"),
        ("users", {**ANA, "password": "short"}, "password"),
        ("users", {**ANA, "name": "postrider"}, "name"),
    ],
)
def test_what_cannot_be_made_is_told_by_field(
    api: Api, what: str, body: dict[str, Any], field: str
) -> None:
    reply = api.post(f"/api/v1/{what}", json=body)
    assert reply.status_code == 400
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert [fault["field"] for fault in reply.json()["errors"]] == [field]
    assert "short" not in reply.text


def test_a_name_is_taken_once(api: Api) -> None:
    made(api, **SHOP)
    assert "is taken" in api.post("/api/v1/keys", json=SHOP).json()["error"]
    made(api, "users", **{**ANA, "name": "shop"})  # of another kind


def test_keys_are_listed_in_pages(api: Api) -> None:
    names = [made(api, name=f"key {n}", role="viewer")["name"] for n in range(7)]
    found: list[str] = []
    path = "/api/v1/keys?limit=3"
    while path:
        page = api.get(path).json()
        assert len(page["keys"]) <= 3
        found += [key["name"] for key in page["keys"]]
        path = f"/api/v1/keys?limit=3&cursor={page['next']}" if page["next"] else ""
    assert found == names
    assert api.get("/api/v1/keys?cursor=junk").status_code == 400


# -- users


def test_a_user_comes_in_until_taken_away(api: Api) -> None:
    user = made(api, "users", **ANA)
    assert "password" not in json.dumps(user)
    me = {"auth": ("ana", ANA["password"])}
    assert api.get("/api/v1/me", **me).json()["role"] == "viewer"
    assert api.get(f"/api/v1/keys/{user['id']}").status_code == 404  # it is no key
    path = f"/api/v1/users/{user['id']}"
    assert api.patch(path, json={"password": "another password"}).status_code == 200
    assert api.get("/api/v1/me", auth=("ana", "another password")).status_code == 200
    assert api.get("/api/v1/users").json()["users"][0]["last_used_at"] is not None
    assert api.delete(path).status_code == 204


# -- audit


def actions(api: Api, query: str = "") -> list[tuple[str, str, str]]:
    entries = api.get(f"/api/v1/audit{query}").json()["entries"]
    return [(e["name"], e["action"], e["result"]) for e in entries]


def test_what_changes_something_is_written_down_and_what_reads_is_not(api: Api) -> None:
    key = made(api, **SHOP)
    body = {"body": "planted text", "recipients": [{"uuid": "a", "service": "sandbox"}]}
    sent = api.post("/send_message", json=body, **as_key(key["key"])).json()["message"]["id"]
    api.get("/get_scheduled")
    api.post("/send_message", json={})  # a 400 changes nothing
    api.delete("/delete_all")
    api.patch(f"/api/v1/keys/{key['id']}", json={"role": "viewer"})
    me = as_key(key["key"])
    wait_until(lambda: api.get("/api/v1/me", **me).json()["role"] == "viewer", 2, figure=True)
    api.post("/send_message", json=body, **as_key(key["key"]))
    api.get("/api/v1/me", auth=("mallory", "planted guess"))
    assert actions(api) == [
        ("mallory", "login", "401"),
        ("shop", "POST /send_message", "403"),
        ("postrider", "PATCH /api/v1/keys/{id}", "200"),
        ("postrider", "DELETE /delete_all", "200"),
        ("shop", "POST /send_message", "200"),
        ("postrider", "POST /api/v1/keys", "201"),
    ]
    text = api.get("/api/v1/audit").text
    assert "planted" not in text
    entries = json.loads(text)["entries"]
    by_action = {e["action"]: e for e in entries if e["result"] != "403"}
    assert by_action["POST /send_message"]["what"] == sent
    assert by_action["POST /send_message"]["actor"] == key["id"]
    assert by_action["POST /api/v1/keys"]["what"] == key["id"]
    assert by_action["PATCH /api/v1/keys/{id}"]["what"] == key["id"]
    assert {e["address"] for e in entries} == {"127.0.0.1"}


def test_the_log_is_filtered_by_who_what_and_when(api: Api) -> None:
    key = made(api, **SHOP)
    api.delete("/delete_all")
    api.delete("/delete_all", **as_key(key["key"]))
    assert actions(api, "?actor=shop") == [("shop", "DELETE /delete_all", "403")]
    assert actions(api, f"?actor={key['id']}") == actions(api, "?actor=shop")
    assert len(actions(api, "?action=DELETE /delete_all")) == 2
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    later, before = ((now + d).isoformat().replace("+", "%2B") for d in (hour, -hour))
    assert len(actions(api, f"?from={before}&to={later}")) == 3
    assert actions(api, f"?from={later}") == []
    assert actions(api, f"?to={before}") == []
    assert api.get("/api/v1/audit?from=2026-01-01T00:00:00").status_code == 400  # of which zone?
    assert api.get("/api/v1/audit?to=9999-12-31T23:59:59Z").status_code == 400
    assert api.get("/api/v1/audit?cursor=x").status_code == 400


@pytest.fixture
def log(client: redis.Redis) -> Audit:
    return Audit(client, 100_000)


def write(log: Audit, kind: audit.Kind, action: str, name: str = "ana") -> None:
    log.write(kind, actor="", name=name, action=action, what="", address="", result="ok")


def everything(log: Audit, limit: int, wanted: Wanted) -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        entries, cursor = log.page(wanted, limit, cursor)
        found += [entry.action for entry in entries]
        if cursor is None:
            return found


@pytest.mark.parametrize("limit", [1, 3, 7, 1000])
def test_pages_of_all_kinds_join_without_gap_or_double(log: Audit, limit: int) -> None:
    for n in range(60):
        write(log, audit.KINDS[n * 7 % 3], str(n))
    told = [entry.action for entry in log.page(Wanted(), 1000)[0]]
    assert sorted(map(int, told)) == list(range(60))
    assert everything(log, limit, Wanted()) == told


def test_a_filter_that_finds_little_goes_on_by_its_cursor(
    log: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "LOOKED_AT", 10)
    write(log, "changed", "rare")
    for _ in range(25):
        write(log, "sent", "common")
    first, cursor = log.page(Wanted(action="rare"), 5)
    assert (first, cursor is None) == ([], False)
    assert everything(log, 5, Wanted(action="rare")) == ["rare"]


def test_many_of_one_kind_push_out_none_of_another(client: redis.Redis) -> None:
    log = Audit(client, 100)
    write(log, "changed", "purge")
    for _ in range(1_000):
        write(log, "sent", "send")
    told = everything(log, 1000, Wanted())
    assert told[-1] == "purge"
    assert len(told) <= 301  # whole nodes of a stream go, of 100 entries each


def test_what_redis_cannot_take_is_logged(
    client: redis.Redis, log: Audit, caplog: pytest.LogCaptureFixture
) -> None:
    client.config_set("maxmemory", 1)
    try:
        write(log, "changed", "purge")
    finally:
        client.config_set("maxmemory", 0)
    assert "purge" in caplog.text


def test_a_long_or_unwritable_name_is_kept_short(log: Audit) -> None:
    write(log, "refused", "login", "\ud800" + "x" * 10_000)
    ((entry,), _) = log.page(Wanted(), 10)
    assert len(entry.name) == audit.LONGEST


@pytest.mark.parametrize("cursor", ["", "x", "MS0yLTk", "LTEtMC0w", "é"])
def test_a_cursor_that_nobody_gave_is_refused(log: Audit, cursor: str) -> None:
    with pytest.raises(InvalidRequest):
        log.page(Wanted(), 1, cursor)


# -- commands


def test_a_key_made_at_a_shell_comes_in(
    api: Api, postrider: Postrider, capsys: pytest.CaptureFixture[str]
) -> None:
    make = ("keys", "create", "--name", "shop", "--role", "viewer", "--rate", "50", "--json")
    assert postrider(*make) == 0
    key = json.loads(capsys.readouterr().out)
    assert set(key) == {"id", "key"}
    assert api.get("/api/v1/me", **as_key(key["key"])).json()["limits"]["rate"] == 50
    assert postrider("keys", "list", "--json") == 0
    listed = capsys.readouterr().out
    assert key["key"] not in listed
    assert json.loads(listed)["keys"][0]["by"].startswith("shell:")
    assert postrider(*make) == 1
    assert "is taken" in capsys.readouterr().err
    assert postrider("keys", "revoke", "shop") == 0
    assert postrider("keys", "revoke", "shop") == 1
    assert api.get("/api/v1/me", **as_key(key["key"])).status_code in {200, 401}
    assert [a for _, a, _ in actions(api) if " " in a] == ["keys revoke", "keys create"]


def test_a_key_is_shown_at_a_terminal(at_terminal: AtTerminal) -> None:
    code, screen = at_terminal("keys", "create", "--name", "shop", "--role", "sender")
    assert code == 0
    assert "Key: pr_" in screen
    code, screen = at_terminal("keys", "list")
    assert "pr_" not in screen
    assert "shop" in screen


def test_a_user_made_at_a_shell_comes_in(
    api: Api, postrider: Postrider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a password of ana's\n"))
    assert postrider("users", "create", "--name", "ana", "--role", "viewer") == 0
    assert api.get("/api/v1/me", auth=("ana", "a password of ana's")).status_code == 200
    monkeypatch.setattr("sys.stdin", io.StringIO("another password\n"))
    assert postrider("users", "password", "ana") == 0
    assert api.get("/api/v1/me", auth=("ana", "another password")).status_code == 200
    assert postrider("users", "list") == 0
    assert postrider("users", "delete", "ana") == 0
    assert api.get("/api/v1/me", auth=("ana", "one more password")).status_code == 401


@pytest.mark.parametrize(
    ("argv", "stdin", "says"),
    [
        (("keys", "create", "--name", "a:b", "--role", "viewer"), "", "name: "),
        (("keys", "create", "--name", "a", "--role", "viewer", "--rate", "nan"), "", "rate: "),
        (("keys", "create", "--name", "a", "--role", "viewer", "--waiting", "-1"), "", "waiting: "),
        (("users", "create", "--name", "postrider", "--role", "viewer"), "", "API_USER"),
        (("users", "create", "--name", "a", "--role", "viewer"), "short\n", "12 to 1024"),
        (("users", "password", "nobody"), "", "no user has the id or name nobody"),
        (("audit", "--cursor", "x"), "", "cursor: "),
    ],
)
def test_a_command_that_cannot_says_why(
    postrider: Postrider,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: tuple[str, ...],
    stdin: str,
    says: str,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
    assert postrider(*argv) == 1
    assert says in capsys.readouterr().err


def test_the_log_is_shown_at_a_shell(
    api: Api, postrider: Postrider, capsys: pytest.CaptureFixture[str]
) -> None:
    api.delete("/delete_all")
    api.get("/api/v1/me", auth=("\x1b[2J", PASSWORD))
    assert postrider("audit") == 0
    shown = capsys.readouterr().out
    assert "postrider  DELETE /delete_all  -  127.0.0.1  200" in shown
    assert "\x1b" not in shown
    assert postrider("audit", "--action", "login", "--json") == 0
    (entry,) = json.loads(capsys.readouterr().out)["entries"]
    assert (entry["action"], entry["result"]) == ("login", "401")
