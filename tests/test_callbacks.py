"""What is told, how it is signed, and when again. Pure; other people's code verifies the signatures."""

import base64
import json
import random
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
import svix

from messengers.base import NoReply, Reply
from postrider import callbacks
from postrider.callbacks import SCHEDULE_S, TRIES, Event, Result, result
from postrider.masking import Mask
from postrider.settings import Settings

SECRET = "whsec_" + base64.b64encode(bytes(range(24))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(range(1, 25))).decode()
AT = datetime(2030, 10, 5, 13, 48, 0, 250_000, UTC)
LINE = {
    "id": "351EIkkf1SpmhoPKEJTRQ_000001",
    "type": "delivery.failed",
    "at": f"{AT.timestamp():.6f}",
    "task": "351EIkkf1SpmhoPKEJTRQ-0",
    "data": {
        "id": "351EIkkf1SpmhoPKEJTRQ-0",
        "message": "351EIkkf1SpmhoPKEJTRQ",
        "uuid": "Grüße 👋",
        "account": "telegram/shop",
        "state": "failed",
        "reason": "chat not found",
        "provider_id": "",
        "attempts": 1,
        "sequence": 1,
    },
}
EVENT = Event.read(json.dumps(LINE).encode())
Verify = Callable[[bytes, dict[str, str]], Any]


def test_a_delivery_is_told_in_full() -> None:
    assert json.loads(EVENT.body()) == {
        "type": "delivery.failed",
        "timestamp": "2030-10-05T13:48:00.250000Z",
        "data": {
            "id": "351EIkkf1SpmhoPKEJTRQ-0",
            "message": "351EIkkf1SpmhoPKEJTRQ",
            "uuid": "Grüße 👋",
            "service": "telegram",
            "account": "shop",
            "state": "failed",
            "reason": "chat not found",
            "provider_id": "",
            "reference": None,
            "attempts": 1,
            "sequence": 1,
        },
    }


def test_the_same_bytes_go_out_on_every_try() -> None:
    assert EVENT.body() == Event.read(json.dumps(LINE, sort_keys=True).encode()).body()


@pytest.mark.parametrize(("type_", "sent"), [("delivery.sent", True), ("delivery.expired", False)])
def test_the_older_form_says_whether_it_was_sent(type_: str, sent: bool) -> None:
    event = Event.read(json.dumps(LINE | {"type": type_}).encode())
    assert json.loads(event.task_body()) == {"task_id": LINE["task"], "result": sent}


# --- signatures


def signed(at: datetime | None = None) -> dict[str, str]:
    return callbacks.headers([SECRET], EVENT.id, EVENT.body(), at or datetime.now(UTC))


VERIFIERS: dict[str, Verify] = {
    "standardwebhooks": standardwebhooks.Webhook(SECRET).verify,
    "svix": svix.Webhook(SECRET).verify,
}


@pytest.fixture(params=VERIFIERS)
def verify(request: pytest.FixtureRequest) -> Verify:
    return VERIFIERS[request.param]


def test_other_peoples_code_takes_our_signature(verify: Verify) -> None:
    told = verify(EVENT.body(), signed())  # which raises what it does not take
    if told is not None:  # svix checks, and gives nothing back
        assert told == json.loads(EVENT.body())


@pytest.mark.parametrize("secrets", [(SECRET, OTHER), (OTHER, SECRET)])
def test_while_secrets_change_either_verifies(verify: Verify, secrets: tuple[str, str]) -> None:
    verify(EVENT.body(), callbacks.headers(secrets, EVENT.id, EVENT.body(), datetime.now(UTC)))


def test_a_secret_is_read_as_several_and_each_is_hidden() -> None:
    settings = Settings.from_env({"WEBHOOK_SECRET": f"{SECRET} {OTHER}", "API_PASSWORD": "x"})
    assert settings.webhook_secrets == (SECRET, OTHER)
    hidden = Mask.of(settings)(f"one {SECRET}, other {OTHER}")
    assert SECRET not in hidden
    assert OTHER not in hidden


def changed(name: str, value: str) -> dict[str, str]:
    return signed() | {name: value}


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        pytest.param(EVENT.body() + b" ", signed(), id="body"),
        pytest.param(json.dumps(json.loads(EVENT.body())).encode(), signed(), id="re-encoded"),
        pytest.param(EVENT.body(), changed("webhook-id", "another"), id="id"),
        pytest.param(
            EVENT.body(),
            changed("webhook-timestamp", str(int(datetime.now(UTC).timestamp()) - 7)),
            id="timestamp",
        ),
        pytest.param(EVENT.body(), changed("webhook-signature", "v1,AAAA"), id="signature"),
        pytest.param(
            EVENT.body(), changed("webhook-signature", "v2," + "A" * 43 + "="), id="version"
        ),
        pytest.param(EVENT.body(), signed(datetime.now(UTC) - timedelta(days=1)), id="old"),
        pytest.param(EVENT.body(), signed(datetime.now(UTC) + timedelta(days=1)), id="early"),
        pytest.param(
            EVENT.body(),
            callbacks.headers([OTHER], EVENT.id, EVENT.body(), datetime.now(UTC)),
            id="other secret",
        ),
        pytest.param(
            EVENT.body(), {"webhook-id": EVENT.id, "webhook-timestamp": "1"}, id="unsigned"
        ),
    ],
)
def test_nothing_but_what_we_signed_is_taken(
    verify: Verify, body: bytes, headers: dict[str, str]
) -> None:
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        verify(body, headers)


