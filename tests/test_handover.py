"""Upload, then send: the whole conversation as older clients hold it, by curl; whose it is, and when it is forgotten."""

import base64
import errno
import hashlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import astuple, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import redis
import requests
from apiflask import APIFlask
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from werkzeug.serving import make_server

from messengers.base import Heading, Rejected
from postrider.admission import Admission
from postrider.audit import Audit
from postrider.clients import Clients
from postrider.desk import KEPT, Desk
from postrider.errors import InvalidRequest, NotFound, Unavailable
from postrider.finding import Wanted
from postrider.handovers import Handed, Handovers
from postrider.logins import Logins
from postrider.model import NewMessage, Quota, Recipient, new_message_id
from postrider.parameters import TYPES, heading
from postrider.repeats import Once
from postrider.sender import DeliveryFailed
from postrider.service import Service
from postrider.settings import Settings
from postrider.transport import Blocking
from postrider.web import handover, problems
from postrider.web.auth import Gate
from postrider.web.reading import WholeRequest
from tests.conftest import PASSWORD, Api, connected_to, post_head
from tests.fake import FakeMessenger
from tests.mailserver import MailServer
from tests.test_files import PNG

SERVICES = {"wpp1": "whatsapp", "mail": "mail", "box": "sandbox"}
"""The services of this interface, and one more that takes every file and needs no account."""
NOBODYS = "A" * 22


class Clock:
    """Redis's time, moved."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return self.service.store.now() + self.ahead


@pytest.fixture
def mail_server(env: dict[str, str], mailserver: MailServer) -> MailServer:
    """Where mail goes; to be asked for before what is built upon the environment."""
    url = mailserver.url(query="?starttls=off")
    env |= {"SMTP_URL": url, "MAIL_FROM": "shop@example.org"}
    return mailserver


@pytest.fixture
def clock(service: Service) -> Clock:
    return Clock(service)


@pytest.fixture
def desk(service: Service, clock: Clock) -> Desk:
    service.desk = Desk(service.desk.handovers, service, clock, SERVICES)
    return service.desk


@pytest.fixture
def clients(client: redis.Redis) -> Clients:
    return Clients(client)


@pytest.fixture
def url(
    desk: Desk, service: Service, settings: Settings, client: redis.Redis, clients: Clients
) -> Iterator[str]:
    """Where that desk is served over HTTP, without a login."""
    app = APIFlask("desk", json_errors=False)
    app.request_class = WholeRequest
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    problems.register(app)
    gate = Gate(Admission(settings, clients, Logins(client)), Audit(client, 100))
    app.register_blueprint(handover.blueprint(service, gate))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(10)
    server.server_close()


Curl = Callable[..., str]


@pytest.fixture
def curl(url: str, tmp_path: Path) -> Curl:
    """`curl ARGS http://USER:PASSWORD@HOST/PATH`; gives the body and shows it, after the status where that is not 200."""

    def run(path: str, *args: str, login: str = f"postrider:{PASSWORD}") -> str:
        whole = ["curl", "-s", "-S", "-w", "\n%{http_code} %{content_type}", *args]
        done = subprocess.run(
            [*whole, f"http://{login}@{url}{path}"],
            cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
        body, _, told = done.stdout.rpartition("\n")
        status, _, kind = told.partition(" ")
        shown = body if status == "200" else f"{status} {body}"
        print(f"$ curl {' '.join(args)} http://USER:PASSWORD@HOST{path}\n{shown}")  # noqa: T201 - each answer is to be seen
        assert kind == "text/plain; charset=utf-8" or status == "401"
        return shown

    return run


def write(folder: Path, **files: bytes) -> None:
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content)


def deliver(service: Service) -> None:
    """Sends all that is due into the sandbox's inbox."""
    for delivery, _ in service.scheduled(10, None).rows:
        with suppress(DeliveryFailed):
            service.sender.deliver(delivery.id, Blocking(service.keep_note))


def upload(desk: Desk, *contents: tuple[str, str, bytes], owner: str = "", **fields: bytes) -> str:
    """The id of an upload of these (part, name, content) and fields; of one picture, where none is named."""
    with ExitStack() as stack:
        files = []
        for part, name, content in contents or ([] if fields else [("a", "a.png", PNG)]):
            incoming = stack.enter_context(closing(desk.engine.files.incoming()))
            incoming.write(content)
            files.append((part, name, incoming))
        return desk.take(owner, files, fields).id


