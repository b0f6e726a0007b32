"""ENCRYPT_AT_REST: what lies in Redis and on the disk is not to be read there, and reads as ever through the service."""

import io
import json
import os
import random
import stat
import threading
from collections.abc import Callable
from datetime import time
from pathlib import Path

import pytest
import redis

from messengers.base import File, Note, Retry, Sent
from messengers.inward import Incoming as Said
from postrider import records
from postrider.attempts import UNREADABLE_S
from postrider.errors import Unavailable, Unreadable
from postrider.files import Files
from postrider.model import Attachment, NewMessage, Recipient, Terms, new_message_id
from postrider.resealing import Resealing
from postrider.sealed import CHUNK, Damaged, Reader, reading
from postrider.service import Service, open_accounts
from postrider.settings import Settings
from postrider.store import Store
from postrider.transport import Blocking
from postrider.vault import KEYLESS, MARK, Vault
from postrider.windows import Window
from tests.conftest import Api, Postrider, wait_until
from tests.fake import FakeMessenger
from tests.test_files import PNG
from tests.test_sending_files import turn

SECRET = "planted body, not to be read"
Make = Callable[..., Service]


@pytest.fixture
def make(env: dict[str, str], client: redis.Redis) -> Make:
    """A service; `on`: that encrypts."""

    def made(*, on: bool) -> Service:
        settings = Settings.from_env(env | {"ENCRYPT_AT_REST": "on" if on else "off"}, None)
        return Service(Store(client), settings, open_accounts(settings))

    return made


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "keys" / "at-rest", seals=True)


def in_redis(client: redis.Redis) -> bytes:
    """All that a thief of the file would have."""
    return b"".join(filter(None, map(client.dump, client.keys())))


def send(service: Service, body: str = SECRET, **more: object) -> str:
    return service.accept(NewMessage(body, (Recipient("ana", "sandbox"),), **more))[0].id  # type: ignore[arg-type]


def keep(files: Files, content: bytes, service: Service) -> str:
    incoming = files.incoming()
    incoming.write(content)
    try:
        return files.keep(incoming, "a.bin", "", service.store.now()).file.id
    finally:
        incoming.close()


def test_a_body_lies_encrypted_and_is_sent_as_it_was(make: Make, client: redis.Redis) -> None:
    service = make(on=True)
    message = send(service)
    assert SECRET.encode() not in in_redis(client)
    found = service.finder.message(message, None)
    assert found is not None
    assert found.message.body == SECRET
    service.sender.deliver(f"{message}-0", Blocking(service.keep_note))
    ((_, note),) = service.notes(10)
    assert note["text"] == SECRET
    assert SECRET.encode() not in in_redis(client)


def test_off_keeps_what_it_always_kept(make: Make, client: redis.Redis, tmp_path: Path) -> None:
    service = make(on=False)
    message = send(service)
    assert client.hget(f"pr:m:{message}", "body") == SECRET.encode()
    content = os.urandom(100)
    assert service.files.path(keep(service.files, content, service)).read_bytes() == content
    assert not (tmp_path / "keys").exists()


def test_a_changed_body_lies_encrypted_too(make: Make, client: redis.Redis) -> None:
    service = make(on=True)
    message = send(service, send_at=service.store.now().replace(year=2035))
    service.changes.rewrite(message, "another planted body")
    assert b"planted" not in in_redis(client)
    found = service.finder.message(message, None)
    assert found is not None
    assert found.message.body == "another planted body"


def test_what_was_kept_before_the_switch_reads_after_it_and_the_other_way_round(
    make: Make, client: redis.Redis
) -> None:
    on, off = make(on=True), make(on=False)
    for writes, reads in ((on, off), (off, on)):
        message = send(writes)
        id_ = keep(writes.files, b"planted", writes)
        found = reads.finder.message(message, None)
        assert found is not None
        assert found.message.body == SECRET
        with reads.files.open(id_) as file:
            assert file.read() == b"planted"


