"""QR codes in the operator's chat: shown, replaced, marked as dead, taken away; told to nobody else, kept nowhere."""

import base64
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from messengers.phones import Code
from postrider.codes import Codes, Shown, drawn
from postrider.model import Client
from postrider.phones import Phones
from postrider.posted import MOST, Posts
from postrider.service import Service
from postrider.sessions import Session, Sessions
from postrider.settings import Settings
from tests.conftest import wait_until
from tests.phones.screen import scanned
from tests.phones.slack import CHANNEL, TOKEN, Answer, FakeSlack
from tests.receiver import Receiver, Says
from tests.sidecar import Sidecar

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SECRET = "2@planted,QR/secret+{n},c2VjcmV0IG9mIGEgcGhvbmU=,x9Yz"
ADMIN = Client("", "postrider", "admin")


@pytest.fixture
def slack() -> Iterator[FakeSlack]:
    with FakeSlack() as found:
        yield found


@pytest.fixture
def env(env: dict[str, str], slack: FakeSlack) -> dict[str, str]:
    return env | slack.env() | {"ALERT_URLS": ""}


@pytest.fixture
def sessions(client: redis.Redis) -> Sessions:
    return Sessions(client)


@pytest.fixture
def session(sessions: Sessions) -> Session:
    found = sessions.add("shop", "", NOW)
    assert found
    return found


class Scene:
    """A watcher, and what a keeper does with it."""

    def __init__(self, client: redis.Redis, sessions: Sessions, settings: Settings) -> None:
        self.sessions = sessions
        self.codes = Codes(client, sessions, settings, after_s=0.0)
        self.posts = Posts(client)
        self.n = 0

    def shows(self, id_: str = "shop", lives_s: float | None = None) -> str:
        """A new code; gives what it says."""
        self.n += 1
        text = SECRET.format(n=self.n)
        session = self._now(id_, state="scan", code=f"digest-{self.n}")
        self.codes.scans(session, Code(b"", text, lives_s))
        return text

    def stands(self, state: str, id_: str = "shop") -> None:
        """Its state is that from now on, and the keeper has seen it."""
        self.codes.settled(self._now(id_, state=state, code=""))

    def expires(self) -> None:
        """The code that is shown lives no longer."""
        self.posts.redis.hset("pr:session:code:shop", "ends", time.time() - 1)
        self.posts.look_in("shop", 0)

    def _now(self, id_: str, **new: Any) -> Session:
        found = self.sessions.get(id_)
        assert found
        changed = self.sessions.change(found, **new)
        assert changed
        return changed

    def until(self, condition: Callable[[], object], within_s: float = 10.0) -> None:
        """Keeps house until `condition` holds."""

        def turned() -> object:
            self.codes.turn()
            return condition()

        wait_until(turned, within_s)


@pytest.fixture
def scene(client: redis.Redis, sessions: Sessions, session: Session, settings: Settings) -> Scene:
    return Scene(client, sessions, settings)


def lives_s(text: str) -> int:
    found = re.search(r"it lives (\d+) s, until \d\d:\d\d:\d\d UTC", text)
    assert found, text
    return int(found[1])


# -- Slack


def test_a_code_stands_in_the_channel_with_how_long_it_lives(
    scene: Scene, slack: FakeSlack
) -> None:
    text = scene.shows()
    wait_until(lambda: slack.shown)
    (said,), (shown,) = slack.messages, slack.shown
    assert "Session shop waits for its phone" in said.text
    assert f"code 1 of {MOST}" in said.text
    assert 20 < lives_s(said.text) <= 60
    assert shown.name == "shop-1.png"
    assert scanned(shown.content) == text


@pytest.mark.parametrize("length", [24, 120, 237, 400])
def test_what_is_drawn_is_what_a_decoder_reads(length: int) -> None:
    text = ("2@" + base64.b64encode(bytes(range(256)) * 2).decode())[:length]
    assert scanned(drawn(Code(b"", text))) == text
    assert drawn(Code(b"\x89PNG as the sidecar drew it", text)) == b"\x89PNG as the sidecar drew it"


def test_the_next_code_takes_the_place_of_the_one_before(scene: Scene, slack: FakeSlack) -> None:
    first = scene.shows()
    wait_until(lambda: slack.shown)
    second = scene.shows()
    wait_until(lambda: [p.name for p in slack.shown] == ["shop-2.png"])
    assert first != second == scanned(slack.shown[0].content)
    (said,) = slack.messages
    assert f"code 2 of {MOST}" in said.text
    assert 0 <= lives_s(said.text) <= 20
    assert [p.deleted for p in slack.files.values()] == [True, False]