def test_each_try_is_signed_for_its_own_moment() -> None:
    first, second = signed(AT), signed(AT + timedelta(seconds=5))
    assert first["webhook-id"] == second["webhook-id"]
    assert first["webhook-timestamp"] == str(int(AT.timestamp()))
    assert first["webhook-signature"] != second["webhook-signature"]


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with npm's svix and standardwebhooks."""
    folder = tmp_path_factory.mktemp("npm")
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("NO node AND npm HERE: npm's svix AND standardwebhooks NOT TRIED")
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        done = subprocess.run(
            [*command, "svix@2", "standardwebhooks@1"],
            cwd=folder,
            capture_output=True,
            timeout=60,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm TOOK TOO LONG: npm's svix AND standardwebhooks NOT TRIED")
    if done.returncode:
        pytest.skip("npm CANNOT INSTALL HERE: npm's svix AND standardwebhooks NOT TRIED")
    return folder


@pytest.mark.parametrize("package", ["svix", "standardwebhooks"])
def test_the_packages_of_npm_take_what_we_signed_and_nothing_else(
    node_modules: Path, package: str
) -> None:
    script = """
        const [package_, secret, body, headers] = process.argv.slice(1);
        const { Webhook } = require(package_);
        const tries = [body, body + " "].map((text) => {
          try { new Webhook(secret).verify(text, JSON.parse(headers)); return "taken"; }
          catch (error) { return error.message; }
        });
        console.log(JSON.stringify(tries));
    """
    arguments = [package, SECRET, EVENT.body().decode(), json.dumps(signed())]
    run = subprocess.run(
        ["node", "-e", script, *arguments],
        cwd=node_modules,
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert json.loads(run.stdout) == ["taken", "No matching signature found"]


# --- what an answer means


def test_ten_tries_take_75_hours() -> None:
    assert TRIES == 10
    assert 75 * 3600 <= sum(SCHEDULE_S) <= 76 * 3600


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_is_a_yes(status: int) -> None:
    assert result(Reply(status), 0) == Result("done", status)


@pytest.mark.parametrize("status", [100, 301, 302, 307, 400, 401, 404, 429, 500, 503, 599, 999])
def test_anything_else_is_tried_again_until_the_tenth(status: int) -> None:
    rng = random.Random(1)
    for tries in range(TRIES - 1):
        again = result(Reply(status), tries, rng)
        assert again.state == "waiting"
        assert 0.9 * SCHEDULE_S[tries] <= again.wait_s <= 1.1 * SCHEDULE_S[tries]
        assert again.reason
    assert result(Reply(status), TRIES - 1).state == "dead"


def test_no_answer_is_tried_again_and_known_as_none() -> None:
    assert not result(NoReply(left=True, reason="no answer in time"), 0).answered
    last = result(NoReply(left=True, reason="no answer in time"), TRIES - 1)
    assert (last.state, last.answered) == ("dead", False)


def test_410_turns_its_address_off_at_once() -> None:
    gone = result(Reply(410), 0)
    assert (gone.state, gone.off) == ("dead", True)


@pytest.mark.parametrize(
    ("named", "least", "most"),
    [("120", 120, 120), ("1", 4.5, 5.5), ("999999", 86_400, 86_400), ("soon", 4.5, 5.5)],
)
def test_a_wait_that_the_receiver_names_is_kept(named: str, least: float, most: float) -> None:
    waits = result(Reply(503, headers={"retry-after": named}), 0)
    assert least <= waits.wait_s <= most


def test_a_date_in_retry_after_is_kept() -> None:
    at = datetime.now(UTC)
    headers = {"retry-after": (at + timedelta(seconds=90)).strftime("%a, %d %b %Y %H:%M:%S GMT")}
    assert 88 <= result(Reply(429, headers=headers, at=at), 0).wait_s <= 91


def test_of_a_refusal_a_printable_part_is_kept() -> None:
    again = result(Reply(500, "no\x1b[2J\0 wáy".encode() + b"\xff" * 10_000), 0)
    assert again.reason.startswith("no [2J wáy")
    assert len(again.reason) <= 200
    assert again.reason.isprintable()
