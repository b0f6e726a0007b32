"""Files to Telegram: each kind by its method, within its limits, judged by the Bot API's own description."""

import io
import json

import pytest
from telegram import Message

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
from messengers.telegram import Telegram
from postrider.selftest.forms import parts_of
from postrider.streamed import FormBody
from tests.messengers.specs import TELEGRAM, faults, request_body

BOT = Telegram("123:secret", base_url="http://127.0.0.1:1")
MB = 1_000_000
KINDS = {
    "image": ("a.jpg", "image/jpeg", "sendPhoto", "photo"),
    "video": ("a.mp4", "video/mp4", "sendVideo", "video"),
    "audio": ("a.mp3", "audio/mpeg", "sendAudio", "audio"),
    "voice": ("a.ogg", "audio/ogg", "sendVoice", "voice"),
    "animation": ("a.gif", "image/gif", "sendAnimation", "animation"),
    "sticker": ("a.webp", "image/webp", "sendSticker", "sticker"),
    "document": ("a.pdf", "application/pdf", "sendDocument", "document"),
}


def file(kind="image", size=100, **more):
    name, media_type, *_ = KINDS[kind]
    told = {"name": name, "media_type": media_type, "kind": kind, "id": "A" * 22} | more
    return File(size=size, open=lambda: io.BytesIO(b"x" * size), **told)


def out(*files, text="", to="42"):
    return Outbound(to, text, "key-0", files=tuple(files))


def requests_of(out, replies=()):
    """Every request of every piece, answered with `replies` in turn; and what came of each piece."""
    sent, taken, answers = [], [], iter(replies)
    for piece in BOT.pieces(out):
        steps = BOT.send_piece(out, piece)
        reply = None
        while True:
            try:
                sent.append(steps.send(reply))
            except StopIteration as stop:
                taken.append(stop.value)
                break
            reply = next(answers, Reply(200, b'{"ok": true, "result": {"message_id": 1}}'))
    return sent, taken


def read(request):
    """Method, fields and uploads as a server reads them; held against the description on the way."""
    method = request.url.rpartition("/")[2]
    if request.json is not None:
        assert faults(TELEGRAM, request_body(f"/bot{{token}}/{method}"), request.json) == []
        return method, request.json, {}
    body = FormBody(request.form)
    raw = b""
    while part := body.read(1000):
        raw += part
    assert len(raw) == body.len
    fields, uploads = parts_of(raw, body.content_type)
    said = fields | dict.fromkeys((u for u in uploads if not u.startswith("file")), "")
    schema = request_body(f"/bot{{token}}/{method}", content_type="multipart/form-data")
    assert faults(TELEGRAM, schema, said) == []
    if "media" in fields:
        told = {"chat_id": 42, "media": json.loads(fields["media"])}
        assert faults(TELEGRAM, request_body("/bot{token}/sendMediaGroup"), told) == []
    return method, fields, uploads


def answer(result):
    return Reply(200, json.dumps({"ok": True, "result": result}).encode())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to", ["42", "@channel", "-100123"])
def test_each_kind_is_uploaded_by_its_own_method(kind, to):
    (request,), _ = requests_of(out(file(kind), to=to))
    method, fields, uploads = read(request)
    name, media_type, wanted, field = KINDS[kind]
    assert (method, fields["chat_id"]) == (wanted, to)
    assert (uploads[field].name, uploads[field].media_type, uploads[field].size) == (
        name,
        media_type,
        100,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", [{"known": "AgAC_id"}, {"link": "https://x.test/a", "id": ""}])
def test_what_telegram_can_find_is_not_uploaded(kind, given):
    (request,), _ = requests_of(out(file(kind, **given)))
    method, params, uploads = read(request)
    assert (method, uploads) == (KINDS[kind][2], {})
    assert params[KINDS[kind][3]] == given.get("known", given.get("link"))


def test_an_upload_is_preferred_to_our_own_link():
    (request,), _ = requests_of(out(file("image", link="https://us.test/a")))
    assert "photo" in read(request)[2]


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"sticker"}))
def test_a_text_of_1024_units_goes_as_a_caption_and_one_more_goes_ahead(kind):
    (request,), _ = requests_of(out(file(kind), text="😀" * 512))
    assert read(request)[1]["caption"] == "😀" * 512
    first, second = requests_of(out(file(kind), text="😀" * 512 + "a"))[0]
    assert (read(first)[0], first.json["text"]) == ("sendMessage", "😀" * 512 + "a")
    assert "caption" not in read(second)[1]