def test_a_code_that_is_told_twice_is_shown_once(scene: Scene, slack: FakeSlack) -> None:
    scene.shows()
    wait_until(lambda: slack.shown)
    session = scene.sessions.get("shop")
    assert session
    scene.codes.scans(session, Code(b"", SECRET))
    scene.shows()
    wait_until(lambda: [p.name for p in slack.shown] == ["shop-2.png"])
    assert len(slack.files) == 2


def test_what_has_expired_is_marked_as_dead_and_taken_away(scene: Scene, slack: FakeSlack) -> None:
    scene.shows()
    wait_until(lambda: slack.shown and scene.posts.get("shop").files)  # type: ignore[union-attr]
    scene.expires()
    scene.until(lambda: "is dead" in slack.messages[0].text)
    assert slack.shown == []
    scene.shows()
    wait_until(lambda: slack.shown)
    assert [p.name for p in slack.shown] == ["shop-2.png"]
    assert len(slack.messages) == 1
    assert "dead" not in slack.messages[0].text


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("linked", "Session shop is linked. Its QR codes are dead."),
        ("stopped", "Session shop is stopped; no phone was linked"),
        ("unlinked", "Session shop is unlinked; no phone was linked"),
    ],
)
def test_once_it_is_over_nothing_of_the_code_is_left(
    scene: Scene, slack: FakeSlack, client: redis.Redis, state: str, said: str
) -> None:
    scene.shows()
    wait_until(lambda: slack.shown)
    scene.stands(state)
    scene.until(lambda: scene.posts.get("shop") is None)
    assert slack.messages[0].text.startswith(said)
    assert slack.shown == []
    assert client.keys("pr:session:code*") == []


def test_a_deleted_session_leaves_no_code(scene: Scene, slack: FakeSlack) -> None:
    scene.shows()
    wait_until(lambda: slack.shown and scene.posts.get("shop").files)  # type: ignore[union-attr]
    scene.expires()
    session = scene.sessions.get("shop")
    assert session
    scene.sessions.delete(session)
    scene.until(lambda: not slack.shown and scene.posts.get("shop") is None)
    assert "was deleted" in slack.messages[0].text


def test_behind_the_sixth_there_are_no_more_until_it_begins_anew(
    scene: Scene, slack: FakeSlack
) -> None:
    for n in range(1, MOST + 1):
        scene.shows()
        wait_until(lambda n=n: [p.name for p in slack.shown] == [f"shop-{n}.png"])
    scene.shows()
    wait_until(lambda: len(scene.posts.get("shop").files) == 1)  # type: ignore[union-attr]
    scene.expires()
    scene.until(lambda: "nobody scanned the last" in slack.messages[0].text)
    assert len(slack.files) == MOST
    assert slack.shown == []
    scene.stands("unlinked")
    scene.until(lambda: scene.posts.get("shop") is None)
    scene.shows()
    wait_until(lambda: [p.name for p in slack.shown] == ["shop-1.png"])


def test_a_phone_with_a_passkey_tells_what_is_to_be_done_until_it_is_linked(
    scene: Scene, slack: FakeSlack
) -> None:
    scene.shows()
    wait_until(lambda: slack.shown)
    scene.stands("passkey")
    scene.until(lambda: "asks for its passkey" in slack.messages[0].text)
    assert "/api/v1/sessions/shop/passkey" in slack.messages[0].text
    assert slack.shown == []
    scene.stands("linked")
    scene.until(lambda: "is linked" in slack.messages[0].text)


def test_a_passkey_is_told_of_though_no_code_was_shown(scene: Scene, slack: FakeSlack) -> None:
    scene.stands("passkey")
    scene.until(lambda: slack.messages)
    assert "asks for its passkey" in slack.messages[0].text


def test_another_keeper_takes_away_what_a_dead_one_has_shown(
    scene: Scene, slack: FakeSlack, client: redis.Redis, settings: Settings
) -> None:
    scene.shows()
    wait_until(lambda: slack.shown and scene.posts.get("shop").files)  # type: ignore[union-attr]
    other = Scene(client, scene.sessions, settings)
    other.stands("linked")
    other.until(lambda: "is linked" in slack.messages[0].text)
    assert slack.shown == []


def test_each_session_has_a_message_of_its_own(scene: Scene, slack: FakeSlack) -> None:
    assert scene.sessions.add("office", "", NOW)
    scene.shows()
    scene.shows("office")
    wait_until(lambda: len(slack.shown) == 2)
    scene.stands("linked")
    scene.until(lambda: [m.text for m in slack.messages if "Session shop is linked" in m.text])
    assert [p.name for p in slack.shown] == ["office-1.png"]
    assert [m.text for m in slack.messages if "Session office waits for its phone" in m.text]


# -- the channel


def test_the_channel_is_found_by_its_name_once(scene: Scene, slack: FakeSlack) -> None:
    for n in (1, 2):
        scene.shows()
        wait_until(lambda n=n: [p.name for p in slack.shown] == [f"shop-{n}.png"])
    asked = [a for method, a in slack.calls if method == "conversations.list"]
    assert [a.get("cursor", "") for a in asked] == ["", "3", "6"]
    assert {a["channel"] for m, a in slack.calls if m == "chat.postMessage"} == {CHANNEL}