# -- the conversation


def test_a_whole_conversation(
    curl: Curl, service: Service, clock: Clock, tmp_path: Path, client: redis.Redis
) -> None:
    write(tmp_path, holiday_png=PNG, words_txt="Grüße, Ana".encode(), list_pdf=b"%PDF-1.7 x")
    id_ = curl("/data", "-F", "1=@holiday.png", "-F", "2=@words.txt", "-F", "other=@list.pdf")
    assert len(base64.urlsafe_b64decode(id_ + "==")) == 16
    assert curl("/cons", "-F", f"id={id_}") == "preprocess"
    types = json.dumps({"holiday.png": "image", "words.txt": "text", "list.pdf": "document"})
    message = ("-F", f"id={id_}", "-F", "serv=box", "-F", "dest=ana", "-F", f"type={types}")
    assert curl("/msg", *message) == "queued"
    assert curl("/cons", "-d", f"id={id_}") == "queued"
    deliver(service)
    ((_, note),) = service.notes(10)
    assert (note["uuid"], note["text"]) == ("ana", "Grüße, Ana")
    assert [f[:2] for f in json.loads(note["files"])] == [
        ["holiday.png", "image/png"],
        ["list.pdf", "application/pdf"],
    ]
    assert curl("/cons", "-d", f"id={id_}") == "delivered"
    assert curl("/cons", "-d", f"id={id_}") == f"error: id: unknown id '{id_}'"
    service.purge()
    service.sweep()
    assert not client.keys("pr:handover*")
    assert not client.keys("pr:file*")


def test_whatsapp_gets_a_text(curl: Curl, service: Service, tmp_path: Path) -> None:
    write(tmp_path, words_txt=b"Hello")
    id_ = curl("/data", "-F", "x=@words.txt")
    sent = curl("/msg", "-d", f"id={id_}", "-d", "serv=wpp1", "-d", "dest=4915112345678", "-d", "type=text")  # fmt: skip
    assert sent == "queued"
    (claim,) = service.sender.claim("w", 1).claims
    assert (claim.recipient.service, claim.recipient.uuid) == ("whatsapp", "4915112345678")
    assert (claim.message.body, claim.message.files) == ("Hello", ())


def test_whatsapp_gets_a_picture(
    curl: Curl, service: Service, messenger: FakeMessenger, tmp_path: Path
) -> None:
    write(tmp_path, a_png=PNG, words_txt=b"Hello")
    id_ = curl("/data", "-F", "x=@a.png", "-F", "y=@words.txt")
    types = json.dumps({"a.png": "image", "words.txt": "text"})
    sent = curl("/msg", "-F", f"id={id_}", "-F", "serv=wpp1", "-F", "dest=4915112345678", "-F", f"type={types}")  # fmt: skip
    assert sent == "queued"
    deliver(service)
    up, message = messenger.calls
    assert [u.sha256 for u in up.uploads.values()] == [hashlib.sha256(PNG).hexdigest()]
    assert message.json["image"]["caption"] == "Hello"
    assert curl("/cons", "-d", f"id={id_}") == "delivered"


def test_a_mail_has_what_info_says(
    mail_server: MailServer, curl: Curl, service: Service, tmp_path: Path
) -> None:
    write(tmp_path, list_pdf=b"%PDF-1.7 x")
    id_ = curl("/data", "-F", "x=@list.pdf")
    info = json.dumps({"subject": "Prices", "reply-to": "ben@example.org", "body": "Grüße"})
    asked = {"id": id_, "serv": "mail", "dest": "ana@example.org", "type": '{"x": "document"}'}
    fields = (asked | {"info": info}).items()
    assert curl("/msg", *(a for n, v in fields for a in ("-F", f"{n}={v}"))) == "queued"
    deliver(service)
    (taken,) = mail_server.taken
    mail = taken.mail
    assert (mail["subject"], mail["reply-to"]) == ("Prices", "ben@example.org")
    (attached,) = mail.iter_attachments()
    assert attached.get_filename() == "list.pdf"
    assert curl("/cons", "-d", f"id={id_}") == "delivered"