def test_a_sticker_has_no_caption():
    assert BOT.pieces(out(file("sticker"), text="Hi")) == [Piece(text=True), Piece((0,))]


def grouped(*kinds, text=""):
    return [p.files for p in BOT.pieces(out(*map(file, kinds), text=text))]


@pytest.mark.parametrize(
    ("kinds", "groups"),
    [
        (["image", "video", "image"], [(0, 1, 2)]),
        (["document", "document"], [(0, 1)]),
        (["audio", "audio"], [(0, 1)]),
        (["image", "document", "audio"], [(0,), (1,), (2,)]),
        (["animation", "animation"], [(0,), (1,)]),
        (["voice", "voice", "sticker", "sticker"], [(0,), (1,), (2,), (3,)]),
        (["image"] * 11, [tuple(range(10)), (10,)]),
        (["image"] * 12, [tuple(range(10)), (10, 11)]),
    ],
)
def test_what_fits_together_is_an_album(kinds, groups):
    assert grouped(*kinds) == groups


def test_an_album_is_not_larger_than_a_file_may_be():
    files = [file("document", 20 * MB)] * 3
    assert [p.files for p in BOT.pieces(out(*files))] == [(0, 1), (2,)]


def test_an_album_has_its_files_as_parts_and_the_text_under_the_first():
    files = (
        file("image"),
        file("video", known="vid-1"),
        file("image", id="", link="https://x.test/p"),
    )
    (request,), _ = requests_of(out(*files, text="Привет"))
    method, fields, uploads = read(request)
    assert (method, list(uploads)) == ("sendMediaGroup", ["file0"])
    assert json.loads(fields["media"]) == [
        {"type": "photo", "media": "attach://file0", "caption": "Привет"},
        {"type": "video", "media": "vid-1"},
        {"type": "photo", "media": "https://x.test/p"},
    ]
    (request,), _ = requests_of(out(files[1], files[2]))
    assert read(request)[0] == "sendMediaGroup"
    assert request.json is not None


@pytest.mark.parametrize("name", ["отчёт 2026.pdf", "日本.pdf", "a'b&c.pdf", "naïve.pdf"])
def test_a_name_arrives_as_it_is(name):
    """Servers of messengers read `filename` alone, not RFC 2231's `filename*`."""
    (request,), _ = requests_of(out(file("document", name=name)))
    assert read(request)[2]["document"].name == name


# Limits


@pytest.mark.parametrize("kind", KINDS)
def test_50_mb_can_be_uploaded_and_not_one_byte_more(kind):
    assert BOT.check_files([file("document"), file(kind, 50 * MB)], "") is None
    index, reason = BOT.check_files([file("document"), file(kind, 50 * MB + 1)], "")
    assert (index, "50000000" in reason) == (1, True)


def test_an_own_server_takes_what_it_is_said_to_take():
    env = {
        "TELEGRAM_BOT_TOKEN": "1:a",
        "TELEGRAM_API_URL": "http://own:8081",
        "TELEGRAM_UPLOAD_MB": "2000",
    }
    own = Telegram.from_env(env)
    assert own.check_files([file("video", 2000 * MB)], "") is None
    assert own.check_files([file("video", 2000 * MB + 1)], "") is not None


@pytest.mark.parametrize(
    ("kind", "limit"), [("image", 5 * MB), *((k, 20 * MB) for k in KINDS if k != "image")]
)
def test_a_link_has_a_lower_limit(kind, limit):
    assert BOT.check_files([file(kind, limit, id="", link="https://x.test/a")], "") is None
    _, reason = BOT.check_files([file(kind, limit + 1, id="", link="https://x.test/a")], "")
    assert str(limit) in reason


def test_only_some_documents_are_fetched():
    word = file("document", id="", link="https://x.test/a", media_type="application/msword")
    assert "pdf, zip and gif" in BOT.check_files([word], "")[1]


def test_an_empty_file_and_one_that_is_nowhere_are_refused():
    assert "empty" in BOT.check_files([file(size=0)], "")[1]
    assert BOT.check_files([file(id="")], "")[0] == 0


@pytest.mark.parametrize(
    ("shown", "given"),
    [
        ("sendPhoto", {"size": 10 * MB}),
        ("sendDocument", {"size": 10 * MB + 1}),
        ("sendPhoto", {"width": 5000, "height": 5000}),
        ("sendDocument", {"width": 5000, "height": 5001}),
        ("sendPhoto", {"width": 2000, "height": 100}),
        ("sendDocument", {"width": 2001, "height": 100}),
        ("sendDocument", {"width": 100, "height": 2001}),
        ("sendDocument", {"media_type": "image/tiff"}),
    ],
)
def test_a_picture_too_large_for_a_photo_goes_as_a_document_and_that_is_said(shown, given):
    picture = file("image", **given)
    assert BOT.check_files([picture], "") is None
    steps = BOT.send_piece(out(picture), Piece((0,)))
    assert next(steps).url.rpartition("/")[2] == shown
    assert bool(BOT.notices([picture])) == (shown == "sendDocument")