def test_who_may_not_list_private_channels_finds_a_public_one(
    scene: Scene, slack: FakeSlack
) -> None:
    slack.script = lambda _, asked: (
        Answer(error="missing_scope") if "private" in asked.get("types", "") else None
    )
    scene.shows()
    wait_until(lambda: slack.shown)


def test_an_id_needs_no_looking_for(
    client: redis.Redis, sessions: Sessions, session: Session, env: dict[str, str], slack: FakeSlack
) -> None:
    settings = Settings.from_env(env | {"SLACK_CHANNEL": CHANNEL}, None)
    Scene(client, sessions, settings).shows()
    wait_until(lambda: slack.shown)
    assert "conversations.list" not in slack.methods()


# -- a Slack that does not do it


def test_it_waits_as_long_as_slack_asks(scene: Scene, slack: FakeSlack) -> None:
    limited: list[float] = []

    def limits(method: str, _: object) -> Answer | None:
        if method == "files.getUploadURLExternal" and not limited:
            limited.append(time.monotonic())
            return Answer(429, "ratelimited", {"Retry-After": "1"})
        return None

    slack.script = limits
    scene.shows()
    wait_until(lambda: slack.shown)
    assert time.monotonic() - limited[0] >= 1.0


def test_it_does_not_wait_beyond_the_life_of_a_code(
    scene: Scene, slack: FakeSlack, caplog: pytest.LogCaptureFixture
) -> None:
    slack.script = lambda *_: Answer(429, "ratelimited", {"Retry-After": "3600"})
    scene.shows()
    wait_until(lambda: "Slack says ratelimited" in caplog.text)
    assert len(slack.calls) == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(error="not_in_channel"), "not_in_channel: invite the app to the channel"),
        (Answer(error="invalid_auth"), "invalid_auth: SLACK_BOT_TOKEN is not accepted"),
        (Answer(error=f"echo {TOKEN}"), "Slack says HTTP 200"),
        (Answer(500, raw=b"<html>" + TOKEN.encode()), "Slack says HTTP 500"),
        (Answer(200, raw=b"not json " + TOKEN.encode()), "Slack says HTTP 200"),
        (Answer(200, raw=b"[1]"), "Slack could not be asked"),
        (Answer(200, raw=b'{"ok": true}'), "the app sees no channel"),
    ],
)
def test_a_refusal_is_told_once_and_tells_no_secret(
    scene: Scene, slack: FakeSlack, caplog: pytest.LogCaptureFixture, answer: Answer, said: str
) -> None:
    slack.script = lambda *_: replace(answer)
    texts = [scene.shows(), scene.shows(), scene.shows()]
    wait_until(lambda: said in caplog.text)
    tried = len(slack.calls)
    texts.append(scene.shows())
    wait_until(lambda: len(slack.calls) > tried)
    slack.script = lambda *_: None
    scene.shows()
    wait_until(lambda: slack.shown)
    assert caplog.text.count("did not take a QR code") == 1
    assert not [secret for secret in (TOKEN, *texts) if secret in caplog.text]


def test_a_slack_that_hangs_delays_nobody(
    scene: Scene, slack: FakeSlack, client: redis.Redis
) -> None:
    slack.script = lambda *_: Answer(after_s=600)
    began = time.monotonic()
    for _ in range(MOST):
        scene.shows()
        scene.codes.turn()
    assert scene.sessions.add("office", "", NOW)
    scene.shows("office")
    scene.codes.turn()
    assert time.monotonic() - began < 30  # where each call alone would take 10


def test_what_slack_did_not_delete_is_deleted_later(
    scene: Scene, slack: FakeSlack, client: redis.Redis
) -> None:
    scene.shows()
    wait_until(lambda: slack.shown and scene.posts.get("shop").files)  # type: ignore[union-attr]
    slack.script = lambda method, _: Answer(500, raw=b"down") if method == "files.delete" else None
    scene.stands("linked")
    scene.until(lambda: "files.delete" in slack.methods())
    wait_until(lambda: client.zscore("pr:session:codes", "shop") > time.time() + 30)
    slack.script = lambda *_: None
    scene.posts.look_in("shop", 0)
    scene.until(lambda: not slack.shown)
    assert 0 < client.ttl("pr:session:code:shop") <= 86_400 or scene.posts.get("shop") is None


# -- other places


@pytest.fixture
def places() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


@pytest.fixture
def others(
    client: redis.Redis,
    sessions: Sessions,
    session: Session,
    env: dict[str, str],
    places: Receiver,
) -> Scene:
    urls = {"ALERT_URLS": f"syslog://local0 json://{places.place}/planted-alert-token"}
    return Scene(client, sessions, Settings.from_env(env | urls, None))


