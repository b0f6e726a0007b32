"""Messages with files, all the way: kept, claimed, uploaded by either kind of worker, received whole."""

import asyncio
import errno
import hashlib
import io
import os
import random
import signal
from collections import Counter
from contextlib import closing
from typing import get_args

import pytest
import redis

from messengers.base import File, FileKind, NoReply, Reply, Request, Retry
from postrider import records, showing
from postrider.curl import Concurrent
from postrider.model import Attachment, Claim, NewMessage, Part, Recipient
from postrider.sender import LEASE_S
from postrider.service import Service, open_accounts
from postrider.settings import Settings
from postrider.store import Store
from postrider.streamed import FormBody
from postrider.transport import Blocking
from postrider.verdicts import handed_back, in_parts, verdict
from tests.conftest import Start, leases_run_out, wait_until
from tests.fake import Answer, Call, FakeMessenger, says
from tests.test_files import PNG, keep
from tests.test_transport import Send, notes, send  # noqa: F401 - fixtures
from tests.test_worker import start_stock

NOISE = random.Random(1).randbytes(200_000)
CONTENTS: dict[FileKind, tuple[str, bytes]] = {
    "image": ("a.png", PNG + NOISE),
    "video": ("a.mp4", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + NOISE),
    "audio": ("a.mp3", b"ID3\x04\0\0\0\0\0\0" + NOISE),
    "voice": ("a.ogg", b"OggS\0\x02" + NOISE),
    "animation": ("a.gif", b"GIF89a\x02\0\x03\0\0\0\0!\xff\x0bNETSCAPE2.0" + NOISE),
    "sticker": ("a.webp", b"RIFF\x10\0\0\0WEBPVP8 " + NOISE[:90_000]),
    "document": ("отчёт.pdf", b"%PDF-1.4\n" + NOISE),
}


def post(service: Service, to: str, *kinds: FileKind, body: str = "", count: int = 1) -> str:
    """Sends a file of each kind to so many; the message's id."""
    files = tuple(
        Attachment(keep(service, CONTENTS[kind][1], CONTENTS[kind][0]).file.id, kind=kind)
        for kind in kinds
    )
    tos = tuple(Recipient(str(42 + n), to) for n in range(count))
    return service.accept(NewMessage(body, tos, attachments=files))[0].id


def state(service: Service, message: str) -> str:
    return service.delivery(f"{message}-0", None).delivery.state.value


def turn(service: Service) -> None:
    """Does what a worker does with all that may go now, in this process."""
    transport = Blocking(service.keep_note)
    for claims in service.sender.calls(service.sender.claim("test", 10).claims):
        exchange, reply = service.sender.attempt(claims), None
        try:
            while True:
                reply = transport.send(exchange.send(reply))  # type: ignore[arg-type]
        except StopIteration as stop:
            service.sender.record("test", stop.value)


def work(service: Service, message: str, until: str) -> None:
    """The same until the message's delivery is so."""
    wait_until(lambda: turn(service) or state(service, message) == until)


def digest(kind: FileKind) -> str:
    return hashlib.sha256(CONTENTS[kind][1]).hexdigest()


def uploads(messenger: FakeMessenger) -> list[tuple[str, str]]:
    """Name and digest of each file that came."""
    return [(u.name, u.sha256) for call in messenger.calls for u in call.uploads.values()]


def called(messenger: FakeMessenger) -> list[str]:
    return [call.method for call in messenger.calls]


def refusing(*methods: str, once: bool = False, **answer: object) -> object:
    """A script that answers so to these methods."""
    left = list(methods)

    def script(call: Call) -> Answer | None:
        if call.method not in left:
            return None
        if once:
            left.remove(call.method)
        return says(**{"status": 400, "ok": False, **answer})  # type: ignore[arg-type]

    return script


def test_each_kind_is_received_whole(
    service: Service, messenger: FakeMessenger, worker: object
) -> None:
    kinds = get_args(FileKind)
    messages = [post(service, to, *kinds) for to in ("telegram", "whatsapp")]
    wait_until(lambda: {state(service, m) for m in messages} == {"sent"}, 20)
    whole = [(CONTENTS[kind][0], digest(kind)) for kind in kinds]
    assert Counter(uploads(messenger)) == Counter(whole * 2)