@pytest.mark.parametrize(
    ("kind", "media_type"),
    [
        ("video", "video/webm"),
        ("audio", "audio/wav"),
        ("voice", "audio/wav"),
        ("animation", "image/png"),
        ("sticker", "image/png"),
    ],
)
def test_what_cannot_be_shown_as_asked_goes_as_a_document(kind, media_type):
    odd = file(kind, media_type=media_type)
    (request,), _ = requests_of(out(odd))
    assert read(request)[0] == "sendDocument"
    assert media_type in BOT.notices([odd])[0]


# Answers

BASE = {"message_id": 7, "date": 1, "chat": {"id": 42, "type": "private"}}
FILE = {"file_id": "id-1", "file_unique_id": "u"}
PHOTO = [{**FILE, "file_id": "small", "width": 1, "height": 1}, {**FILE, "width": 9, "height": 9}]


@pytest.mark.parametrize("kind", KINDS)
def test_telegrams_id_of_a_file_is_learned(kind):
    field = KINDS[kind][3]
    _, (taken,) = requests_of(
        out(file(kind)), [answer(BASE | {field: PHOTO if kind == "image" else FILE})]
    )
    assert taken == Taken(Sent("7"), {0: "id-1"})


def test_a_message_as_another_library_reads_it_has_the_id_where_we_look():
    message = Message.de_json(BASE | {"photo": PHOTO}, None)
    _, (taken,) = requests_of(out(file("image")), [answer(BASE | {"photo": PHOTO})])
    assert taken.known == {0: message.photo[-1].file_id}


def test_each_file_of_an_album_is_learned():
    made = [BASE | {"photo": PHOTO}, BASE | {"message_id": 8, "video": {**FILE, "file_id": "id-2"}}]
    _, (taken,) = requests_of(out(file("image"), file("video")), [answer(made)])
    assert taken == Taken(Sent("7"), {0: "id-1", 1: "id-2"})


def test_a_video_that_became_something_else_is_not_learned():
    _, (taken,) = requests_of(out(file("video")), [answer(BASE | {"animation": FILE})])
    assert taken == Taken(Sent("7"), {})


@pytest.mark.parametrize(
    "why",
    ["wrong file_id or the file is temporarily unavailable", "wrong file identifier/HTTP URL specified",
     "wrong remote file identifier specified: Wrong padding in the string", "FILE_REFERENCE_EXPIRED",
     "can't use file of type Photo as Document", "MEDIA_EMPTY, wrong remote file_id specified"],
)  # fmt: skip
def test_a_refused_id_is_forgotten_and_the_file_uploaded_again(why):
    no = Reply(
        400,
        json.dumps({"ok": False, "error_code": 400, "description": f"Bad Request: {why}"}).encode(),
    )
    _, (taken,) = requests_of(out(file("image", known="old"), file("image")), [no])
    assert taken == Taken(Retry(f"Bad Request: {why}", pauses="nobody"), {0: ""})
    _, (taken,) = requests_of(out(file("image")), [no])
    assert isinstance(taken.outcome, Rejected)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [(NoReply(left=True, reason="x"), Unclear), (NoReply(left=False, reason="x"), Retry),
     (answer([]), Unclear), (answer([{}]), Unclear), (answer(None), Unclear),
     (Reply(413, b"<html>"), Rejected), (Reply(502), Retry)],
)  # fmt: skip
def test_other_answers_mean_what_they_mean_of_a_text(reply, kind):
    _, (taken,) = requests_of(out(file("image")), [reply])
    assert isinstance(taken.outcome, kind)
    assert not taken.known


@pytest.mark.parametrize(
    "junk",
    [
        5,
        "x",
        [],
        [{}],
        [5],
        {"photo": 5},
        {"photo": [5]},
        {"photo": [{"file_id": 5}]},
        {"photo": [{"file_id": "a b"}]},
    ],
)
def test_junk_where_an_id_would_be_is_passed_over(junk):
    result = BASE | (junk if isinstance(junk, dict) else {"photo": junk})
    _, (taken,) = requests_of(out(file("image")), [answer(result)])
    assert taken == Taken(Sent("7"), {})
