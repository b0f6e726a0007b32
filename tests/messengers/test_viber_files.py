"""Files to Viber, which fetches them: within its limits, as another library would send them."""

import pytest
from viberbot.api.messages import FileMessage, PictureMessage, VideoMessage

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
from messengers.viber import Viber
from postrider.transport import body_of

BOT = Viber("secret-token", public=True)
LINK = "https://us.test/f/abc/a"
MB = 1_000_000
TAKEN = Reply(200, b'{"status": 0, "message_token": 5}')
KINDS = {
    "image": ("a.png", "image/png", "picture", MB),
    "video": ("a.mp4", "video/mp4", "video", 26 * MB),
    "document": ("a.pdf", "application/pdf", "file", 50 * MB),
    "audio": ("a.mp3", "audio/mpeg", "file", 50 * MB),
    "voice": ("a.ogg", "audio/ogg", "file", 50 * MB),
    "animation": ("a.gif", "image/gif", "file", 50 * MB),
    "sticker": ("a.webp", "image/webp", "file", 50 * MB),
}


def file(kind="image", size=100, **more):
    name, media_type, *_ = KINDS[kind]
    told = {"name": name, "media_type": media_type, "kind": kind, "id": "A" * 22, "link": LINK}
    return File(size=size, **(told | more))


def out(*files, text=""):
    return Outbound("abc==", text, "key-0", files=tuple(files))


def sent(message, answer=TAKEN):
    """The JSON of each piece, and what came of each when it is answered so."""
    bodies, taken = [], []
    for piece in BOT.pieces(message):
        steps = BOT.send_piece(message, piece)
        request = next(steps)
        assert len(body_of(request)) <= 30_000
        bodies.append(request.json)
        with pytest.raises(StopIteration) as stop:
            steps.send(answer)
        taken.append(stop.value.value)
    return bodies, taken


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [
        ("image", PictureMessage(media=LINK, text="")),
        ("video", VideoMessage(media=LINK, size=100)),
        *(
            (kind, FileMessage(media=LINK, size=100, file_name=KINDS[kind][0]))
            for kind in ("document", "audio", "voice", "animation", "sticker")
        ),
    ],
)
def test_each_kind_is_what_viberbot_would_send(kind, theirs):
    assert theirs.validate()
    (ours,), (taken,) = sent(out(file(kind)))
    wanted = {k: v for k, v in theirs.to_dict().items() if v is not None}
    assert {k: ours.get(k) for k in wanted} == wanted
    assert (ours["receiver"], ours["sender"], ours["tracking_data"]) == (
        "abc==",
        {"name": "Postrider"},
        "key-0",
    )
    assert taken == Taken(Sent("5"))


@pytest.mark.parametrize("kind", KINDS)
def test_over_its_limit_it_goes_as_a_file_and_over_that_not_at_all(kind):
    _, _, shown, limit = KINDS[kind]
    assert BOT.check_files([file(kind, limit)], "") is None
    (ours,), _ = sent(out(file(kind, limit)))
    assert ours["type"] == shown
    over = file(kind, limit + 1)
    if shown == "file":
        assert str(limit) in BOT.check_files([over], "")[1]
        return
    assert BOT.check_files([over], "") is None
    (ours,), _ = sent(out(over))
    assert (ours["type"], ours["size"]) == ("file", limit + 1)
    assert str(limit) in BOT.notices([over])[0]
    assert BOT.check_files([file(), file(kind, 50 * MB + 1)], "")[0] == 1


def test_what_viber_does_not_show_goes_as_a_file_and_that_is_said():
    assert BOT.notices([file(kind) for kind in ("image", "video", "document")]) == []
    assert (
        len(BOT.notices([file(kind) for kind in ("audio", "voice", "animation", "sticker")])) == 4
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_goes_with_a_picture_up_to_512_characters_and_else_ahead(kind):
    ahead = [Piece(text=True), Piece((0,)), Piece((1,))]
    files = (file(kind), file())
    together = [Piece((0,), text=True), Piece((1,))]
    assert BOT.pieces(out(*files, text="x" * 512)) == (together if kind == "image" else ahead)
    assert BOT.pieces(out(*files, text="x" * 513)) == ahead
    bodies, _ = sent(out(*files, text="Hi"))
    assert bodies[0]["text"] == "Hi"
    assert [body["type"] for body in bodies[-2:]] == [KINDS[kind][2], "picture"]


def test_without_a_public_url_an_upload_is_refused_and_the_setting_named():
    env = {"VIBER_AUTH_TOKEN": "x"}
    stored = file(link="")
    assert "PUBLIC_URL" in Viber.from_env(env).check_files([file(), stored], "")[1]
    assert Viber.from_env(env).check_files([file(), stored], "")[0] == 1
    assert Viber.from_env(env | {"PUBLIC_URL": "https://us.test"}).check_files([stored], "") is None
    assert Viber.from_env(env).check_files([file(id="")], "") is None


def test_one_that_lost_its_link_since_is_refused():
    steps = Viber("secret-token").send_piece(out(file(link="")), Piece((0,)))
    with pytest.raises(StopIteration) as stop:
        next(steps)
    assert isinstance(stop.value.value.outcome, Rejected)
    assert "PUBLIC_URL" in stop.value.value.outcome.reason


@pytest.mark.parametrize("name", ["a.exe", "a.APK", "a.pdf.bat", "a.inf1", "a.ps1"])
def test_what_runs_is_refused(name):
    assert "runs" in BOT.check_files([file("document", name=name)], "")[1]


@pytest.mark.parametrize("name", ["a.pdf", "exe", "a.exe.pdf", "exe.txt"])
def test_what_only_looks_like_it_is_not(name):
    assert BOT.check_files([file("document", name=name)], "") is None


def test_a_name_gets_the_extension_that_its_type_tells():
    (ours,), _ = sent(out(file("document", name="report")))
    assert ours["file_name"] == "report.pdf"
    odd = file("document", name="report", media_type="x/unheard-of")
    assert "extension" in BOT.check_files([odd], "")[1]


def test_a_name_has_256_characters_and_not_one_more():
    assert BOT.check_files([file("document", name="x" * 252 + ".pdf")], "") is None
    assert "256" in BOT.check_files([file("document", name="x" * 253 + ".pdf")], "")[1]


def test_a_link_has_2000_characters_and_not_one_more():
    assert BOT.check_files([file(id="", link=LINK.ljust(2000, "x"))], "") is None
    assert "2000" in BOT.check_files([file(id="", link=LINK.ljust(2001, "x"))], "")[1]


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"image"}))
def test_viber_must_be_told_the_size_of_all_but_pictures(kind):
    unknown = file(kind, 0, id="")
    assert "size" in BOT.check_files([unknown], "")[1]


def test_an_empty_file_is_refused():
    assert "empty" in BOT.check_files([file(size=0)], "")[1]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(NoReply(left=True, reason="x"), Unclear), (NoReply(left=False, reason="x"), Retry),
     (Reply(200, b'{"status": 3, "status_message": "badData"}'), Rejected), (Reply(502), Retry)],
)  # fmt: skip
def test_other_answers_mean_what_they_mean_of_a_text(answer, kind):
    _, (taken,) = sent(out(file()), answer)
    assert isinstance(taken.outcome, kind)
    assert taken.known == {}