def test_stock_workers_send_files_whole_too(
    service: Service, redis_url: str, messenger: FakeMessenger, start: Start
) -> None:
    start_stock(start, redis_url)
    kinds = get_args(FileKind)
    messages = [post(service, to, *kinds) for to in ("telegram", "whatsapp")]
    wait_until(lambda: {state(service, m) for m in messages} == {"sent"}, 40)
    whole = [(CONTENTS[kind][0], digest(kind)) for kind in kinds]
    assert Counter(uploads(messenger)) == Counter(whole * 2)


def test_what_is_refused_in_part_is_partial_and_each_piece_says_why(
    service: Service, messenger: FakeMessenger
) -> None:
    messenger.script = refusing("sendAudio", error_code=400, description="Bad Request: no")
    message = post(service, "telegram", "image", "audio", "document", body="x" * 2000)
    work(service, message, "failed")
    last = service.delivery(f"{message}-0", None).last
    assert last is not None
    assert last.reason == "partial"
    assert [part and part.outcome for part in last.parts] == ["sent", "sent", "rejected", "sent"]
    shown = showing.attempt(last)["parts"]
    assert shown[2] == {"outcome": "rejected", "reason": "Bad Request: no", "provider_id": ""}
    assert [(p["reason"], bool(p["provider_id"])) for p in shown if p is not shown[2]] == [
        ("", True)
    ] * 3
    assert service.message(message, None).state == "partially_delivered"


def test_asked_to_retry_it_sends_only_what_has_not_gone(
    service: Service, messenger: FakeMessenger
) -> None:
    messenger.script = refusing("sendAudio", error_code=400, description="Bad Request: no")
    message = post(service, "telegram", "image", "audio", "document")
    work(service, message, "failed")
    messenger.calls.clear()
    messenger.script = lambda _: None
    service.change_delivery("retry", f"{message}-0", None)
    work(service, message, "sent")
    assert called(messenger) == ["sendAudio"]


def test_a_retry_goes_on_where_it_stopped(service: Service, messenger: FakeMessenger) -> None:
    messenger.script = refusing("sendAudio", once=True, status=503)
    message = post(service, "telegram", "image", "audio", "document")
    work(service, message, "sent")
    assert called(messenger) == ["sendPhoto", "sendAudio", "sendAudio", "sendDocument"]


def test_a_text_that_was_changed_between_tries_is_cut_anew(
    service: Service, messenger: FakeMessenger
) -> None:
    messenger.script = refusing("sendAudio", "sendAudio", once=True, status=503)
    message = post(service, "telegram", "image", "audio", body="short")
    work(service, message, "retrying")
    service.change(message, None, body="x" * 2000)  # which no caption holds
    work(service, message, "sent")
    first, again = ["sendPhoto", "sendAudio"], ["sendMessage", "sendPhoto", "sendAudio"]
    assert called(messenger) == [*first, *again, "sendAudio"]


def test_what_has_gone_is_known_of_each_piece_as_the_last_try_cut_it() -> None:
    gone, failed = Part("sent", "1"), Part("retry", "no")
    assert records.merged((), (gone, None)) == (gone, None)
    assert records.merged((gone, None), ()) == (gone, None)
    assert records.merged((gone, failed), (failed, gone)) == (gone, gone)
    assert records.merged((gone, failed), (None, None)) == (gone, failed)
    assert records.merged((gone, gone), (None, failed, None)) == (None, failed, None)


@pytest.fixture
def public(env: dict[str, str]) -> None:
    """Messengers can fetch from us; to be asked for before what is built upon the environment."""
    env["PUBLIC_URL"] = "https://post.example"