def test_schedules_and_what_came_in_lie_encrypted(make: Make, client: redis.Redis) -> None:
    service = make(on=True)
    said = Said(id="1", sender="42", text="planted question", name="Ana", at=None)
    stop = Said(id="2", sender="43", text="STOP", name="Bo", at=None)
    words = {"opt_out": frozenset({"stop"}), "opt_in": frozenset({"start"})}
    service.arrivals.take("telegram", "default", [said, stop], kept=10, **words)  # type: ignore[arg-type]
    assert b"planted" not in in_redis(client)
    assert [heard.text for heard in service.arrivals.page(10).rows] == ["STOP", "planted question"]
    assert b"STOP" in (client.hget("pr:suppressed", "telegram 43") or b"")


def test_a_schedule_s_message_lies_encrypted(
    env: dict[str, str], request: pytest.FixtureRequest, client: redis.Redis
) -> None:
    env["ENCRYPT_AT_REST"] = "on"
    api: Api = request.getfixturevalue("api")
    asked = {
        "body": SECRET, "recipients": [{"uuid": "ana", "service": "sandbox"}],
        "repeat": {"cron": "0 9 * * *"}, "timezone": "UTC",
    }  # fmt: skip
    answer = api.post("/api/v1/messages", json=asked)
    assert answer.status_code in {201, 202}, answer.text
    assert SECRET.encode() not in in_redis(client)
    (schedule,) = api.get("/api/v1/schedules").json()["schedules"]
    assert SECRET in api.get(f"/api/v1/schedules/{schedule['id']}").text


def test_a_text_that_was_changed_or_moved_in_redis_does_not_read(
    make: Make, client: redis.Redis
) -> None:
    service = make(on=True)
    first, second = send(service), send(service, "another")
    kept = client.hget(f"pr:m:{first}", "body")
    assert isinstance(kept, bytes)
    for spoilt in (
        kept[:-1],
        kept + b"x",
        kept[:60] + bytes((kept[60] ^ 1,)) + kept[61:],
        kept[:5],
    ):
        client.hset(f"pr:m:{first}", "body", spoilt)
        with pytest.raises(Unavailable):
            service.finder.message(first, None)
    client.hset(f"pr:m:{second}", "body", kept)
    with pytest.raises(Unavailable, match="was changed"):
        service.finder.message(second, None)


def test_a_missing_key_is_named(make: Make, vault: Vault) -> None:
    service = make(on=True)
    message = send(service)
    kid = vault.newest_id().hex()
    for path in vault.ring.folder.iterdir():
        path.unlink()
    with pytest.raises(Unavailable, match=kid):
        make(on=True).finder.message(message, None)


def stands(service: Service, *mids: str) -> list[tuple[str, int]]:
    """State and tries of the first delivery of each."""
    found = []
    for mid in mids:
        raw = service.store.redis.hget(f"pr:d:{mid}:0", "0")
        assert isinstance(raw, bytes)
        delivery = records.delivery(f"{mid}-0", raw)
        found.append((delivery.state.value, delivery.attempts))
    return found