def test_what_is_wrong_in_info_is_named_as_the_client_names_it(
    mail_server: MailServer, desk: Desk
) -> None:
    id_, info = upload(desk, words=b"x"), '{"reply-to": "nobody"}'
    with pytest.raises(InvalidRequest, match=r"^reply-to: must be a mail address"):
        desk.send("", handover.Asked(id_, "mail", "ana@example.net", "text", info=info))


def test_the_latest_upload_needs_no_id(curl: Curl, service: Service, tmp_path: Path) -> None:
    write(tmp_path, a_txt=b"first", b_txt=b"second")
    curl("/data", "-F", "x=@a.txt")
    id_ = curl("/data", "-F", "x=@b.txt")
    said = ("-d", "serv=box", "-d", "dest=ana", "-d", "type=text")
    assert curl("/msg", *said) == id_
    deliver(service)
    assert [note["text"] for _, note in service.notes(10)] == ["second"]


def test_the_same_asked_again_is_sent_once(curl: Curl, service: Service, tmp_path: Path) -> None:
    write(tmp_path, a_txt=b"first")
    id_ = curl("/data", "-F", "x=@a.txt")
    said = ("-d", f"id={id_}", "-d", "serv=box", "-d", "type=text")
    for _ in range(2):
        assert curl("/msg", *said, "-d", "dest=ana") == "queued"
    assert "already" in curl("/msg", *said, "-d", "dest=ben")
    deliver(service)
    assert len(service.notes(10)) == 1


def test_a_message_that_was_accepted_and_not_written_down_is_not_sent_again(
    desk: Desk, service: Service, client: redis.Redis
) -> None:
    id_ = upload(desk, words=b"hello")
    asked = handover.Asked(id_, "box", "ana", "text")
    desk.send("", asked)
    client.hdel(f"pr:handover:{id_}", "message", "asked")
    desk.send("", asked)
    assert len(client.keys("pr:m:*")) == 1
    client.hdel(f"pr:handover:{id_}", "message", "asked")
    with pytest.raises(InvalidRequest, match="other parameters"):
        desk.send("", replace(asked, dest="ben"))


def test_the_same_call_that_still_runs_is_told_so(desk: Desk, service: Service) -> None:
    id_ = upload(desk, words=b"hello")
    asked = handover.Asked(id_, "box", "ana", "text")
    digest = hashlib.sha256(json.dumps(astuple(asked)[1:]).encode()).hexdigest()
    now, once = service.store.now(), Once(f"handover\n{id_}", digest.encode())
    service.repeats.begin("", once, new_message_id(now), now, runs_s=60, kept_s=60)
    with pytest.raises(InvalidRequest, match="is being sent already; ask how it stands"):
        desk.send("", asked)
    with pytest.raises(InvalidRequest, match="other parameters"):
        desk.send("", replace(asked, dest="ben"))


