"""Files to WhatsApp: uploaded once, then sent by their id; within Meta's limits, judged by Meta's own description."""

import io
import json

import httpx
import pytest
import pywa

from messengers.base import (
    File,
    NoReply,
    Outbound,
    Piece,
    Rejected,
    Reply,
    Retry,
    Sent,
    Taken,
    Unclear,
)
from messengers.whatsapp import WhatsApp
from postrider.selftest.forms import parts_of
from postrider.streamed import FormBody
from tests.messengers import specs

NUMBER, TOKEN, TO, KEY = "106540352242922", "EAAGsecret", "16505551234", "key-0"
BUSINESS = WhatsApp(TOKEN, NUMBER)
MESSAGES = specs.request_body("/{Version}/{Phone-Number-ID}/messages")
MEDIA = specs.request_body("/{Version}/{Phone-Number-ID}/media", content_type="multipart/form-data")
KB, MB = 1000, 1_000_000
KINDS = {
    "image": ("a.jpg", "image/jpeg", "image", 5 * MB),
    "video": ("a.mp4", "video/mp4", "video", 16 * MB),
    "animation": ("b.mp4", "video/mp4", "video", 16 * MB),
    "audio": ("a.mp3", "audio/mpeg", "audio", 16 * MB),
    "voice": ("a.ogg", "audio/ogg", "audio", 16 * MB),
    "sticker": ("a.webp", "image/webp", "sticker", 500 * KB),
    "document": ("отчёт.pdf", "application/pdf", "document", 100 * MB),
}
CAPTIONED = ["image", "video", "animation", "document"]
ACCEPTED = Reply(200, b'{"messages": [{"id": "wamid.1"}]}')
UPLOADED = Reply(200, b'{"id": "4490709327384033"}')


def file(kind="image", size=100, **more):
    name, media_type, *_ = KINDS[kind]
    told = {"name": name, "media_type": media_type, "kind": kind, "id": "A" * 22} | more
    return File(size=size, open=lambda: io.BytesIO(b"x" * size), **told)


def out(*files, text="", nth=1):
    return Outbound(TO, text, KEY, nth, files=tuple(files))


def error(code, details="", status=400):
    told = {"code": code, "message": f"(#{code}) no", "error_data": {"details": details}}
    return Reply(status, json.dumps({"error": told}).encode())


def steps_of(message, piece, *replies):
    """The requests of a piece that is answered so, and what came of it."""
    steps, sent, reply, answers = BUSINESS.send_piece(message, piece), [], None, iter(replies)
    while True:
        try:
            sent.append(steps.send(reply))
        except StopIteration as stop:
            return sent, stop.value
        reply = next(answers)


def said(request):
    assert specs.faults(specs.WHATSAPP, MESSAGES, request.json) == []
    assert request.url.endswith(f"/{NUMBER}/messages")
    return request.json


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_uploaded_and_then_sent_by_its_id(kind):
    name, media_type, shown, _ = KINDS[kind]
    (upload, message), taken = steps_of(out(file(kind)), Piece((0,)), UPLOADED, ACCEPTED)
    assert (upload.method, upload.url.endswith(f"/{NUMBER}/media")) == ("POST", True)
    assert upload.headers["Authorization"] == f"Bearer {TOKEN}"
    body = FormBody(upload.form)
    fields, uploads = parts_of(body.read(), body.content_type)
    assert specs.faults(specs.WHATSAPP, MEDIA, fields | {"file": ""}) == []
    assert fields == {"messaging_product": "whatsapp", "type": media_type}
    assert (uploads["file"].name, uploads["file"].media_type) == (name, media_type)
    told = said(message)
    assert (told["type"], told[shown]["id"]) == (shown, "4490709327384033")
    assert told[shown].get("filename") == (name if shown == "document" else None)
    assert told[shown].get("voice") == (True if kind == "voice" else None)
    assert taken == Taken(Sent("wamid.1"), {0: "4490709327384033"})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", [{"known": "17"}, {"id": "", "link": "https://x.test/a"}])
def test_what_meta_can_find_is_not_uploaded(kind, given):
    (message,), taken = steps_of(out(file(kind, **given)), Piece((0,)), ACCEPTED)
    told = said(message)[KINDS[kind][2]]
    assert told.get("id", told.get("link")) == given.get("known", given.get("link"))
    assert taken == Taken(Sent("wamid.1"))


@pytest.mark.parametrize("shown", ["image", "video", "document", "audio"])
def test_a_message_is_what_pywa_would_send(shown):
    seen = []

    def answer(request):
        seen.append(request)
        body = {"messages": [{"id": "wamid.1"}], "contacts": [{"input": TO, "wa_id": TO}]}
        return httpx.Response(200, json=body)

    with httpx.Client(transport=httpx.MockTransport(answer)) as session:
        theirs = pywa.WhatsApp(NUMBER, TOKEN, session=session, api_version=23.0)
        more = {} if shown == "audio" else {"caption": "Hi"}
        more |= {"filename": KINDS["document"][0]} if shown == "document" else {}
        getattr(theirs, f"send_{shown}")(TO, "17", tracker=KEY, **more)
    message = out(file(shown, known="17"), text=more.get("caption", ""))
    (ours,), _ = steps_of(message, BUSINESS.pieces(message)[0], ACCEPTED)
    theirs = json.loads(seen[-1].content)
    theirs[shown] = {k: v for k, v in theirs[shown].items() if v is not None}
    assert ours.json == theirs


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_goes_under_the_first_file_where_that_can_be(kind):
    files = (file(kind, known="1"), file("image", known="2"))
    whole = [Piece((0,), text=True), Piece((1,))]
    apart = [Piece(text=True), Piece((0,)), Piece((1,))]
    assert BUSINESS.pieces(out(*files, text="😀" * 512)) == (whole if kind in CAPTIONED else apart)
    assert BUSINESS.pieces(out(*files, text="😀" * 512 + "a")) == apart
    assert BUSINESS.pieces(out(*files)) == [Piece((0,)), Piece((1,))]
    if kind in CAPTIONED:
        (message,), _ = steps_of(out(*files, text="Hi"), whole[0], ACCEPTED)
        assert said(message)[KINDS[kind][2]]["caption"] == "Hi"
    (message,), taken = steps_of(out(*files, text="Hi"), apart[0], ACCEPTED)
    assert (said(message)["type"], taken) == ("text", Taken(Sent("wamid.1")))