def test_a_zone_that_only_who_accepted_it_knew_keeps_it_waiting(
    make: Make, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    service = make(on=False)
    now = service.store.now()
    terms = Terms(window=Window(time(0), time(23, 59)), zoned=True)
    nowhere = Recipient("5", "sandbox", zone="Europe/Nowhere")
    message_id = new_message_id(now)
    service.store.accept(message_id, NewMessage("Hello", (nowhere,), terms=terms), now)
    turn(service)
    assert stands(service, message_id) == [("scheduled", 0)]
    ((_, due),) = client.zrange("rq:scheduler:scheduled_jobs", 0, -1, withscores=True)
    assert 0 < due - service.store.now().timestamp() <= UNREADABLE_S
    assert "Europe/Nowhere" in caplog.text


def test_what_cannot_be_read_waits_while_all_others_go_and_goes_when_its_key_is_back(
    make: Make, client: redis.Redis, vault: Vault, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = make(on=True)
    lost = send(service, SECRET)
    (path,), kid = vault.ring.paths(), vault.newest_id().hex()
    vault.rotate()
    others = [send(service, f"another {n}") for n in range(3)]
    path.rename(tmp_path / "away")
    for _ in range(2):
        turn(service)
    assert stands(service, lost, *others) == [("scheduled", 0), *[("sent", 0)] * 3]
    ((job, due),) = client.zrange("rq:scheduler:scheduled_jobs", 0, -1, withscores=True)
    assert 0 < due - service.store.now().timestamp() <= UNREADABLE_S
    (told,) = [r.getMessage() for r in caplog.records if lost in r.getMessage()]
    assert kid in told
    with pytest.raises(Unavailable, match="which is not in"):
        service.message(lost, None)
    (tmp_path / "away").rename(path)
    service.sender.deliver(job.decode(), Blocking(service.keep_note))
    assert stands(service, lost) == [("sent", 0)]
    assert {note["text"] for _, note in service.notes(10)} == {
        SECRET,
        *(f"another {n}" for n in range(3)),
    }


def test_the_sweep_goes_on_over_what_cannot_be_read(
    make: Make, client: redis.Redis, vault: Vault
) -> None:
    service = make(on=True)
    first, second = send(service), send(service)
    client.hset(f"pr:m:{first}", "body", (client.hget(f"pr:m:{first}", "body") or b"")[:-1])
    assert len(service.sender.claim("dead", 10).claims) == 2
    now = service.store.now().timestamp()
    for job in client.zrange("pr:leases", 0, -1):
        client.zadd("pr:leases", {job: now - 1})
    client.set("pr:swept", now)
    client.delete("pr:patience")
    service.sweep()
    assert stands(service, first, second) == [("unknown", 1)] * 2
    assert not client.exists("pr:leases")


def test_what_has_expired_ends_though_nobody_can_read_it(make: Make, client: redis.Redis) -> None:
    service = make(on=True)
    message = send(service, terms=Terms(late_s=0))
    client.hset(f"pr:m:{message}", mapping={"body": MARK + bytes(60), "due": "1"})
    turn(service)
    assert stands(service, message) == [("expired", 0)]


def test_keys_that_cannot_be_read_are_said_to_be(vault: Vault) -> None:
    kept = vault.seal("x", "x")
    (path,) = vault.ring.paths()
    path.write_bytes(b"too short")
    with pytest.raises(Unreadable, match="cannot be read: a key has 32 bytes"):
        Vault(vault.ring.folder).open(kept, "x")


def test_a_schedule_whose_message_cannot_be_read_keeps_the_sweep_from_nothing(
    env: dict[str, str], make: Make, request: pytest.FixtureRequest, client: redis.Redis
) -> None:
    env["ENCRYPT_AT_REST"] = "on"
    api: Api = request.getfixturevalue("api")
    asked = {
        "body": SECRET, "recipients": [{"uuid": "ana", "service": "sandbox"}],
        "repeat": {"cron": "0 9 * * *"}, "timezone": "UTC",
    }  # fmt: skip
    id_ = api.post("/api/v1/messages", json=asked).json()["id"]
    client.hset(f"pr:s:{id_}", mapping={"body": MARK + bytes(60), "ready": "0"})
    client.zadd("pr:schedules:due", {id_: 0})
    service = make(on=True)
    service.sweep()
    found = service.schedules.schedules.get(id_)
    assert found is not None
    assert "which is not in" in found.trouble


def test_who_has_no_key_reads_what_is_not_encrypted_only(vault: Vault) -> None:
    assert KEYLESS.open(b"plain", "x") == b"plain"
    with pytest.raises(Unavailable):
        KEYLESS.open(vault.seal("x", "x"), "x")
    assert KEYLESS.seal("x", "x") == b"x"


def test_keys_at_rest_are_for_their_owner_only(vault: Vault) -> None:
    vault.newest_id()
    (path,) = vault.ring.folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == 32
    assert path.read_bytes().hex() not in repr(vault.ring.every())


def test_reading_plain_messages_calls_nothing_of_the_vault(service: Service) -> None:
    """Per delivery and per message: what is off costs nothing."""

    class Untouchable:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(name)

    values = [b"hello", b"1", b"1", b"0", b"1", None, None, None, None, None]
    found = records.messages([b"m", values], Untouchable())  # type: ignore[arg-type]
    assert found["m"].body == "hello"


# -- files


@pytest.fixture
def service(make: Make) -> Service:
    return make(on=True)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 7])
