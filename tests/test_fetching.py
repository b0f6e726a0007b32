"""Attachments by URL: fetched once, from where a client may have us call; schedules keep what they fetched."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
import redis

from messengers.sandbox import Sandbox
from postrider import fetching
from postrider.errors import Unavailable
from postrider.selftest.fleet import free_port
from postrider.service import Service
from postrider.transport import Blocking
from tests import inward
from tests.conftest import ROOT, Api
from tests.receiver import Receiver, Says
from tests.test_files import PNG, keep
from tests.test_files_api import kept
from tests.test_guard import own_network

SEND = "/api/v1/messages"
TO = {"body": "", "recipients": [{"uuid": "ana", "service": "sandbox"}]}


@pytest.fixture
def env(env: dict[str, str]) -> dict[str, str]:
    return env | {"FILE_URL_ALLOW_PRIVATE": "127.0.0.0/8", "MAX_FILE_BYTES": "100000"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        found.script = lambda _: Says(200, body=PNG)
        yield found


def attached(url: str, **more: object) -> dict[str, object]:
    return TO | {"attachments": [{"url": url, **more}]}


@pytest.mark.skipif(not own_network(), reason="NO unshare -rn HERE: NOT TESTED WITH LISTENERS")
def test_with_a_listener_behind_every_address_none_sees_a_connection(
    redis_url: str, client: redis.Redis
) -> None:
    run = subprocess.run(
        ["unshare", "-rn", sys.executable, "tests/inward_files.py", redis_url],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "http_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert (
        found["tried"] == 193
    )  # 98 addresses, and behind a redirect those that can be named in one
    assert found["connected"] == []
    assert found["reached"] == list(inward.PUBLIC)
    assert found["rebound"] == ["::ffff:93.184.215.14"]


def test_what_is_behind_a_url_goes_with_the_message(
    api: Api, service: Service, receiver: Receiver
) -> None:
    answer = api.post(SEND, json=attached(f"{receiver.url}/pictures/my%20cat.png?x=1"))
    assert answer.status_code == 201, answer.text
    (file,) = answer.json()["files"]
    assert (file["name"], file["media_type"], file["size"]) == ("my cat.png", "image/png", len(PNG))
    with service.files.open(file["id"]) as content:
        assert content.read() == PNG
    service.sender.deliver(f"{answer.json()['id']}-0", Blocking(service.keep_note))
    ((_, note),) = service.notes(10)
    assert file["id"] in note["files"]
    service.purge()
    service.sweep()
    assert kept(service) == []


@pytest.mark.parametrize(
    ("said", "name"),
    [('attachment; filename="b.txt"', "b.txt"), ("inline; filename*=UTF-8''%C3%BC.txt", "ü.txt"),
     ('attachment; filename="../../etc/passwd"', "passwd"), ("attachment; filename*=x", "x"),
     ("attachment; filename*=klingon''%ff", "ÿ"), (";;;", "a")],
)  # fmt: skip
def test_the_answer_may_name_it(api: Api, receiver: Receiver, said: str, name: str) -> None:
    receiver.script = lambda _: Says(200, {"Content-Disposition": said}, b"x")
    answer = api.post(SEND, json=attached(f"{receiver.url}/a"))
    assert answer.status_code == 201, answer.text
    assert answer.json()["files"][0]["name"] == name


def test_what_cannot_be_had_is_refused_and_nothing_is_kept(
    api: Api, service: Service, client: redis.Redis, receiver: Receiver
) -> None:
    def says(got: object) -> Says:
        match getattr(got, "path", ""):
            case "/round":
                return Says(302, {"Location": "/round"})
            case "/file":
                return Says(301, {"Location": "file:///etc/passwd"})
            case "/inward":
                return Says(307, {"Location": "http://10.0.0.1/"})
            case "/big":
                return Says(200, body=b"x" * 100_001)
            case "/good":
                return Says(200, body=PNG)
        return Says(404)

    receiver.script = says
    for path, why in (
        ("/round", "over 5 other URLs"),
        ("/file", "write it as https"),
        ("/inward", "not public; FILE_URL_ALLOW_PRIVATE may open it"),
        ("/big", "over 100000 bytes (MAX_FILE_BYTES)"),
        ("/none", "it answers 404"),
    ):
        one = {"url": receiver.url + path}
        good = {"url": f"{receiver.url}/good"}
        answer = api.post(SEND, json=TO | {"attachments": [good, one]})
        assert answer.status_code == 400, path
        (error,) = answer.json()["errors"]
        assert error["field"] == "attachments[1].url"
        assert why in error["reason"]
    answer = api.post(SEND, json=attached(f"http://127.0.0.1:{free_port()}/"))
    assert "could not connect" in answer.json()["error"]
    good = attached(f"{receiver.url}/good")
    answer = api.post(SEND, json=good | {"recipients": [{"uuid": "1", "service": "pigeon"}]})
    assert answer.status_code == 400
    assert kept(service) == []
    assert not client.keys("pr:file*")


@pytest.mark.parametrize(
    "one",
    [{}, {"file": "A" * 22, "url": "https://example.com/"}, {"file": "A" * 22, "link": True},
     {"url": ""}, {"url": "https://example.com/a", "link": 1}],
)  # fmt: skip
def test_an_attachment_is_a_file_or_a_url(api: Api, one: dict[str, object]) -> None:
    for body in (TO, TO | {"repeat": {"cron": "0 9 * * *"}}):
        assert api.post(SEND, json=body | {"attachments": [one]}).status_code == 400


def test_a_redirect_is_followed_where_its_end_may_be_called(api: Api, receiver: Receiver) -> None:
    receiver.script = lambda got: (
        Says(302, {"Location": "/b.png"}, b"moved") if got.path == "/a" else Says(200, body=PNG)
    )
    answer = api.post(SEND, json=attached(f"{receiver.url}/a"))
    assert (answer.json()["files"][0]["name"], answer.json()["files"][0]["size"]) == (
        "b.png",
        len(PNG),
    )


def test_a_repeated_call_has_what_the_first_one_found(api: Api, receiver: Receiver) -> None:
    head = {"Idempotency-Key": "once"}
    body = attached(f"{receiver.url}/a.png")
    first = api.post(SEND, json=body, headers=head)
    receiver.script = lambda _: Says(404)
    again = api.post(SEND, json=body, headers=head)
    assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])
    assert again.json()["files"] == first.json()["files"]
    assert len(receiver.calls) == 1


@pytest.mark.parametrize("by_url", [True, False])
def test_a_repeated_call_is_answered_also_when_all_is_purged(
    api: Api, service: Service, receiver: Receiver, *, by_url: bool
) -> None:
    named = {"url": f"{receiver.url}/a.png"}
    if not by_url:
        named = {"file": keep(service, PNG, "a.png").file.id}
    body, head = TO | {"attachments": [named]}, {"Idempotency-Key": "once"}
    first = api.post(SEND, json=body, headers=head)
    service.sender.deliver(f"{first.json()['id']}-0", Blocking(service.keep_note))
    assert service.purge() == 1
    service.sweep()
    assert kept(service) == []
    again = api.post(SEND, json=body, headers=head)
    assert (again.status_code, again.json()) == (201, first.json())
    assert len(receiver.calls) == by_url
    assert kept(service) == []


def test_what_two_calls_with_one_key_fetch_at_once_is_kept_once(
    api: Api, service: Service, receiver: Receiver
) -> None:
    both = threading.Barrier(2, timeout=20)

    def says(_: object) -> Says:
        both.wait()
        return Says(200, body=PNG)

    receiver.script = says
    answers: list[int] = []

    def post() -> None:
        body, head = attached(f"{receiver.url}/a.png"), {"Idempotency-Key": "once"}
        with Api(api.url) as own:
            answers.append(own.post(SEND, json=body, headers=head).status_code)

    threads = [threading.Thread(target=post) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert min(answers) == 201
    assert max(answers) in {201, 409}
    assert len(kept(service)) == 1


def test_the_same_text_with_another_file_is_another_message(
    api: Api, service: Service, receiver: Receiver
) -> None:
    def post(path: str, **more: object) -> int:
        body = attached(receiver.url + path, **more) | {"body": "Look", "dedupe_within_s": 60}
        return api.post(SEND, json=body).status_code

    assert [post("/a.png"), post("/b.png"), post("/a.png")] == [201, 201, 400]
    assert [post("/c.png", link=True), post("/c.png", link=True)] == [201, 400]
    assert len(kept(service)) == 2
    plain = TO | {"body": "Look", "dedupe_within_s": 60}
    assert [api.post(SEND, json=plain).status_code for _ in range(2)] == [201, 400]


def test_a_link_is_handed_on_and_never_fetched(
    api: Api, service: Service, receiver: Receiver
) -> None:
    answer = api.post(SEND, json=attached(f"{receiver.url}/a.mp4", link=True, name="film.mp4"))
    assert answer.status_code == 201, answer.text
    (file,) = answer.json()["files"]
    assert (file["id"], file["name"], file["kind"]) == ("", "film.mp4", "video")
    assert receiver.calls == []
    inward = api.post(SEND, json=attached("http://10.0.0.1/", link=True))
    assert inward.status_code == 400


def test_a_messenger_that_fetches_nothing_takes_no_link(
    api: Api, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sandbox, "takes_links", False)
    answer = api.post(SEND, json=attached(f"{receiver.url}/a.mp4", link=True))
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == "attachments[0].link"


def test_too_slow_a_server_is_left_in_time(
    api: Api, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "WITHIN_S", 0.3)
    receiver.script = lambda _: Says(200, body=PNG, after_s=2)
    started = time.monotonic()
    answer = api.post(SEND, json=attached(f"{receiver.url}/a"))
    assert answer.status_code == 400
    assert time.monotonic() - started < 2


def test_slow_servers_do_not_take_all_threads(
    service: Service, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "AT_ONCE", 1)
    one = fetching.Fetching(service.files, service.settings.file_guard, 100_000)
    there, go_on = threading.Event(), threading.Event()

    def says(_: object) -> Says:
        there.set()
        go_on.wait(20)
        return Says(200, body=PNG)

    receiver.script = says

    def fetch() -> None:
        one.fetch("url", receiver.url, "", service.store.now, time.monotonic() + 20)

    thread = threading.Thread(target=fetch)
    thread.start()
    assert there.wait(20)
    with pytest.raises(Unavailable):
        fetch()
    go_on.set()
    thread.join()
    fetch()


def test_a_folder_that_cannot_be_written_takes_no_place_for_ever(
    service: Service, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "AT_ONCE", 1)
    one = fetching.Fetching(service.files, service.settings.file_guard, 100_000)
    until = time.monotonic() + 20
    service.files.folder.touch()  # where the folder is to be
    for _ in range(2):
        with pytest.raises(FileExistsError):
            one.fetch("url", receiver.url, "", service.store.now, until)
    service.files.folder.unlink()
    assert one.fetch("url", receiver.url, "", service.store.now, until).file.size == len(PNG)


# --- schedules


def test_a_schedule_keeps_what_it_fetched_until_it_is_deleted(
    api: Api, service: Service, client: redis.Redis, receiver: Receiver
) -> None:
    body = attached(f"{receiver.url}/a.png") | {"repeat": {"cron": "0 9 * * *"}}
    made = api.post(SEND, json=body)
    assert made.status_code == 201, made.text
    receiver.script = lambda _: Says(404)
    (id_,) = kept(service)
    assert made.json()["makes"]["attachments"] == [{"file": id_}]
    message = made.json()["message"]
    assert client.smembers(f"pr:file:{id_}:of") == {message.encode(), made.json()["id"].encode()}
    # its message is stopped and forgotten, and another one takes its place
    changed = api.patch(f"/api/v1/schedules/{made.json()['id']}", json={"body": "Look"})
    assert changed.status_code == 200, changed.text
    service.purge()
    service.files.sweep(service.store.now() + timedelta(days=2))
    assert kept(service) == [id_]
    found = api.get(f"{SEND}/{changed.json()['message']}").json()
    assert [f["id"] for f in found["files"]] == [id_]
    assert api.delete(f"/api/v1/files/{id_}").status_code == 409
    assert api.delete(f"/api/v1/schedules/{made.json()['id']}").status_code == 204
    service.purge()
    service.files.sweep(service.store.now())
    assert kept(service) == []
    assert not client.keys("pr:file*")


def test_a_schedule_that_is_refused_keeps_nothing(
    api: Api, service: Service, receiver: Receiver
) -> None:
    body = attached(f"{receiver.url}/a.png") | {"repeat": {"cron": "0 9 * * *"}}
    answer = api.post(SEND, json=body | {"recipients": [{"uuid": "1", "service": "pigeon"}]})
    assert answer.status_code == 400
    assert kept(service) == []