def test_a_link_that_cannot_be_made_just_now_is_made_later(
    public: None, service: Service, messenger: FakeMessenger, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = post(service, "viber", "image")

    def fails(*_: object) -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(service.files.links, "url", fails)
        work(service, message, "retrying")
    work(service, message, "sent")
    (call,) = messenger.calls
    assert call.json["media"].startswith("https://post.example/files/")


def test_tries_that_are_used_up_leave_it_partial(
    service: Service, messenger: FakeMessenger, settings: Settings, client: redis.Redis
) -> None:
    settings = settings.model_copy(update={"retry_count": 1})
    service = Service(Store(client), settings, open_accounts(settings))
    messenger.script = refusing("sendAudio", status=503)
    message = post(service, "telegram", "image", "audio")
    work(service, message, "failed")
    assert service.message(message, None).state == "partially_delivered"


def test_who_has_blocked_us_is_not_sent_the_rest(
    service: Service, messenger: FakeMessenger
) -> None:
    blocked = "Forbidden: bot was blocked by the user"
    messenger.script = refusing("sendPhoto", error_code=403, description=blocked)
    message = post(service, "telegram", "image", "audio")
    work(service, message, "failed")
    last = service.delivery(f"{message}-0", None).last
    assert last is not None
    assert last.reason == blocked
    assert called(messenger) == ["sendPhoto"]
    assert service.message(message, None).state == "failed"


def test_a_file_goes_up_once_for_all_who_get_it(
    service: Service, messenger: FakeMessenger, start: Start
) -> None:
    start("postrider", "worker")
    start("postrider", "worker")
    messenger.reads_s = 0.05
    messages = [post(service, to, "video", count=50) for to in ("telegram", "whatsapp")]
    for message in messages:
        wait_until(lambda: service.message(message, None).counts.get("sent") == 50, 20)  # noqa: B023
    assert uploads(messenger) == [("a.mp4", digest("video"))] * 2
    assert {c.method for c in messenger.calls if c.uploads} == {"sendVideo", "media"}
    tos = Counter((call.service, call.to) for call in messenger.calls if call.receivers)
    assert (len(tos), set(tos.values())) == (100, {1})


def test_of_one_claim_one_delivery_uploads_and_ends_no_upload_but_its_own(
    service: Service, client: redis.Redis
) -> None:
    post(service, "telegram", "image", "audio", count=3)
    claims = service.sender.claim("test", 10).claims
    (uploads,) = [claim for claim in claims if not claim.waits]
    locks = client.keys("pr:known:* by")
    assert len(locks) == 2
    assert {client.get(lock) for lock in locks} == {uploads.delivery_id.encode()}
    client.set(locks[0], "another", ex=60)  # ours had lapsed
    service.sender.record("test", [handed_back(claim) for claim in claims])
    assert client.keys("pr:known:* by") == [locks[0]]
    again: list[Claim] = []
    wait_until(lambda: again.extend(service.sender.claim("test", 10).claims) or len(again) == 3)
    assert [claim.waits for claim in again] == [True] * 3
    assert client.keys("pr:known:* by") == [locks[0]]


def test_an_id_that_is_refused_is_forgotten_and_the_file_goes_up_again(
    service: Service, messenger: FakeMessenger
) -> None:
    stored = keep(service, CONTENTS["image"][1], "a.png").file.id

    def again() -> str:
        new = NewMessage("", (Recipient("42", "telegram"),), attachments=(Attachment(stored),))
        return service.accept(new)[0].id

    first = again()
    work(service, first, "sent")
    messenger.script = lambda call: (
        says(400, ok=False, error_code=400, description="Bad Request: wrong file_id")
        if call.json.get("photo") == "file-1"
        else None
    )
    second = again()
    work(service, second, "sent")
    third = again()
    work(service, third, "sent")
    assert [bool(call.uploads) for call in messenger.calls] == [True, False, True, False]
    assert service.delivery(f"{second}-0", None).delivery.attempts == 0  # it was no failed try


def test_an_upload_without_an_answer_leaves_nothing_in_doubt(
    service: Service, messenger: FakeMessenger, settings: Settings, client: redis.Redis
) -> None:
    settings = settings.model_copy(update={"on_unknown": "hold"})
    service = Service(Store(client), settings, open_accounts(settings))
    cut = iter([Answer(cut=True)])
    messenger.script = lambda call: next(cut, None) if call.method == "media" else None
    message = post(service, "whatsapp", "image")
    work(service, message, "sent")
    assert called(messenger) == ["media", "media", "messages"]


def test_what_went_before_its_worker_died_does_not_go_again(
    service: Service, messenger: FakeMessenger, start: Start, client: redis.Redis
) -> None:
    first = start("postrider", "worker")
    messenger.script = lambda call: Answer(after_s=60) if call.method == "sendAudio" else None
    message = post(service, "telegram", "image", "audio")
    wait_until(lambda: called(messenger) == ["sendPhoto", "sendAudio"])
    wait_until(lambda: client.exists(f"pr:parts:{message}-0"))
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    messenger.script = lambda _: None
    leases_run_out(client)
    service.sweep()
    start("postrider", "worker")
    wait_until(lambda: state(service, message) == "sent", 20)
    assert called(messenger) == ["sendPhoto", "sendAudio", "sendAudio"]
    wait_until(lambda: not client.exists(f"pr:parts:{message}-0"))


def test_who_comes_late_leaves_alone_what_is_noted_of_the_next_try(
    service: Service, client: redis.Redis, settings: Settings
) -> None:
    message = post(service, "telegram", "image", "audio")
    (late,) = service.sender.claim("late", 10).claims
    leases_run_out(client, [late.job_id.encode()])
    service.sweep()
    claims: list[Claim] = []
    wait_until(lambda: claims or claims.extend(service.sender.claim("next", 10).claims))
    note, parts = f"pr:parts:{message}-0", [Part("sent", "1"), Part("retry", "no")]
    service.sender.uploads.went(claims[0], parts)
    wait_until(lambda: client.exists(note))
    for claim, ours in ((late, False), (claims[0], True)):
        found = in_parts(verdict(claim, Retry("no"), settings), parts)
        assert service.sender.record("late", [found]) == [ours]
        assert bool(client.exists(note)) is not ours


def test_a_note_that_is_still_to_be_written_outlives_no_record(
    service: Service, client: redis.Redis, settings: Settings
) -> None:
    message = post(service, "telegram", "image", "audio")
    (claim,) = service.sender.claim("test", 10).claims
    parts = [Part("sent", "1"), Part("retry", "no")]
    for _ in range(300):
        service.sender.uploads.went(claim, parts)
    found = in_parts(verdict(claim, Retry("no"), settings), parts)
    assert service.sender.record("test", [found]) == [True]
    assert not client.exists(f"pr:parts:{message}-0")


@pytest.mark.minutes
def test_a_lease_is_held_during_an_upload_that_takes_longer(
    service: Service, messenger: FakeMessenger, start: Start
) -> None:
    start("postrider", "worker")
    start("postrider", "worker")
    content = b"%PDF-1.4\n" + NOISE * 40
    messenger.reads_s = 1.6 * LEASE_S / (len(content) / 65_536)
    stored = keep(service, content, "a.pdf").file.id
    new = NewMessage("", (Recipient("42", "telegram"),), attachments=(Attachment(stored),))
    message = service.accept(new)[0].id
    wait_until(lambda: state(service, message) == "sent", 90)
    assert uploads(messenger) == [("a.pdf", hashlib.sha256(content).hexdigest())]


def test_an_upload_that_a_stop_cuts_is_no_try_and_goes_whole_later(
    service: Service, messenger: FakeMessenger, start: Start
) -> None:
    stops_soon = "import sys; from postrider import settings, worker; worker.DRAIN_S = 0.3; "
    runs = "sys.exit(worker.run(settings.Settings.from_env()))"
    first = start("python", "-c", stops_soon + runs)
    messenger.reads_s = 0.05
    content = b"%PDF-1.4\n" + bytes(30_000_000)
    files = tuple(
        Attachment(keep(service, each, name).file.id)
        for each, name in ((CONTENTS["image"][1], "a.png"), (content, "a.pdf"))
    )
    new = NewMessage("", (Recipient("42", "telegram"),), attachments=files)
    message = service.accept(new)[0].id
    wait_until(lambda: called(messenger) == ["sendPhoto"])
    wait_until(lambda: service.store.redis.exists(f"pr:parts:{message}-0"))
    first.terminate()
    assert first.wait(30) == 0
    found = service.delivery(f"{message}-0", None)
    assert (found.delivery.state.value, found.delivery.attempts, found.last) == (
        "scheduled",
        0,
        None,
    )
    messenger.reads_s = 0
    start("postrider", "worker")
    wait_until(lambda: state(service, message) == "sent", 30)
    assert uploads(messenger) == [
        ("a.png", digest("image")),
        ("a.pdf", hashlib.sha256(content).hexdigest()),
    ]


# -- the transports


class Counting(io.RawIOBase):
    """So many zeros; knows whether it is closed, and fails where it is told to."""

    def __init__(self, size: int) -> None:
        self.left = size

    def read(self, most: int = -1) -> bytes:
        part = bytes(min(self.left, most))
        self.left -= len(part)
        return part


def form(*files: File, url: str) -> Request:
    return Request(
        "POST",
        f"{url}/bot1:a/sendDocument",
        form=[("chat_id", "42"), *(("document", f) for f in files)],
    )


def test_a_form_arrives_whole_with_any_name(send: Send, messenger: FakeMessenger) -> None:  # noqa: F811
    made: list[Counting] = []

    def opens() -> Counting:
        made.append(Counting(300_000))
        return made[-1]

    file = File("отчёт “1”.pdf", "application/pdf", 300_000, open=opens)  # type: ignore[arg-type]
    for _ in range(2):  # the connection serves another
        assert not isinstance(send(form(file, url=messenger.url)), NoReply)
    for call in messenger.calls:
        (came,) = call.uploads.values()
        assert (came.name, came.sha256) == (file.name, hashlib.sha256(bytes(300_000)).hexdigest())
    assert all(each.closed for each in made)


def test_a_file_that_has_become_shorter_has_not_left(send: Send, messenger: FakeMessenger) -> None:  # noqa: F811
    file = File("a", "x/y", 300_000, open=lambda: io.BytesIO(bytes(200_000)))
    reply = send(form(file, url=messenger.url))
    assert reply == NoReply(left=False, reason="a file of it cannot be read")
    assert messenger.calls == []


def test_a_file_that_is_gone_is_not_sent(send: Send, messenger: FakeMessenger) -> None:  # noqa: F811
    reply = send(form(File("a", "x/y", 300_000), url=messenger.url))
    assert reply == NoReply(left=False, reason="a file of it cannot be read")


def test_an_upload_that_is_cut_has_not_arrived(send: Send, messenger: FakeMessenger) -> None:  # noqa: F811
    size = 50_000_000

    def cut() -> Counting:
        return Cutting(size)

    class Cutting(Counting):
        def read(self, most: int = -1) -> bytes:
            if self.left < size // 2:
                messenger.shut()
                messenger.open()
            return super().read(most)

    reply = send(form(File("a", "x/y", size, open=cut), url=messenger.url))  # type: ignore[arg-type]
    assert isinstance(reply, NoReply)
    assert not reply.left


def test_giving_up_ends_what_is_not_out_whole_and_nothing_else(messenger: FakeMessenger) -> None:
    messenger.reads_s = 0.05
    messenger.script = lambda _: Answer(after_s=60)
    large: list[Counting] = []

    def opens() -> Counting:
        large.append(Counting(30_000_000))
        return large[-1]

    async def run() -> list[Reply | NoReply]:
        replies: list[Reply | NoReply] = []
        with closing(Concurrent(lambda _: None)) as carrier:
            for file in (
                File("small", "x/y", 9, open=lambda: io.BytesIO(bytes(9))),
                File("large", "x/y", 30_000_000, open=opens),  # type: ignore[arg-type]
            ):
                carrier.start(form(file, url=messenger.url), replies.append)
            async with asyncio.timeout(20):
                while not (messenger.calls and large and large[-1].left < 30_000_000):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            carrier.give_up()
        return replies

    assert asyncio.run(run()) == [NoReply(left=False, reason="no answer in time")]
    assert large[-1].closed


def test_one_file_of_a_form_is_open_at_a_time() -> None:
    there: list[Counting] = []
    most = 0

    def opens() -> Counting:
        there.append(Counting(1000))
        return there[-1]

    files = [File(f"{n}", "x/y", 1000, open=opens) for n in range(10)]  # type: ignore[arg-type]
    body = FormBody([(f"file{n}", file) for n, file in enumerate(files)])
    while body.read(100):
        most = max(most, sum(not each.closed for each in there))
    body.close()
    assert most == 1
    assert all(each.closed for each in there)
