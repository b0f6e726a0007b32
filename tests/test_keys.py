"""The service's keys: made once, given to who is logged in, replaced without a restart."""

import base64
import json
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from postrider import signing
from postrider.keys import Keys
from postrider.ring import Ring
from postrider.vault import Vault
from tests.conftest import Api, Postrider, Start, wait_until


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one key."""
    folder = tmp_path_factory.mktemp("keys") / "keys"
    Keys(folder).newest()
    return folder


@pytest.fixture
def keys(made: Path, tmp_path: Path) -> Iterator[Keys]:
    """The service's own, which has that key already."""
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    for path in made.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return Keys(folder)


def test_the_first_key_is_for_its_owner_only_and_has_3072_bits(made: Path) -> None:
    (path,) = made.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    key = Keys(made).newest()
    assert key.private.key_size == 3072
    assert "PRIVATE" not in repr(key)


def test_the_certificate_is_of_that_key_and_says_what_it_is_for(made: Path) -> None:
    key = Keys(made).newest()
    certificate = x509.load_pem_x509_certificate(key.certificate_pem.encode())
    assert certificate.public_key() == load_pem_public_key(key.pem.encode())
    certificate.verify_directly_issued_by(certificate)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_encipherment
    assert not usage.digital_signature


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from postrider.vault import Vault;"
        "print('here', flush=True); sys.stdin.read(1); print(Vault(Path(sys.argv[1])).newest_id().hex())"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "ring")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(6)
    ]
    for process in started:
        assert process.stdout
        assert process.stdout.readline() == b"here\n"
    for process in started:  # all of them stand at the same line now
        assert process.stdin
        process.stdin.write(b"x")
        process.stdin.flush()
    told = {process.communicate(timeout=30)[0] for process in started}
    assert len(told) == 1
    assert b"" not in told
    assert [path.name for path in (tmp_path / "ring").iterdir()] == ["00000001.key"]


def test_threads_that_make_the_first_secret_at_once_get_the_same(tmp_path: Path) -> None:
    at_once, told = threading.Barrier(8), []

    def ask(n: int) -> None:
        ring = Ring(tmp_path / "ring", ".txt", f"{n}".encode, bytes.decode)
        at_once.wait()
        told.append(ring.newest())

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 8
    assert len(set(told)) == 1


def test_another_process_sees_a_new_secret_at_once_and_keeps_the_old(tmp_path: Path) -> None:
    made = iter(range(100))
    ours, theirs = (
        Ring(tmp_path / "ring", ".txt", lambda: str(next(made)).encode(), bytes.decode)
        for _ in range(2)
    )
    assert ours.newest() == theirs.newest() == "0"
    for n in range(1, 50):  # many within one tick of the file system's clock
        assert theirs.add() == str(n)
        assert ours.newest() == str(n)
    assert ours.every() == tuple(str(n) for n in range(49, -1, -1))


def test_a_folder_that_does_not_change_is_read_once(tmp_path: Path) -> None:
    import os  # noqa: PLC0415

    reads: list[bytes] = []

    def read(raw: bytes) -> bytes:
        reads.append(raw)
        return raw

    Ring(tmp_path / "ring", ".txt", lambda: b"x", bytes).newest()
    os.utime(tmp_path / "ring", (1, 1))
    ring = Ring(tmp_path / "ring", ".txt", lambda: b"x", read)
    for _ in range(10):
        ring.newest()
    assert reads == [b"x"]


def test_the_key_needs_a_login(keys: Keys, api: Api) -> None:
    for path in ("/key", "/key.crt"):
        answer = requests.get(api.url + path, timeout=10)
        assert answer.status_code == 401
        assert "BEGIN" not in answer.text


def test_the_key_comes_as_pem_as_json_and_as_a_certificate(keys: Keys, api: Api) -> None:
    key = keys.newest()
    plain = api.get("/key")
    assert plain.headers["Content-Type"].startswith("text/plain")
    assert plain.text == key.pem
    told = api.get("/key", headers={"Accept": "application/json"}).json()
    assert (told["kid"], told["pem"]) == (key.kid, key.pem)
    assert told["jwk"]["alg"] == "RSA-OAEP-256"
    n = int.from_bytes(base64.urlsafe_b64decode(told["jwk"]["n"] + "=="), "big")
    assert n == key.private.public_key().public_numbers().n
    assert "d" not in told["jwk"]
    assert api.get("/key.crt").text == key.certificate_pem
    assert plain.headers["Cache-Control"] == "no-store"


def test_a_new_key_is_given_out_without_a_restart(
    keys: Keys, api: Api, postrider: Postrider, capsys: pytest.CaptureFixture[str]
) -> None:
    before = api.get("/key").text
    assert postrider("encryption", "rotate") == 0
    after = api.get("/key").text
    assert before != after
    assert postrider("encryption", "show", "--json") == 0
    told = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert len(told["keys"]) == 2
    for key in told["keys"]:
        assert abs(datetime.now(UTC) - datetime.fromisoformat(key["made_at"])) < timedelta(hours=1)
    assert [key.pem for key in keys.every()] == [after, before]


def test_what_is_done_to_keys_stands_in_the_audit_log(
    keys: Keys, api: Api, postrider: Postrider
) -> None:
    assert postrider("encryption", "rotate") == 0
    assert postrider("encryption", "rotate", "--at-rest", ENCRYPT_AT_REST="on") == 0
    assert postrider("encryption", "renew") == 0
    entries = api.get("/api/v1/audit").json()["entries"]
    told = [(entry["action"], entry["what"]) for entry in reversed(entries)]
    assert [action for action, _ in told] == [
        "encryption rotate",
        "encryption rotate --at-rest",
        "encryption renew",
    ]
    assert told[0][1] == keys.newest().kid
    assert told[2][1] == "0 texts, 0 files"


def test_the_diagnosis_tells_of_the_keys_and_who_else_could_read_them(
    keys: Keys, postrider: Postrider, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(**settings: str) -> dict[str, tuple[str, str]]:
        postrider("doctor", "--json", **settings)
        checks = json.loads(capsys.readouterr().out)["checks"]
        return {check["name"]: (check["state"], check["detail"]) for check in checks}

    for path in keys.ring.folder.iterdir():
        path.chmod(0o600)
    assert told()["keys"][0] == "ok"
    assert told()["at rest"][0] == "off"
    Vault(keys.ring.folder / "at-rest").newest_id()
    state, detail = told(ENCRYPT_AT_REST="on")["at rest"]
    assert (state, detail.endswith("1 key")) == ("ok", True)
    signing.ring(keys.ring.folder).newest()
    assert told()["keys"][0] == "ok"
    for name in ("*.pem", "links/*.key"):
        exposed = next(keys.ring.folder.glob(name))
        exposed.chmod(0o644)
        assert told()["keys"][:2] == ("fault", f"{exposed} is open to others on this machine")
        exposed.chmod(0o600)


def test_the_api_makes_its_key_as_it_starts(start: Start, tmp_path: Path) -> None:
    start("postrider", "api", BIND="127.0.0.1:1", API_PROCESSES="1")
    wait_until((tmp_path / "keys" / "00000001.pem").exists, 30, "a key")


def test_keys_that_cannot_be_read_stop_the_start(
    postrider: Postrider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "00000001.pem").write_text("no key")
    assert postrider("api") == 2
    assert "the keys in" in capsys.readouterr().err