def test_a_message_that_was_accepted_and_not_written_down_is_not_told_as_refused(
    desk: Desk, service: Service, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = upload(desk, words=b"hello")
    said = {"id": id_, "serv": "wpp1", "dest": "4915112345678", "type": "text"}

    def fails(*_: object) -> bool:
        raise Unavailable("Redis is away")

    with monkeypatch.context() as patched:
        patched.setattr(Handovers, "sent", fails)
        answer = api.post("/msg", data=said)
    assert (answer.status_code, answer.json()["accepted"]) == (503, "unknown")
    assert api.post("/msg", data=said).text == "queued"
    assert len(service.find_messages(Wanted(), 10, None)[0]) == 1


def test_what_is_forgotten_while_it_is_sent_is_unknown(
    desk: Desk, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = upload(desk, words=b"hello")
    accept = service.accept

    def slowly(*args: Any) -> Any:
        done = accept(*args)
        held = desk.handovers.get(id_)
        assert held
        assert desk.handovers.drop(held)
        return done

    monkeypatch.setattr(service, "accept", slowly)
    with pytest.raises(InvalidRequest, match="unknown id"):
        desk.send("", handover.Asked(id_, "box", "ana", "text"))


def test_a_failure_is_told(desk: Desk, service: Service) -> None:
    id_ = upload(desk)
    desk.send("", handover.Asked(id_, "box", "blocked", '{"a.png": "image"}'))
    deliver(service)
    for _ in range(2):
        assert desk.state("", id_) == "failed"


def test_what_has_gone_in_part_is_told_so(
    desk: Desk, service: Service, client: redis.Redis
) -> None:
    id_ = upload(desk)
    desk.send("", handover.Asked(id_, "box", "ana", '{"a.png": "image"}'))
    (claim,) = service.sender.claim("w", 1).claims
    service.sender.record("w", [service.sender.verdict(claim, Rejected("partial"))])
    client.hset(f"pr:m:{claim.message.id}", "partial", 1)
    assert desk.state("", id_) == "partially delivered"


def test_what_was_stopped_has_failed(desk: Desk, service: Service) -> None:
    id_ = upload(desk)
    desk.send("", handover.Asked(id_, "box", "ana", '{"a.png": "image"}'))
    held = desk.handovers.get(id_)
    assert held
    service.cancel(held.message, None)
    assert desk.state("", id_) == "failed"


# -- encrypted


@pytest.fixture
def server_key(service: Service) -> str:
    return service.keys.newest().pem


def sealed(pem: str, content: bytes) -> tuple[bytes, bytes]:
    """What a client makes: the file, and its key for the server alone."""
    aes, nonce = AESGCM.generate_key(256), os.urandom(12)
    public = serialization.load_pem_public_key(pem.encode())
    assert isinstance(public, rsa.RSAPublicKey)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    return nonce + AESGCM(aes).encrypt(nonce, content, None), public.encrypt(aes, oaep)


@pytest.mark.parametrize("key", ["key=@wrapped.key", "key=<wrapped.key"], ids=["a file", "a value"])
def test_a_whole_conversation_encrypted(
    curl: Curl, service: Service, server_key: str, tmp_path: Path, key: str
) -> None:
    assert curl("/init").strip() == server_key.strip()
    assert curl("/init", "-X", "POST").strip() == server_key.strip()
    content, wrapped = sealed(server_key, PNG)
    write(tmp_path, a_png=content, wrapped_key=wrapped)
    id_ = curl("/data", "-F", "1=@a.png", "-F", key)
    said = ("-d", f"id={id_}", "-d", "serv=box", "-d", "dest=ana", "-d", 'type={"a.png": "image"}')
    assert curl("/msg", *said) == "queued"
    deliver(service)
    ((_, note),) = service.notes(10)
    ((_, media_type, size, file),) = json.loads(note["files"])
    assert (media_type, size) == ("image/png", len(PNG))
    with service.files.open(file) as opened:
        assert opened.read() == PNG
    assert curl("/cons", "-d", f"id={id_}") == "delivered"


def test_what_does_not_open_is_refused_and_not_kept(
    curl: Curl, service: Service, server_key: str, tmp_path: Path, client: redis.Redis
) -> None:
    content, wrapped = sealed(server_key, PNG)
    _, other = sealed(server_key, PNG)
    write(tmp_path, a_png=content, cut_png=content[:-1], wrapped_key=wrapped, other_key=other)
    for file, key in (("cut.png", "wrapped.key"), ("a.png", "other.key"), ("a.png", "a.png")):
        assert curl("/data", "-F", f"1=@{file}", "-F", f"key=@{key}").startswith("400 error: ")
    assert not client.keys("pr:file*")
    assert not [p for p in service.files.folder.iterdir() if p.is_file()]


def test_no_cache_may_keep_a_key_that_was_replaced(api: Api) -> None:
    for method in ("GET", "POST"):
        answer = api.request(method, "/init")
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.text == api.get("/key").text


# -- what is wrong is said, and the files are kept


WRONG = {
    "id": (f"unknown id '{NOBODYS}'", {"id": NOBODYS}),
    "a strange id": ("unknown id '../x'", {"id": "../x"}),
    "serv": ("unknown service 'fax'; there are wpp1, mail, box", {"serv": "fax"}),
    "no serv": ("serv: is missing", {"serv": ""}),
    "no dest": ("dest: is missing", {"dest": ""}),
    "dest": ("dest: ", {"serv": "wpp1", "dest": "ana"}),
    "a messenger that is not there": ("serv: ", {"serv": "mail", "dest": "a@b.c"}),
    "sender": ("sender: sandbox has no account 'shop'", {"sender": "shop"}),
    "type": ("unknown type 'hologram'", {"type": '{"a.png": "hologram"}'}),
    "a type that is none": ("unknown type '1'", {"type": '{"a.png": 1}'}),
    "no type": ("type: is missing", {"type": ""}),
    "no JSON": ("must be text, or JSON", {"type": "image"}),
    "no object": ("must be text, or JSON", {"type": "[]"}),
    "file": ("unknown file 'b.png'; there are 'a.png'", {"type": '{"b.png": "image"}'}),
    "two types": ("says two things of 'a.png'", {"type": '{"a": "image", "a.png": "document"}'}),
    "a file left out": ("type: says nothing of 'a.png'", {"type": "{}"}),
    "no text": ("a.png: is no text in UTF-8", {"type": "text"}),
    "info": ("info: must be JSON", {"info": "subject"}),
    "a body that is none": ("info: 'body' must be a text", {"info": '{"body": 1}'}),
    "text": ("text: has 10001 characters", {"info": json.dumps({"body": "x" * 10_001})}),
}


@pytest.mark.parametrize(("words", "wrong"), WRONG.values(), ids=WRONG)
def test_a_wrong_parameter_cancels_the_parameters_and_keeps_the_files(
    curl: Curl, service: Service, desk: Desk, words: str, wrong: dict[str, str]
) -> None:
    id_ = upload(desk)
    right = {"id": id_, "serv": "box", "dest": "ana", "type": '{"a.png": "image"}'}

    def send(fields: dict[str, str]) -> str:
        return curl("/msg", *(a for n, v in fields.items() for a in ("--data-urlencode", f"{n}={v}")))  # fmt: skip

    answer = send(right | wrong)
    assert answer.startswith("error: ")
    assert words in answer
    assert curl("/cons", "-d", f"id={id_}") == "preprocess"
    assert send(right) == "queued"
    deliver(service)
    assert len(service.notes(10)) == 1


def test_what_is_no_upload_is_told_so(
    curl: Curl, url: str, tmp_path: Path, client: redis.Redis
) -> None:
    write(tmp_path, a_png=PNG)
    head = 'Content-Disposition: form-data; name="a"; filename="ü.txt"'.encode("latin-1")
    (tmp_path / "latin-1").write_bytes(b"--b\r\n" + head + b"\r\n\r\nx\r\n--b--\r\n")
    for words, args in (
        ("as multipart/form-data", ("-d", "a=b")),
        ("names no boundary", ("-H", "Content-Type: multipart/form-data", "-d", "x")),
        ("no file in the upload", ("-F", "a=;filename=")),
        ("over 1000 characters", ("-F", f"{'n' * 1001}=x")),
        ("is cut short", ("-H", "Content-Type: multipart/form-data; boundary=b", "-d", "--b\r\nx")),
        (
            "not in UTF-8",
            ("-H", "Content-Type: multipart/form-data; boundary=b", "--data-binary", "@latin-1"),
        ),
    ):
        answer = curl("/data", *args)
        assert answer.startswith("error: ")
        assert words in answer
    many = [(f"f{n}", ("a.png", PNG)) for n in range(101)]
    login = ("postrider", PASSWORD)
    answer = requests.post(f"http://{url}/data", files=many, auth=login, timeout=30)
    assert answer.status_code == 413
    assert "over 100 parts" in answer.text
    assert "no upload of yours" in curl("/msg", "-d", "serv=box")
    assert "is missing" in curl("/cons", "-d", "x=1")
    assert "more than once" in curl("/cons", "-d", "id=1&id=2")
    assert not client.keys("pr:file*")


def test_what_info_says_of_a_mail_is_understood() -> None:
    info = {
        "subject": "Hi",
        "Reply-To": "a@b.c",
        "cc": "d@e.f",
        "bcc": ["g@h.i"],
        "from": "shop",
        "x": 1,
    }
    assert heading(info) == Heading("Hi", "shop", "a@b.c", ("d@e.f",), ("g@h.i",))
    assert heading({"body": "Hi", "x": 1}) is None
    for wrong in ({"subject": 1}, {"cc": [1]}, {"reply-to": ["a@b.c"]}):
        with pytest.raises(InvalidRequest, match="must be a text"):
            heading(wrong)


BOUNDARY = {"Content-Type": "multipart/form-data; boundary=b"}


def form(**fields: str) -> bytes:
    """A multipart form of these fields."""
    part = '--b\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
    return ("".join(part.format(*field) for field in fields.items()) + "--b--\r\n").encode()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", ["/msg", "/cons"])
def test_a_form_is_read_as_far_as_a_body_may_go(api: Api, path: str, chunked: bool) -> None:
    """A long `info` before the id: neither refused nor cut, however it comes."""

    def ask(size: int) -> requests.Response:
        body = form(info="x" * size, id=NOBODYS)
        return api.post(path, data=iter([body]) if chunked else body, headers=BOUNDARY)

    assert ask(2_000_000).text == f"error: id: unknown id '{NOBODYS}'"
    with suppress(requests.ConnectionError):  # answered and hung up before all of it was written
        assert ask(33 * 1024 * 1024).status_code == 413


def test_a_text_is_bounded(desk: Desk) -> None:
    id_ = upload(desk, words=b"x" * (1024 * 1024 + 1))
    with pytest.raises(InvalidRequest, match="too long for a text"):
        desk.send("", handover.Asked(id_, "box", "ana", "text"))


def test_a_text_that_cannot_be_read_is_not_taken_for_one_that_is_none(
    desk: Desk, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = upload(desk, words="Grüße".encode())
    asked = handover.Asked(id_, "box", "ana", "text")

    def fails(_: str) -> BinaryIO:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(service.files, "open", fails)
        with pytest.raises(Unavailable):
            desk.send("", asked)
    (held,) = desk.handovers.get_all([id_])
    service.files.path(held.files[0].file).unlink()
    with pytest.raises(InvalidRequest, match="words: is gone; upload it again"):
        desk.send("", asked)


def test_a_file_is_known_by_its_own_name_or_by_its_part(desk: Desk, service: Service) -> None:
    id_ = upload(desk, ("one", "a.png", PNG), ("two", "a.png", PNG), words=b"Hello")
    with pytest.raises(InvalidRequest, match="is the name of 2 files"):
        desk.send("", handover.Asked(id_, "box", "ana", '{"a.png": "image"}'))
    types = {"one": "image", "two": "document", "words": "text"}
    desk.send("", handover.Asked(id_, "box", "ana", json.dumps(types), info='{"body": "Dear Ana"}'))
    (claim,) = service.sender.claim("w", 1).claims
    assert [file.kind for file in claim.files] == ["image", "document"]
    assert claim.message.body == "Dear Ana\n\nHello"


@pytest.mark.parametrize("type_", [name for name in TYPES if name != "text"])
def test_every_type_is_what_it_says(desk: Desk, service: Service, type_: str) -> None:
    desk.send("", handover.Asked(upload(desk), "box", "ana", json.dumps({"a.png": type_})))
    (claim,) = service.sender.claim("w", 1).claims
    assert [file.kind for file in claim.files] == [type_]


def test_a_cut_upload_leaves_nothing_behind(
    url: str, service: Service, client: redis.Redis
) -> None:
    form = "Content-Type: multipart/form-data; boundary=b"
    part = b'--b\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n' + PNG
    with connected_to(f"http://{url}") as connection:
        connection.sendall(post_head("/data", form, "Content-Length: 100000") + part)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as file:
            answer = file.read()
    assert answer.startswith(b"HTTP/1.1 200 ")  # a wrong call is answered in words
    assert answer.endswith(b"\r\n\r\nerror: body: is cut short, or no form; nothing of it was kept")
    assert not client.keys("pr:file*")
    assert not client.keys("pr:handover*")
    assert not list(service.files.folder.iterdir())


# -- whose it is


def test_nobody_comes_in_without_a_login(curl: Curl) -> None:
    for path in ("/init", "/data", "/msg", "/cons"):
        args = () if path == "/init" else ("-d", "id=x")
        assert curl(path, *args, login="postrider:wrong").startswith("401 ")


def test_the_id_of_another_client_is_unknown(
    desk: Desk, service: Service, clients: Clients, url: str, tmp_path: Path
) -> None:
    (_, alpha), (_, beta) = (clients.add_key(n, "sender", "tests", Quota()) for n in ("a", "b"))
    write(tmp_path, a_txt=b"secret")

    def ask(key: str, path: str, *args: str) -> str:
        command = ["curl", "-s", "-S", "-H", f"Authorization: Bearer {key}", *args, url + path]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True)  # fmt: skip
        print(done.stdout)  # noqa: T201 - each answer is to be seen
        return done.stdout

    id_ = ask(alpha, "/data", "-F", "a=@a.txt")
    said = ("-d", "serv=box", "-d", "dest=ana", "-d", "type=text")
    for path, args in (("/msg", said), ("/cons", ())):
        theirs = ask(beta, path, "-d", f"id={id_}", *args)
        assert theirs.replace(id_, NOBODYS) == ask(beta, path, "-d", f"id={NOBODYS}", *args)
        assert "unknown id" in theirs
    assert "no upload of yours" in ask(beta, "/msg", *said)
    with pytest.raises(InvalidRequest, match="unknown id"):
        desk.state("", id_)
    assert ask(alpha, "/cons", "-d", f"id={id_}") == "preprocess"


def test_asking_how_it_stands_is_not_told_to_the_audit_log(api: Api) -> None:
    assert api.post("/cons", data={"id": NOBODYS}).text.startswith("error: ")
    assert api.post("/data", files={"a": b"x"}).status_code == 200
    entries = api.get("/api/v1/audit").json()["entries"]
    assert [entry["action"] for entry in entries] == ["POST /data"]


def test_what_was_refused_is_no_send_in_the_audit_log(api: Api) -> None:
    """With 200, as all that is wrong here: it would stand there like what was sent, and push that out."""
    assert api.post("/data", data={"a": "x"}).text.startswith("error: ")
    assert api.post("/msg", data={"id": NOBODYS}).text.startswith("error: ")
    assert api.get("/api/v1/audit").json()["entries"] == []


# -- how long it is kept


def there(desk: Desk, id_: str) -> bool:
    return desk.handovers.get(id_) is not None


def test_without_parameters_it_is_forgotten_after_24_hours(
    desk: Desk, service: Service, clock: Clock
) -> None:
    id_ = upload(desk)
    held = desk.handovers.get(id_)
    assert held
    file = held.files[0].file
    clock.ahead = KEPT - timedelta(minutes=1)
    desk.sweep()
    service.files.sweep(clock())
    assert desk.state("", id_) == "preprocess"  # which keeps it no longer
    assert service.files.get(file, "")
    clock.ahead = KEPT + timedelta(minutes=1)
    desk.sweep()
    with pytest.raises(InvalidRequest, match="unknown id"):
        desk.state("", id_)
    service.files.sweep(clock())
    with pytest.raises(NotFound):
        service.files.get(file, "")
    with pytest.raises(InvalidRequest, match="no upload of yours"):
        desk.send("", handover.Asked(serv="box", dest="ana", type="text"))


@pytest.mark.parametrize(("dest", "end"), [("ana", "delivered"), ("blocked", "failed")])
def test_24_hours_after_its_end_it_is_forgotten_when_nobody_asks(
    desk: Desk, service: Service, clock: Clock, dest: str, end: str
) -> None:
    id_ = upload(desk)
    desk.send("", handover.Asked(id_, "box", dest, '{"a.png": "image"}'))
    clock.ahead = 3 * KEPT
    desk.sweep()
    assert there(desk, id_)  # it has not ended
    deliver(service)
    clock.ahead += timedelta(minutes=2)
    desk.sweep()
    service.purge()  # how it ended is known
    clock.ahead += KEPT - timedelta(minutes=1)
    desk.sweep()
    assert there(desk, id_)
    if end == "failed":
        assert desk.state("", id_) == end
        clock.ahead += KEPT - timedelta(minutes=1)
        desk.sweep()
        assert there(desk, id_)  # somebody has asked
    clock.ahead += timedelta(minutes=2)
    desk.sweep()
    assert not there(desk, id_)


def test_how_it_ended_is_known_though_its_message_is_purged(desk: Desk, service: Service) -> None:
    id_ = upload(desk)
    desk.send("", handover.Asked(id_, "box", "ana", '{"a.png": "image"}'))
    deliver(service)
    assert service.purge() == 1
    assert desk.state("", id_) == "delivered"


def test_what_failed_and_is_sent_again_has_not_ended(
    desk: Desk, service: Service, clock: Clock
) -> None:
    id_ = upload(desk)
    desk.send("", handover.Asked(id_, "box", "blocked", '{"a.png": "image"}'))
    deliver(service)
    assert desk.state("", id_) == "failed"
    held = desk.handovers.get(id_)
    assert held
    service.change_delivery("retry", f"{held.message}-0", None)
    assert desk.state("", id_) == "queued"
    clock.ahead = 2 * KEPT
    desk.sweep()
    assert there(desk, id_)


def test_only_one_of_two_who_ask_is_told_that_it_was_delivered(
    desk: Desk, service: Service
) -> None:
    id_ = upload(desk)
    desk.send("", handover.Asked(id_, "box", "ana", '{"a.png": "image"}'))
    deliver(service)
    told: list[str] = []

    def ask() -> None:
        try:
            told.append(desk.state("", id_))
        except InvalidRequest as error:
            told.append(error.reason.partition(" '")[0])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(told) == ["delivered"] + ["unknown id"] * 7


def test_a_file_of_a_handover_is_in_use(desk: Desk, service: Service, clock: Clock) -> None:
    held = desk.handovers.get(upload(desk))
    assert held
    file = held.files[0].file
    assert not service.files.delete(file, "", service.store.now())
    service.files.sweep(service.store.now() + 2 * KEPT)
    assert service.files.get(file, "")


def test_files_that_are_gone_make_no_handover(desk: Desk, client: redis.Redis) -> None:
    until = datetime.now(UTC) + KEPT
    assert desk.handovers.put("", [Handed("a", "a", NOBODYS)], until) is None
    assert not client.keys("pr:handover*")


def test_an_upload_that_cannot_be_kept_keeps_none_of_its_files(
    desk: Desk, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise Unavailable("Redis is full")

    monkeypatch.setattr(Handovers, "put", refuse)
    with pytest.raises(Unavailable):
        upload(desk)
    assert not client.keys("pr:file*")


def test_a_sweep_looks_at_all_that_is_due(desk: Desk, clock: Clock) -> None:
    ids = [upload(desk) for _ in range(7)]
    clock.ahead = 2 * KEPT
    desk.sweep(most=3)
    assert not any(there(desk, id_) for id_ in ids)


def test_what_does_not_decrypt_stops_neither_purge_nor_sweep(
    desk: Desk, service: Service, clock: Clock, client: redis.Redis
) -> None:
    ids = [upload(desk) for _ in range(3)]
    for id_ in ids:
        desk.send("", handover.Asked(id_, "box", "ana", '{"a.png": "image"}'))
    deliver(service)
    held = desk.handovers.get(ids[0])
    assert held
    client.hset(f"pr:m:{held.message}", "body", b"\0\1changed")
    clock.ahead = timedelta(minutes=2)
    desk.sweep(most=1)
    assert [h.ended for h in desk.handovers.get_all(ids)] == ["delivered"] * 3
    assert service.purge() == 3
    assert [desk.state("", id_) for id_ in ids] == ["delivered"] * 3


def test_what_has_lost_its_record_keeps_no_other_waiting(
    desk: Desk, clock: Clock, client: redis.Redis
) -> None:
    ids = [upload(desk) for _ in range(4)]
    for id_ in ids[:3]:
        client.delete(f"pr:handover:{id_}")
        client.sadd("pr:handovers:open", id_)
    desk.settle()
    assert not client.exists("pr:handovers:open")
    clock.ahead = 2 * KEPT
    desk.sweep(most=2)
    assert not client.exists("pr:handovers")


def evalsha_calls(client: redis.Redis) -> int:
    return int(client.info("commandstats")["cmdstat_evalsha"]["calls"])


@pytest.mark.parametrize("number", [10, 60])
def test_many_are_settled_in_few_calls(
    desk: Desk, service: Service, client: redis.Redis, number: int
) -> None:
    """As many for ten as for sixty."""
    until = datetime.now(UTC) + KEPT
    file = upload(desk)
    (handed,) = desk.handovers.get_all([file])[0].files
    service.accept(NewMessage("x", (Recipient("ana", "sandbox"),)))
    deliver(service)
    (found,), _ = service.find_messages(Wanted(), 1, None)
    for _ in range(number):
        new = desk.handovers.put("", [handed], until)
        assert new
        assert desk.handovers.sent(new.id, found.message.id, "", until)
    calls = evalsha_calls(client)
    desk.settle()
    assert evalsha_calls(client) - calls <= 3
    assert not client.exists("pr:handovers:open")