def test_places_that_take_files_get_each_code_and_which_is_the_newest(
    others: Scene, places: Receiver
) -> None:
    texts = []
    for n in (1, 2):
        texts.append(others.shows())
        wait_until(lambda n=n: len(places.calls) == n)
    sent = [call.json for call in places.calls]
    assert [scanned(base64.b64decode(s["attachments"][0]["base64"])) for s in sent] == texts
    assert "the newest" not in sent[0]["message"]
    assert "It is the newest: those before it are dead." in sent[1]["message"]
    others.stands("linked")
    others.until(lambda: len(places.calls) == 3)
    assert places.calls[2].json["message"] == "Session shop is linked. Its QR codes are dead."
    assert not places.calls[2].json["attachments"]


def test_a_place_that_refuses_is_told_of_by_its_number_once(
    others: Scene, places: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    places.script = lambda _: Says(500)
    for n in (1, 2):
        others.shows()
        wait_until(lambda n=n: len(places.calls) >= n)
    wait_until(lambda: "number 2 of ALERT_URLS did not take a QR code" in caplog.text)
    assert caplog.text.count("of ALERT_URLS did not take") == 1
    assert "planted-alert-token" not in caplog.text


# -- secrets


def everything(client: redis.Redis) -> Iterator[bytes]:
    """Every key, field, member and value there is in Redis."""
    r: Any = client
    for key in r.scan_iter():
        yield key
        match r.type(key):
            case b"string":
                yield r.get(key)
            case b"hash":
                yield from (part for pair in r.hgetall(key).items() for part in pair)
            case b"list":
                yield from r.lrange(key, 0, -1)
            case b"set":
                yield from r.smembers(key)
            case b"zset":
                yield from r.zrange(key, 0, -1)
            case b"stream":
                yield json.dumps(str(r.xrange(key))).encode()
            case other:
                raise AssertionError(other)


def test_a_code_stands_in_no_log_no_redis_and_no_repr(
    others: Scene,
    slack: FakeSlack,
    places: Receiver,
    client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    before = {name: logging.getLogger(name).level for name in logging.root.manager.loggerDict}
    for name in (
        *before,
        "slack_sdk",
        "slack_sdk.web.base_client",
        "urllib3",
        "apprise",
        "asyncio",
    ):
        logging.getLogger(name).setLevel(logging.DEBUG)
    try:
        texts = []
        for n in (1, 2):
            texts.append(others.shows())
            wait_until(lambda n=n: [p.name for p in slack.shown] == [f"shop-{n}.png"])
            wait_until(lambda n=n: len(places.calls) == n)
        slack.script = lambda *_: Answer(500, raw=b"down")
        texts.append(others.shows())
        wait_until(lambda: "did not take" in caplog.text and len(places.calls) == 3)
        held = list(everything(client))
        slack.script = lambda *_: None
        others.stands("linked")
        others.until(lambda: not slack.shown and len(places.calls) == 4)
        held += everything(client)
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
    out, err = capfd.readouterr()
    logged = caplog.text + out + err + "".join(str(r.args) for r in caplog.records)
    assert "urllib3" in logged  # whose lines would show it, if any did
    for text in texts:
        png = drawn(Code(b"", text))
        forms = [
            text,
            base64.b64encode(text.encode()).decode(),
            base64.b64encode(png).decode()[:60],
        ]
        shown = Shown("shop", 1, NOW, 0.0, png)
        assert not [form for form in forms if form in logged]
        for found in held:
            assert text.encode() not in found
            assert png[:60] not in found
        assert text not in repr(Code(png, text)) + repr(shown) + repr(others.codes)
        assert repr(png)[2:40] not in repr(Code(png, text)) + repr(shown)
    assert TOKEN not in logged


# -- the whole way, with a sidecar


def test_a_phone_is_linked_by_what_stood_in_the_channel(
    service: Service, client: redis.Redis, slack: FakeSlack, sidecar: Sidecar
) -> None:
    sidecar.reset(scale=0.05, key="planted-key")
    phones: Phones = service.phones
    codes = Codes(client, phones.sessions, service.settings, after_s=0.5)
    phones.watchers.append(codes)
    phones.add(ADMIN, "shop")

    def looked(state: str) -> bool:
        phones.look("shop")
        codes.turn()
        found = phones.sessions.get("shop")
        return found is not None and found.state == state

    wait_until(lambda: looked("scan") and slack.shown)
    wait_until(
        lambda: slack.shown and scanned(slack.shown[-1].content) == sidecar.sessions["shop"]["code"]
    )
    sidecar.scan("shop")
    wait_until(lambda: looked("linked") and not slack.shown)
    wait_until(lambda: "is linked" in slack.messages[-1].text)
