"""`postrider files` and `send --attach`: kept, listed, read back, deleted, sent."""

import io
import json
import sys
from pathlib import Path

import pytest

from postrider.service import Service
from tests.conftest import Api, Postrider
from tests.test_files import PNG
from tests.test_files_api import kept

Capture = pytest.CaptureFixture[str]


def test_files_are_added_shown_read_and_deleted(
    postrider: Postrider, service: Service, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "b.txt").write_text("Hello")
    assert postrider("files", "add", "a.png", "b.txt", "--json") == 0
    first, second = json.loads(capsys.readouterr().out)["files"]
    assert postrider("files", "list", "--limit", "1", "--json") == 0
    page = json.loads(capsys.readouterr().out)
    assert postrider("files", "list", "--cursor", page["next"]) == 0
    rest = capsys.readouterr().out
    listed = {page["files"][0]["id"], rest.partition("\t")[0]}
    assert listed == {first["id"], second["id"]}
    assert postrider("files", "show", first["id"]) == 0
    assert "media_type: image/png" in capsys.readouterr().out
    assert postrider("files", "get", first["id"], "--to", "c.png") == 0
    assert (tmp_path / "c.png").read_bytes() == PNG
    assert postrider("files", "get", first["id"], "--to", "b.txt") == 1
    assert (tmp_path / "b.txt").read_text() == "Hello"
    assert postrider("files", "delete", first["id"]) == 0
    assert postrider("files", "show", first["id"]) == 1
    assert kept(service) == [second["id"]]


def test_what_cannot_be_read_whole_is_told_and_leaves_nothing(
    postrider: Postrider, service: Service, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(300_000))
    assert postrider("files", "add", "a.bin", "--json", ENCRYPT_AT_REST="on") == 0
    id_ = json.loads(capsys.readouterr().out)["files"][0]["id"]
    path = service.files.path(id_, sealed=True)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert postrider("files", "get", id_, "--to", "b.bin") == 1
    assert capsys.readouterr().err.startswith("postrider: this file")
    assert not (tmp_path / "b.bin").exists()
    path.unlink()
    for argv in (("get", id_), ("get", id_, "--to", "b.bin"), ("get", id_, "--to", "no/where")):
        assert postrider("files", *argv) == 1
        assert "No such file" in capsys.readouterr().err
    path.write_bytes(whole)
    assert postrider("files", "get", id_, "--to", "no/where") == 1
    assert capsys.readouterr().err == "postrider: no/where: No such file or directory\n"


def test_all_are_refused_when_one_is(
    postrider: Postrider, service: Service, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "a.txt").write_text("Hello")
    assert postrider("files", "add", "a.txt", "none.txt") == 1
    assert "none.txt: cannot be read: No such file" in capsys.readouterr().err
    assert postrider("files", "add", "a.txt", MAX_FILE_BYTES="4") == 1
    assert "over 4 bytes (MAX_FILE_BYTES)" in capsys.readouterr().err
    assert kept(service) == []


def test_what_is_sent_takes_its_files_along(
    postrider: Postrider, service: Service, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    assert postrider("send", "--to", "sandbox:ana", "--attach", "a.png", "Look") == 0
    (id_,) = kept(service)
    assert not service.files.delete(id_, None, service.store.now())
    assert postrider("send", "--to", "pigeon:ana", "--attach", "a.png", "Look") == 1
    assert kept(service) == [id_]


def test_nothing_is_left_of_what_is_not_sent(
    postrider: Postrider, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    attach = ("send", "--to", "sandbox:ana", "--attach", "a.png")
    assert postrider(*attach, "--at", "nonsense", "Look") == 1
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    assert postrider(*attach, "-") == 1

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Service, "accept", interrupted)
    assert postrider(*attach, "Look") == 130
    assert kept(service) == []


def test_what_goes_otherwise_than_asked_for_is_told(
    postrider: Postrider, api: Api, tmp_path: Path, capsys: Capture
) -> None:
    """A picture so flat that Telegram takes it as a document alone."""
    flat = PNG[:16] + (4_000).to_bytes(4) + (10).to_bytes(4) + PNG[24:]
    (tmp_path / "a.png").write_bytes(flat)
    send = ("send", "--to", "telegram:42", "--attach", "a.png", "Look")
    assert postrider(*send) == 0
    notice = capsys.readouterr().out.splitlines()[1]
    assert notice.startswith("telegram: a.png goes as a document: ")
    assert postrider(*send, "--json") == 0
    assert json.loads(capsys.readouterr().out)["notices"] == [notice]
    (file, *_) = api.get("/api/v1/files").json()["files"]
    asked = {
        "body": "Look",
        "recipients": [{"uuid": "42", "service": "telegram"}],
        "attachments": [{"file": file["id"]}],
        "repeat": {"cron": "0 9 * * 1"},
    }
    assert api.post("/api/v1/messages", json=asked).json()["notices"] == [notice]
    (made,) = api.get("/api/v1/schedules").json()["schedules"]
    assert postrider("schedules", "show", made["id"]) == 0
    assert f"notices: {notice}" in capsys.readouterr().out