@pytest.mark.parametrize("kind", KINDS)
def test_over_its_limit_it_goes_as_a_document_and_that_is_said(kind):
    _, _, shown, limit = KINDS[kind]
    at, over = file(kind, limit, known="1"), file(kind, limit + 1, known="1")
    assert BUSINESS.check_files([at], "") is None
    (message,), _ = steps_of(out(at), Piece((0,)), ACCEPTED)
    assert said(message)["type"] == shown
    if kind == "document":
        assert str(limit) in BUSINESS.check_files([over], "")[1]
        return
    assert BUSINESS.check_files([over], "") is None
    (message,), _ = steps_of(out(over), Piece((0,)), ACCEPTED)
    assert said(message)["type"] == "document"
    (notice,) = BUSINESS.notices([over])
    assert str(limit) in notice


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"document"}))
def test_100_mb_are_the_most_as_a_document_too(kind):
    assert BUSINESS.check_files([file(kind, 100 * MB)], "") is None
    assert BUSINESS.check_files([file(), file(kind, 100 * MB + 1)], "")[0] == 1


def test_of_another_type_it_goes_as_a_document_too():
    gif = file("animation", media_type="image/gif", known="1")
    (message,), _ = steps_of(out(gif), Piece((0,)), ACCEPTED)
    assert said(message)["type"] == "document"
    assert "image/gif" in BUSINESS.notices([gif])[0]


def test_a_large_sticker_is_warned_of():
    assert BUSINESS.notices([file("sticker", 100 * KB)]) == []
    assert "100000" in BUSINESS.notices([file("sticker", 100 * KB + 1)])[0]


def test_voice_that_is_none_goes_as_audio():
    mp3 = file("voice", media_type="audio/mpeg", known="1")
    (message,), _ = steps_of(out(mp3), Piece((0,)), ACCEPTED)
    assert said(message)["audio"] == {"id": "1"}
    assert "Ogg" in BUSINESS.notices([mp3])[0]


def test_an_empty_file_and_one_that_is_nowhere_are_refused():
    assert "empty" in BUSINESS.check_files([file(size=0)], "")[1]
    assert BUSINESS.check_files([file(id="")], "")[0] == 0


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(NoReply(left=True, reason="x"), Retry), (NoReply(left=False, reason="x"), Retry),
     (Reply(200, b"{}"), Retry), (Reply(200, b'{"id": 5}'), Retry), (Reply(200, b'{"id": "a b"}'), Retry),
     (ACCEPTED, Retry), (Reply(503), Retry), (error(190, status=401), Retry), (error(100), Rejected), (Reply(413), Rejected)],
)  # fmt: skip
def test_an_upload_that_fails_has_sent_nothing(answer, kind):
    _, taken = steps_of(out(file()), Piece((0,)), answer)
    assert isinstance(taken.outcome, kind)
    assert taken.known == {}


def test_what_was_uploaded_is_known_even_when_it_is_not_sent():
    for answer, kind in (
        (error(130429, status=429), Retry),
        (NoReply(left=True, reason="x"), Unclear),
    ):
        _, taken = steps_of(out(file()), Piece((0,)), UPLOADED, answer)
        assert isinstance(taken.outcome, kind)
        assert taken.known == {0: "4490709327384033"}


@pytest.mark.parametrize(
    "refusal",
    [error(131052), error(131053), error(131009, "Media ID is not valid"),
     error(100, "Param image['id'] is not a valid whatsapp business account media attachment ID")],
)  # fmt: skip
def test_an_id_that_has_expired_is_forgotten_and_the_file_uploaded_again(refusal):
    _, taken = steps_of(out(file(known="17")), Piece((0,)), refusal)
    assert taken.known == {0: ""}
    assert (type(taken.outcome), taken.outcome.pauses) == (Retry, "nobody")


def test_a_refusal_of_something_else_keeps_the_id():
    _, taken = steps_of(out(file(known="17")), Piece((0,)), error(131026))
    assert isinstance(taken.outcome, Rejected)
    assert taken.known == {}


def test_media_that_could_not_be_fetched_gets_one_more_try():
    linked = file(id="", link="https://x.test/a")
    assert isinstance(steps_of(out(linked), Piece((0,)), error(131053))[1].outcome, Retry)
    assert isinstance(steps_of(out(linked, nth=2), Piece((0,)), error(131053))[1].outcome, Rejected)