def test_a_file_lies_encrypted_and_reads_as_it_was(service: Service, size: int) -> None:
    content = random.Random(size).randbytes(size)
    id_ = keep(service.files, content, service)
    on_disk = service.files.path(id_, sealed=True).read_bytes()
    assert size < 16 or content[:16] not in on_disk
    with service.files.open(id_) as file:
        assert file.read() == content
        assert file.tell() == size
        for at, count in ((0, 10), (size // 2, CHUNK), (max(0, size - 5), 100), (size + 9, 1)):
            assert file.seek(at) == at
            assert file.read(count) == content[at : at + count]
        assert file.seek(0, 2) == size
        assert file.seek(-min(3, size), 1) == size - min(3, size)
        assert file.read() == content[size - min(3, size) :]


def test_its_type_is_still_known_by_what_it_holds(service: Service) -> None:
    incoming = service.files.incoming()
    incoming.write(b"%PDF-1.7 planted")
    stored = service.files.keep(incoming, "x", "", service.store.now())
    incoming.close()
    assert (stored.file.media_type, stored.file.size) == ("application/pdf", 16)


def test_an_encrypted_file_is_sent_and_deleted_like_any(service: Service) -> None:
    id_ = keep(service.files, b"%PDF-1.7 planted", service)
    message = send(service, attachments=(Attachment(id_),))
    service.sender.deliver(f"{message}-0", Blocking(service.keep_note))
    assert service.purge() == 1
    service.sweep()
    assert list(service.files.folder.iterdir()) == []


def test_nothing_plain_reaches_the_disk_while_a_file_is_written(service: Service) -> None:
    incoming = service.files.incoming()
    incoming.write(b"planted" * 20_000)
    incoming.file.flush()
    incoming.file.seek(0)
    assert b"planted" not in incoming.file.read()
    incoming.close()


def test_a_file_that_was_changed_on_the_disk_does_not_read(service: Service) -> None:
    content = os.urandom(3 * CHUNK)
    path = service.files.path(keep(service.files, content, service), sealed=True)
    whole, chance, full = path.read_bytes(), random.Random(3), CHUNK + 16
    head = len(whole) - 3 * full
    spoilt = [
        *(b"", whole[: head + full], whole[: head + 2 * full], whole[:-1], whole + b"x", whole + whole[-full:]),
        whole[:head] + whole[head + full : head + 2 * full] + whole[head : head + full] + whole[head + 2 * full :],
        whole[: head + full] + whole[head + 2 * full :],
        *(whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :] for at in (*range(head), *(chance.randrange(len(whole)) for _ in range(30)))),
    ]  # fmt: skip
    for content in spoilt:
        with pytest.raises((Damaged, Unavailable)):
            io.BufferedReader(Reader(io.BytesIO(content), service.vault)).read()


def test_a_file_whose_key_is_lost_is_tried_again_and_goes_when_it_is_back(
    env: dict[str, str], make: Make, vault: Vault, tmp_path: Path, messenger: FakeMessenger
) -> None:
    service = make(on=True)
    attached = (Attachment(keep(service.files, PNG, service)),)
    new = NewMessage("", (Recipient("42", "telegram"),), attachments=attached)
    message = service.accept(new)[0].id
    (path,) = vault.ring.paths()
    vault.rotate()
    path.rename(tmp_path / "away")
    service.store.redis.hset(f"pr:m:{message}", "body", "")  # its text alone could be read
    turn(service)
    (attempt,) = service.store.attempts([f"{message}-0"])[f"{message}-0"]
    assert (attempt.outcome, attempt.reason) == ("retry", "a file of it cannot be read")
    (tmp_path / "away").rename(path)
    wait_until(lambda: turn(service) or messenger.calls)
    assert stands(service, message) == [("sent", 1)]


def test_what_is_opened_in_vain_is_closed(service: Service, vault: Vault) -> None:
    path = service.files.path(keep(service.files, b"x", service), sealed=True)
    vault.rotate()
    vault.ring.paths()[-1].unlink()
    raw = path.open("rb")
    with pytest.raises(Unreadable):
        reading(raw, service.vault)
    assert raw.closed
    with pytest.raises(OSError, match="which is not in"):
        service.files.opened(File("a", "x/y", 1, id=path.stem)).open()


# -- new keys


def test_what_is_new_is_under_the_new_key_and_what_is_old_still_reads(
    service: Service, client: redis.Redis, vault: Vault
) -> None:
    old, kid = send(service), vault.newest_id()
    vault.rotate()
    new = send(service)
    kept = {mid: client.hget(f"pr:m:{mid}", "body") or b"" for mid in (old, new)}
    assert kept[old].startswith(MARK + kid)
    assert kept[new].startswith(MARK + vault.newest_id())
    assert not kept[new].startswith(MARK + kid)
    for mid in kept:
        found = service.finder.message(mid, None)
        assert found is not None
        assert found.message.body == SECRET


def test_all_that_is_kept_can_be_encrypted_anew_and_old_keys_go(
    make: Make, client: redis.Redis, vault: Vault, postrider: Postrider
) -> None:
    plain, service = make(on=False), make(on=True)
    mids = [send(plain, f"{SECRET} {n}") for n in range(20)]
    mids += [send(service, f"{SECRET} {n}") for n in range(20, 40)]
    service.keep_note(Note("ana", SECRET, "k"))
    contents = {
        keep(each.files, name, each): name for each, name in ((plain, b"one"), (service, b"two"))
    }
    assert postrider("encryption", "rotate", "--at-rest") == 0
    assert postrider("encryption", "renew", ENCRYPT_AT_REST="on") == 0
    for path in vault.ring.paths()[1:]:
        path.unlink()
    again = make(on=True)
    for n, mid in enumerate(mids):
        found = again.finder.message(mid, None)
        assert found is not None
        assert found.message.body == f"{SECRET} {n}"
    for id_, content in contents.items():
        with again.files.open(id_) as file:
            assert file.read() == content
    assert b"planted" not in in_redis(client)
    assert not [path for path in again.files.folder.iterdir() if path.suffix != ".sealed"]
    done = Resealing(client, again.files, again.vault).run()
    assert (done.texts, done.files) == (0, 0)


def test_the_text_that_a_part_went_with_is_encrypted_and_renewed_too(
    make: Make, client: redis.Redis, vault: Vault
) -> None:
    service = make(on=True)
    both = (Recipient("ana", "sandbox"), Recipient("ben", "sandbox"))
    mid = service.accept(NewMessage(f"{SECRET} first", both))[0].id
    sent, waits = service.sender.claim("w", 2).claims
    ends = [service.sender.verdict(sent, Sent("1")), service.sender.verdict(waits, Retry("503"))]
    service.sender.record("w", ends)
    service.change(mid, None, body=f"{SECRET} second")
    vault.rotate()
    again = make(on=True)
    assert Resealing(client, again.files, again.vault).run().texts == 2
    for path in vault.ring.paths()[1:]:
        path.unlink()
    assert b"planted" not in in_redis(client)
    ((_, shown),) = make(on=True).finished(10, None).rows
    assert shown.body == f"{SECRET} first"


def test_renewing_goes_on_behind_what_it_cannot_read(
    make: Make,
    client: redis.Redis,
    vault: Vault,
    postrider: Postrider,
    capsys: pytest.CaptureFixture[str],
) -> None:
    service = make(on=True)
    send(service)
    keep(service.files, b"lost", service)
    text, file = send(service), keep(service.files, b"spoilt", service)
    vault.rotate()
    vault.ring.paths()[-1].unlink()
    read = [send(service, f"{n}") for n in range(10)]
    there = {keep(service.files, str(n).encode(), service) for n in range(10)}
    client.hset(f"pr:m:{text}", "body", (client.hget(f"pr:m:{read[0]}", "body") or b"")[:-1])
    path = service.files.path(file, sealed=True)
    path.write_bytes(service.files.path(next(iter(there)), sealed=True).read_bytes()[:-1])
    vault.rotate()
    assert postrider("encryption", "renew", ENCRYPT_AT_REST="on") == 1
    said = capsys.readouterr().out
    assert "Encrypted anew: 10 texts, 10 files." in said
    assert "4 cannot be read" in said
    for key in vault.ring.paths()[1:]:
        key.unlink()
    assert {service.message(mid, None).message.body for mid in read} == {f"{n}" for n in range(10)}
    for id_ in there:
        service.files.open(id_).close()


def test_renewing_deletes_no_file_that_is_about_to_be_kept(
    make: Make, client: redis.Redis, vault: Vault
) -> None:
    service = make(on=True)
    arriving, deleted = "A" * 22, "B" * 22
    for id_ in (arriving, deleted):
        incoming = service.files.incoming()
        incoming.write(b"x")
        incoming.link(service.files.path(id_, sealed=True))
        incoming.close()
    client.zadd("pr:files:arriving", {arriving: service.store.now().timestamp() + 60})
    vault.rotate()
    Resealing(client, service.files, service.vault).run()
    assert [path.name for path in service.files.folder.iterdir()] == [f"{arriving}.sealed"]


def test_renewing_leaves_alone_what_somebody_changes_meanwhile(
    make: Make, client: redis.Redis
) -> None:
    service = make(on=True)
    message = send(service)
    key = f"pr:m:{message}"
    assert service.store.scripts.run("reseal", key, "body", b"as it was read", b"anew") == 0
    assert client.hget(key, "body") != b"anew"


def test_keys_change_while_messages_and_files_come_and_go(make: Make, vault: Vault) -> None:
    done, faults, sent = threading.Event(), [], []
    vault.newest_id()

    def work(n: int) -> None:
        service = make(on=True)
        try:
            while not done.is_set():
                mid = send(service, f"{n} {len(sent)}")
                id_ = keep(service.files, mid.encode(), service)
                found = service.finder.message(mid, None)
                assert found is not None
                assert found.message.body.startswith(f"{n} ")
                with service.files.open(id_) as file:
                    assert file.read() == mid.encode()
                sent.append(mid)
        except BaseException as error:  # noqa: BLE001 - told in the test's own thread
            faults.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    service = make(on=True)
    renewing = Resealing(service.store.redis, service.files, service.vault)
    try:
        for _ in range(4):
            before = len(sent)
            vault.rotate()
            renewing.run()
            wait_until(lambda before=before: len(sent) >= before + 6 or faults, 20, "more of them")
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not faults
    assert len(vault.ids()) == 5
    for mid in sent:
        assert service.finder.message(mid, None) is not None


def test_json_within_stays_json(vault: Vault) -> None:
    kept = json.dumps({"text": vault.seal_word("ä", "x")})
    assert vault.open_word(json.loads(kept)["text"], "x") == "ä"
