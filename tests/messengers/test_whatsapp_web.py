"""The adapter of linked phones: what it asks of its driver, and what becomes of each kind of file."""

import io
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from messengers.base import (
    File,
    Identity,
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
from messengers.inward import Webhook
from messengers.message_ids import key_of
from messengers.phone_files import SHOWN_BYTES, STICKER_BYTES
from messengers.whatsapp_web import WhatsAppWeb
from tests.messengers.talks import AT, said
from tests.messengers.test_gowa import DROPPED, LINKED, WAITS
from tests.messengers.test_waha import DRIVER, GONE, RUNS, signed

ENV = {
    "WAHA_URL": "http://127.0.0.1:3000",
    "WAHA_API_KEY": "planted-key",
    "GOWA_URL": "http://127.0.0.1:3001",
    "WHATSAPP_WEB_SECRET": "planted-secret",
}
PHONE = WhatsAppWeb.from_env(ENV).of_session("shop")
BY_GOWA = WhatsAppWeb.from_env(ENV | {"WHATSAPP_WEB_DRIVER": "gowa"}).of_session("shop")
KEY, TO = "0AbCdEfGhIjKlMnOpQrSt-17", "+4915112345678"


def file(kind="document", media_type="application/pdf", size=7, name="a", **more):
    told = {"id": "A" * 22, "open": lambda: io.BytesIO(b"x" * size)} | more
    return File(name, media_type, size, kind, **told)


def out(*files, text="", key=KEY):
    return Outbound(TO, text, key, files=tuple(files))


def sent_by(phone, outbound):
    """The requests that send it, each of them taken."""
    found = []
    for piece in phone.pieces(outbound):
        steps = phone.send_piece(outbound, piece)
        found.append(next(steps))
        with pytest.raises(StopIteration) as stop:
            steps.send(said(201, id="true_1@c.us_AAAA", results={"message_id": "AAAA"}))
        assert stop.value.value == Taken(Sent("AAAA"))
    return found


@pytest.mark.parametrize(
    ("kind", "media_type", "waha", "gowa"),
    [
        ("image", "image/jpeg", "sendImage", "image"),
        ("image", "image/png", "sendImage", "image"),
        ("image", "image/gif", "sendFile", "file"),
        ("video", "video/mp4", "sendVideo", "video"),
        ("video", "video/webm", "sendFile", "file"),
        ("animation", "video/mp4", "sendVideo", "video"),
        ("animation", "image/gif", "sendFile", "file"),
        ("audio", "audio/mpeg", "sendFile", "audio"),
        ("audio", "audio/flac", "sendFile", "file"),
        ("voice", "audio/ogg", "sendVoice", "audio"),
        ("voice", "audio/mpeg", "sendFile", "audio"),
        ("sticker", "image/webp", "sendFile", "sticker"),
        ("document", "image/jpeg", "sendFile", "file"),
    ],
)
def test_what_each_kind_becomes(kind, media_type, waha, gowa):
    one = file(kind, media_type)
    for phone, call in ((PHONE, f"/api/{waha}"), (BY_GOWA, f"/send/{gowa}")):
        (request,) = sent_by(phone, out(one))
        assert request.url.endswith(call)
        if call.endswith(("sendFile", "/file")) and kind != "document":
            (told,) = phone.notices([one])
            assert told.startswith("a goes as document: ")
        elif (kind, media_type) == ("voice", "audio/mpeg"):
            assert phone.notices([one]) == ["a goes as audio: a voice message is Opus in Ogg"]
        else:
            assert phone.notices([one]) == []


@pytest.mark.parametrize(
    ("kind", "media_type", "most"),
    [
        ("image", "image/jpeg", SHOWN_BYTES),
        ("video", "video/mp4", SHOWN_BYTES),
        ("voice", "audio/ogg", SHOWN_BYTES),
        ("sticker", "image/webp", STICKER_BYTES),
    ],
)
def test_what_is_too_large_to_be_shown_goes_as_a_document(kind, media_type, most):
    assert BY_GOWA.notices([file(kind, media_type, most)]) == []
    (told,) = BY_GOWA.notices([file(kind, media_type, most + 1)])
    assert str(most) in told
    (request,) = sent_by(BY_GOWA, out(file(kind, media_type, most + 1)))
    assert request.url.endswith("/send/file")


@pytest.mark.parametrize("phone", [PHONE, BY_GOWA], ids=["waha", "gowa"])
def test_what_a_sidecar_cannot_take_is_told_at_once(phone):
    most = phone.driver.DOCUMENT_BYTES
    assert phone.check_files([file(size=most)], "") is None
    index, why = phone.check_files([file(), file(size=most + 1)], "")
    assert (index, str(most) in why) == (1, True)
    assert "empty" in phone.check_files([file(size=0)], "")[1]
    assert "link" in phone.check_files([file(id="", link="https://example.org/a")], "")[1]


def test_a_base64_of_the_largest_file_fits_what_waha_reads():
    assert DRIVER.DOCUMENT_BYTES * 4 / 3 + 100_000 < 50 * 1024 * 1024


def test_a_text_goes_under_the_first_file_that_has_a_caption():
    assert PHONE.pieces(out(file(), file(), text="x")) == [Piece((0,), text=True), Piece((1,))]
    assert PHONE.pieces(out(file("voice", "audio/ogg"), text="x")) == [
        Piece(text=True),
        Piece((0,)),
    ]
    assert PHONE.pieces(out(file(), text="x" * 1025)) == [Piece(text=True), Piece((0,))]
    assert PHONE.pieces(out(file(), file())) == [Piece((0,)), Piece((1,))]
    # what is no voice for it goes as a document, which has one
    assert PHONE.pieces(out(file("voice", "audio/mpeg"), text="x")) == [Piece((0,), text=True)]


def test_a_caption_goes_with_its_file_alone():
    first, second = sent_by(PHONE, out(file(), file(), text="see"))
    assert first.json["caption"] == "see"
    assert "caption" not in second.json
    text, voice = sent_by(BY_GOWA, out(file("voice", "audio/ogg"), text="see"))
    assert text.json == {"phone": "4915112345678@s.whatsapp.net", "message": "see"}
    assert [name for name, _ in voice.form] == ["phone", "ptt", "audio"]


def test_each_piece_has_an_id_of_its_own_and_only_the_last_names_the_delivery():
    one = out(file(), file(), file("voice", "audio/ogg"), text="see")
    ids = [request.json["id"] for request in sent_by(PHONE, one)]
    assert len(set(ids)) == 3
    assert [key_of(id_) for id_ in ids] == ["", "", KEY]
    assert ids == [request.json["id"] for request in sent_by(PHONE, one)]
    assert PHONE.request(out(text="x")).json["id"] == ids[-1]


def test_a_file_is_sent_as_it_is_shown():
    (request,) = sent_by(PHONE, out(file("voice", "audio/ogg", name="a.ogg")))
    assert request.json["file"]["mimetype"] == "audio/ogg; codecs=opus"
    assert request.json["chatId"] == "4915112345678@c.us"
    assert isinstance(request.json["file"]["data"], File)
    (request,) = sent_by(PHONE, out(file("voice", "audio/mpeg")))
    assert request.json["file"]["mimetype"] == "audio/mpeg"


def test_no_answer_leaves_a_piece_unknown_only_if_it_may_have_left():
    for left, wanted in ((True, Unclear), (False, Retry)):
        steps = PHONE.send_piece(out(file()), Piece((0,)))
        next(steps)
        with pytest.raises(StopIteration) as stop:
            steps.send(NoReply(left, "cut"))
        assert isinstance(stop.value.value.outcome, wanted)


@pytest.mark.parametrize(
    ("uuid", "is_right"),
    [
        ("+4915112345678", True),
        ("4915112345678", True),
        ("375447034810@s.whatsapp.net", True),
        ("375447034810@c.us", True),
        ("123456789012345678@lid", True),
        ("120363402931855007@g.us", True),
        ("", False),
        ("ana", False),
        ("1@evil", False),
        ("123@newsletter", False),
        ("\uff14\uff19\uff11\uff15\uff11\uff11", False),  # digits, but of no phone
    ],
)
def test_who_can_be_written_to(uuid, is_right):
    assert (PHONE.check_recipient(uuid) is None) is is_right


@pytest.mark.parametrize(
    ("phone", "reply", "wanted"),
    [
        (PHONE, RUNS, Identity("Ana (+4915112345678)")),
        (PHONE, GONE, Rejected("Session not found")),
        (PHONE, said(name="shop", status="SCAN_QR_CODE"), Rejected("is not linked, but scan")),
        (PHONE, said(401, message="Unauthorized"), Rejected("Unauthorized")),
        (PHONE, said(500, message="oh"), Retry("oh")),
        (BY_GOWA, LINKED, Identity("Ana (+628123456789)")),
        (BY_GOWA, DROPPED, Rejected("is not linked, but stopped")),
        (BY_GOWA, WAITS, Rejected("is not linked, but scan")),
    ],
)
def test_who_a_phone_is(phone, reply, wanted):
    assert phone.whoami().method == "GET"
    assert phone.read_whoami(reply) == wanted


def test_only_its_own_sidecar_s_words_about_its_own_session_count():
    assert isinstance(PHONE, Webhook)
    body = json.dumps({"session": "shop", "timestamp": int(AT.timestamp() * 1000)}).encode()
    assert PHONE.authentic(signed(body), body, AT)
    assert not PHONE.of_session("other").authentic(signed(body), body, AT)
    assert not PHONE.authentic(signed(body), body, datetime(2026, 11, 20, tzinfo=UTC))
    assert not PHONE.authentic(signed(body, "another"), body, AT)
    bare = replace(PHONE, secret="")
    assert bare.webhook_lacks() == ("WHATSAPP_WEB_SECRET",)
    assert not bare.authentic(signed(body, ""), body, AT)


def test_it_is_offered_when_its_sidecar_is_known():
    assert WhatsAppWeb.from_env({"GOWA_URL": "http://x"}) is None
    assert WhatsAppWeb.from_env({"WAHA_URL": "http://x", "WHATSAPP_WEB_DRIVER": "gowa"}) is None
    assert (
        PHONE.hook("http://postrider:8080/").url == "http://postrider:8080/hooks/whatsapp-web/shop"
    )
    assert "planted" not in repr([PHONE, PHONE.hook("http://x")])


def test_an_answer_that_says_nothing_is_no_identity():
    assert isinstance(PHONE.read_whoami(Reply(200, b"{}")), Unclear)
