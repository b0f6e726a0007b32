"""Files: kept until nothing needs them, sent with the message that names them."""

import hashlib

import pytest
import redis

from postrider.errors import InvalidRequest, NotFound
from postrider.files import Stored, clean_name
from postrider.model import Attachment, NewMessage, Recipient
from postrider.service import Service
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
