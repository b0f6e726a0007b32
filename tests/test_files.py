"""Files: kept until nothing needs them, sent with the message that names them."""

import errno
import hashlib
import os
import stat
import time

import pytest
import redis

from postrider.arriving import clean_name
from postrider.errors import InvalidRequest, NotFound, Unavailable
from postrider.files import DRAFT_KEPT_S, Stored
from postrider.model import Attachment, NewMessage, Recipient
from postrider.service import Service
from postrider.sniffing import HEAD
from postrider.transport import Blocking

PNG = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x02\0\0\0\x03\x08\x06\0\0\0\xb8\xf4\xf8\x91"
    b"\0\0\0\0IEND\xaeB`\x82"
)


def keep(service: Service, content: bytes, name: str, owner: str = "") -> Stored:
    incoming = service.files.incoming()
    incoming.write(content)
    try:
        return service.files.keep(incoming, name, owner, service.store.now())
    finally:
        incoming.close()


def send(service: Service, *files: Stored, body: str = "") -> str:
    new = NewMessage(
        body,
        (Recipient("ana", "sandbox"),),
        attachments=tuple(Attachment(file.file.id) for file in files),
    )
    return service.accept(new)[0].id


def test_a_file_is_known_by_what_it_holds(service: Service) -> None:
    stored = keep(service, PNG, "../../holiday.txt")
    assert (stored.file.name, stored.file.media_type) == ("holiday.txt", "image/png")
    assert (stored.file.kind, stored.file.width, stored.file.height) == ("image", 2, 3)
    assert stored.sha256 == hashlib.sha256(PNG).hexdigest()
    with service.files.open(stored.file.id) as file:
        assert file.read() == PNG


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        ("Grüße".encode(), "text/plain"),
        (b"Gr\xc3", "application/octet-stream"),
        (b"abc\xff", "application/octet-stream"),
        (b"x" * (HEAD - 1) + "ü".encode(), "text/plain"),
        (b"x" * (HEAD - 1) + b"\xc3", "application/octet-stream"),
        (b"x" * (HEAD - 1) + b"\xff and more", "application/octet-stream"),
    ],
)
def test_a_text_is_one_to_its_last_byte(service: Service, content: bytes, media_type: str) -> None:
    assert keep(service, content, "a").file.media_type == media_type


def test_it_reaches_the_inbox_with_its_message(service: Service) -> None:
    stored = keep(service, PNG, "a.png")
    message = send(service, stored)
    service.sender.deliver(f"{message}-0", Blocking(service.keep_note))
    ((_, note),) = service.notes(10)
    assert stored.file.id in note["files"]


def test_it_stays_as_long_as_a_message_needs_it(service: Service, client: redis.Redis) -> None:
    stored = keep(service, PNG, "a.png")
    message = send(service, stored)
    assert not service.files.delete(stored.file.id, None, service.store.now())
    service.sender.deliver(f"{message}-0", Blocking(service.keep_note))
    assert service.purge() == 1
    service.sweep()
    with pytest.raises(NotFound):
        service.files.get(stored.file.id, None)
    with pytest.raises(FileNotFoundError):
        service.files.open(stored.file.id)
    assert not client.keys("pr:file*")


def test_what_is_not_there_or_of_another_cannot_be_sent(service: Service) -> None:
    theirs = keep(service, PNG, "a.png", "somebody")
    for id_ in (theirs.file.id, "A" * 22, "../../etc/passwd"):
        new = NewMessage("x", (Recipient("ana", "sandbox"),), attachments=(Attachment(id_),))
        with pytest.raises(InvalidRequest, match=r"no such file"):
            service.accept(new)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("a.txt", "a.txt"), ("/etc/passwd", "passwd"), ("C:\\x\\y.doc", "y.doc"), ("..", "file"),
     ("a\r\nb: c", "a__b_ c"), ("x" * 300 + ".pdf", "x" * 146 + ".pdf"), ("", "file")],
)  # fmt: skip
def test_a_name_has_no_path_and_nothing_that_a_header_could_trip_over(
    given: str, kept: str
) -> None:
    assert clean_name(given) == kept


def test_what_came_for_nothing_goes_also_behind_one_that_is_gone_already(service: Service) -> None:
    gone, needed, vain = (keep(service, PNG, name) for name in ("a.png", "b.png", "c.png"))
    now = service.store.now()
    service.files.delete(gone.file.id, None, now)
    send(service, needed)
    service.files.forget([file.file.id for file in (gone, needed, vain)], now)
    assert [path.name for path in service.files.folder.iterdir()] == [needed.file.id]
    assert [file.file.id for file in service.files.page(None, 10)[0]] == [needed.file.id]


@pytest.mark.parametrize("named", [True, False])
def test_names_are_on_the_disk_before_anybody_is_told_of_them(
    service: Service, monkeypatch: pytest.MonkeyPatch, *, named: bool
) -> None:
    if named:  # where files without a name cannot be made
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(stat.S_ISDIR(os.fstat(fd).st_mode)))
    arrived = [(service.files.incoming(), f"{n}") for n in range(3)]
    for incoming, _ in arrived:
        incoming.write(b"x")
    service.files.keep_all(arrived, "", service.store.now())
    assert synced == [False, False, False, True]
    for incoming, _ in arrived:
        incoming.close()
    assert len(list(service.files.folder.iterdir())) == 3


@pytest.mark.parametrize("step", ["fsync", "link", "open"])
def test_a_disk_that_turns_out_full_at_the_end_takes_nothing(
    service: Service, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    incoming = service.files.incoming()
    incoming.write(b"x")
    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(Unavailable, match="no room"):
            service.files.keep(incoming, "a", "", service.store.now())
    incoming.close()
    assert list(service.files.folder.iterdir()) == []
    assert not client.keys("pr:file*")


def test_what_a_process_died_over_while_it_wrote_is_swept_in_a_day(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    stored = keep(service, PNG, "a.png")
    left = [service.files.incoming() for _ in range(2)]
    old, _ = [path for path in service.files.folder.iterdir() if path.name != stored.file.id]
    at = time.time() - DRAFT_KEPT_S - 1
    os.utime(old, (at, at))
    service.sweep()
    assert not old.exists()
    assert len(list(service.files.folder.iterdir())) == 2
    for incoming in left:
        incoming.close()
    assert [path.name for path in service.files.folder.iterdir()] == [stored.file.id]


def test_forgetting_while_the_disk_or_redis_fails_raises_nothing(
    service: Service, client: redis.Redis
) -> None:
    stored = keep(service, PNG, "a.png")
    path = service.files.path(stored.file.id)
    path.unlink()
    path.mkdir()  # which unlink refuses
    service.files.forget([stored.file.id], service.store.now())
    assert client.smembers("pr:files:deleted") == {stored.file.id.encode()}
    path.rmdir()
    service.sweep()
    assert not client.exists("pr:files:deleted")
