"""Files that clients encrypted: opened when they are whole and for us, refused alike in every other case."""

import hashlib
import json
import os
import random
import secrets
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from postrider import cms
from postrider.arriving import Arriving
from postrider.errors import InvalidRequest
from postrider.files import Files
from postrider.keys import OAEP, Key, Keys
from postrider.opening import DOES_NOT_OPEN, opened
from tests.conftest import Api, Postrider, wait_until

CONTENT = b"%PDF-1.7 planted secret " + bytes(range(256)) * 40
CMS = (
    *("-binary", "-aes-256-gcm", "-outform", "DER"),
    *("-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256"),
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Two, the older of which is no longer given out."""
    found = Keys(tmp_path_factory.mktemp("opening") / "keys")
    found.newest()
    found.rotate()
    return found


@pytest.fixture
def files(client: redis.Redis, tmp_path: Path) -> Files:
    return Files(client, tmp_path / "files")


def arrive(files: Files, content: bytes) -> Arriving:
    incoming = files.incoming()
    incoming.write(content)
    return incoming


def open_(files: Files, keys: Keys, content: bytes, wrapped: bytes | None) -> bytes:
    """What is in `content`. Raises InvalidRequest."""
    incoming = arrive(files, content)
    try:
        plain = opened(incoming, files, keys, wrapped, field="files[0]")
        with plain.reading() as file:
            found = file.read()
        assert plain.sha256 == hashlib.sha256(found).hexdigest()
        assert plain.size == len(found)
        plain.close()
    finally:
        incoming.close()
    return found


def pair(key: Key, content: bytes = CONTENT) -> tuple[bytes, bytes]:
    """`content` for `key`, and the wrapped AES key."""
    aes, nonce = secrets.token_bytes(32), secrets.token_bytes(12)
    wrapped = key.private.public_key().encrypt(aes, OAEP)
    return nonce + AESGCM(aes).encrypt(nonce, content, None), wrapped


def envelope(key: Key, folder: Path, *flags: str, content: bytes = CONTENT) -> bytes:
    """What openssl makes of it."""
    (folder / "plain").write_bytes(content)
    (folder / "key.crt").write_text(key.certificate_pem)
    names = ("-in", "plain", "-out", "out", "-recip", "key.crt")
    command = ["openssl", "cms", "-encrypt", *flags, *names, *CMS]
    subprocess.run(command, cwd=folder, check=True, timeout=30)
    return (folder / "out").read_bytes()


def refuse(files: Files, keys: Keys, content: bytes, wrapped: bytes | None) -> None:
    with pytest.raises(InvalidRequest) as refused:
        open_(files, keys, content, wrapped)
    assert (refused.value.field, refused.value.reason) == ("files[0]", DOES_NOT_OPEN)


@pytest.mark.parametrize("size", [0, 1, 16, 1 << 20, (1 << 20) + 1])
def test_a_file_with_its_key_beside_it_opens(files: Files, keys: Keys, size: int) -> None:
    content = os.urandom(size)
    assert open_(files, keys, *pair(keys.newest(), content)) == content


def test_files_for_an_older_key_still_open(files: Files, keys: Keys, tmp_path: Path) -> None:
    older = keys.every()[-1]
    assert open_(files, keys, *pair(older)) == CONTENT
    assert open_(files, keys, envelope(older, tmp_path), None) == CONTENT


def test_the_wrapped_key_may_be_in_base64(files: Files, keys: Keys) -> None:
    import base64  # noqa: PLC0415

    content, wrapped = pair(keys.newest())
    assert open_(files, keys, content, base64.encodebytes(wrapped).replace(b"\n", b"")) == CONTENT
    assert open_(files, keys, content, base64.b64encode(wrapped) + b"\n") == CONTENT
    assert open_(files, keys, content, base64.encodebytes(wrapped)) == CONTENT
    assert (
        open_(files, keys, content, base64.encodebytes(wrapped).replace(b"\n", b"\r\n")) == CONTENT
    )


@pytest.mark.parametrize("flags", [(), ("-stream",), ("-keyid",), ("-stream", "-keyid")])
@pytest.mark.parametrize("size", [1, 300_000])
def test_what_openssl_cms_makes_opens(
    files: Files, keys: Keys, tmp_path: Path, flags: tuple[str, ...], size: int
) -> None:
    content = os.urandom(size)
    made = envelope(keys.newest(), tmp_path, *flags, content=content)
    assert open_(files, keys, made, None) == content


def test_an_empty_envelope_opens(files: Files, keys: Keys, tmp_path: Path) -> None:
    """openssl makes none with -stream."""
    assert open_(files, keys, envelope(keys.newest(), tmp_path, content=b""), None) == b""


def test_an_envelope_for_several_opens(
    files: Files, keys: Keys, tmp_path: Path, stranger: Key
) -> None:
    (tmp_path / "other.crt").write_text(stranger.certificate_pem)
    made = envelope(keys.newest(), tmp_path, "-recip", "other.crt", *CMS[4:])
    assert open_(files, keys, made, None) == CONTENT


def test_a_plain_file_is_left_alone(files: Files, keys: Keys) -> None:
    for content in (b"", b"0", CONTENT, b"\x30\x82\x01\x00" + bytes(64)):
        incoming = arrive(files, content)
        assert opened(incoming, files, keys, None) is incoming
        incoming.close()


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return Keys(tmp_path_factory.mktemp("stranger") / "keys").newest()


def test_what_is_for_another_service_is_refused(
    files: Files, keys: Keys, tmp_path: Path, stranger: Key
) -> None:
    refuse(files, keys, *pair(stranger))
    refuse(files, keys, envelope(stranger, tmp_path), None)


def test_what_shows_no_change_is_refused(files: Files, keys: Keys, tmp_path: Path) -> None:
    made = envelope(keys.newest(), tmp_path)
    assert cms.is_envelope(made[: cms.HEAD])
    (tmp_path / "key.crt").write_text(keys.newest().certificate_pem)
    subprocess.run(
        ["openssl", "cms", "-encrypt", "-in", "plain", "-out", "cbc", "-binary", "-aes-256-cbc", "-outform", "DER",
         "-recip", "key.crt"], cwd=tmp_path, check=True, timeout=30,
    )  # fmt: skip
    with pytest.raises(InvalidRequest, match="shows no change"):
        open_(files, keys, (tmp_path / "cbc").read_bytes(), None)


def test_a_key_of_another_length_or_kind_is_refused(files: Files, keys: Keys) -> None:
    content, wrapped = pair(keys.newest())
    public = keys.newest().private.public_key()
    for wrong in (
        *(b"", b"x", wrapped[:-1], wrapped + b"\0", bytes(384), b"\xff" * 384),
        *(public.encrypt(b"k" * 16, OAEP), public.encrypt(b"", OAEP)),
    ):
        refuse(files, keys, content, wrong)


def _spoil(content: bytes, chance: random.Random) -> bytes:
    """`content`, changed, cut, lengthened, or with a part moved."""
    at = chance.randrange(len(content))
    match chance.randrange(6):
        case 0:
            return content[: max(at, 24)] if at < len(content) - 1 else content[:-1]
        case 1:
            return content + chance.randbytes(chance.randrange(1, 40))
        case 2:
            return content[:at] + chance.randbytes(1) + content[at:]
        case 3:
            return content[:at] + content[at + 1 :]
        case 4:
            part = chance.randbytes(min(16, len(content) - at))
            return content[:at] + part + content[at + len(part) :]
    return content[:at] + bytes((content[at] ^ 1 << chance.randrange(8),)) + content[at + 1 :]


def test_nothing_that_was_changed_or_cut_opens(
    files: Files, keys: Keys, tmp_path: Path, long: bool
) -> None:
    chance = random.Random(5)
    small = b"%PDF-1.7 " + bytes(range(256)) * 2
    made = pair(keys.newest(), small)
    envelopes = [
        envelope(keys.newest(), tmp_path, *flags, content=small)
        for flags in ((), ("-stream",), ("-keyid",))
    ]
    tried = 0
    while tried < (1_000 if long else 200):
        content, wrapped = made
        which = tried % 5
        if which == 0:
            content = _spoil(content, chance)
        elif which == 1:
            wrapped = _spoil(wrapped, chance)
        else:
            content, wrapped = _spoil(envelopes[which - 2], chance), None
        if (content, wrapped) in (made, *((whole, None) for whole in envelopes)):
            continue
        refuse(files, keys, content, wrapped)
        tried += 1
    assert list(files.folder.iterdir()) == []


def test_each_byte_of_an_envelope_counts(files: Files, keys: Keys, tmp_path: Path) -> None:
    for flags in ((), ("-stream",)):
        made = envelope(keys.newest(), tmp_path, *flags, content=b"x")
        around = [at for at in range(len(made)) if not 150 < at < 500]  # within: the wrapped key
        for at in around[:: 1 if not flags else 3]:
            refuse(files, keys, made[:at] + bytes((made[at] ^ 0x01,)) + made[at + 1 :], None)


def test_nothing_is_left_open_or_lying_about_when_a_file_is_refused(
    files: Files, keys: Keys
) -> None:
    content, wrapped = pair(keys.newest())
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    for _ in range(20):
        refuse(files, keys, content[:-1], wrapped)
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before
    assert list(files.folder.iterdir()) == []


def test_a_large_file_opens_in_little_memory(
    files: Files, keys: Keys, tmp_path: Path, long: bool
) -> None:
    """Measured in a process of its own, whose greatest memory is that of this alone."""
    size = (2048 if long else 64) << 20
    code = (
        "import re, sys, secrets, hashlib; from pathlib import Path; import redis\n"
        "def most(): return int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "from cryptography.hazmat.primitives.ciphers import Cipher\n"
        "from cryptography.hazmat.primitives.ciphers.algorithms import AES\n"
        "from cryptography.hazmat.primitives.ciphers.modes import GCM\n"
        "from postrider.files import Files; from postrider.keys import Keys, OAEP; from postrider.opening import opened\n"
        "keys = Keys(Path(sys.argv[1])); files = Files(redis.Redis(), Path(sys.argv[2])); key = secrets.token_bytes(32)\n"
        "made = Cipher(AES(key), GCM(b'n' * 12)).encryptor(); whole = files.incoming(); whole.write(b'n' * 12)\n"
        "wrapped = keys.newest().private.public_key().encrypt(key, OAEP); part = bytes(1 << 20); digest = hashlib.sha256()\n"
        "for _ in range(int(sys.argv[3]) >> 20): whole.write(made.update(part)); digest.update(part)\n"
        "made.finalize(); whole.write(made.tag); before = most()\n"
        "plain = opened(whole, files, keys, wrapped); assert plain.sha256 == digest.hexdigest(); print(\n"
        "most() - before)\n"
    )
    import sys  # noqa: PLC0415

    told = subprocess.run(
        [sys.executable, "-c", code, str(keys.ring.folder), str(files.folder), str(size)],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    grown_kib = int(told.stdout)
    print(f"{size >> 20} MiB opened; memory grew by {grown_kib} KiB")  # noqa: T201
    assert grown_kib < 20 * 1024


# -- clients that are not ours

NODE = """
const {readFileSync, writeFileSync} = require('node:fs'), {subtle} = globalThis.crypto;
(async () => {
  const [url, auth, from, to] = process.argv.slice(1);
  const {jwk} = await (await fetch(url + '/key', {headers: {Accept: 'application/json', Authorization: auth}})).json();
  const rsa = await subtle.importKey('jwk', jwk, {name: 'RSA-OAEP', hash: 'SHA-256'}, false, ['wrapKey']);
  const aes = await subtle.generateKey({name: 'AES-GCM', length: 256}, true, ['encrypt']);
  const iv = crypto.getRandomValues(new Uint8Array(12));
  const made = await subtle.encrypt({name: 'AES-GCM', iv}, aes, readFileSync(from));
  writeFileSync(to, Buffer.concat([iv, Buffer.from(made)]));
  writeFileSync(to + '.key', Buffer.from(await subtle.wrapKey('raw', aes, rsa, {name: 'RSA-OAEP'})));
})();
"""
NODE_AES = """
const {readFileSync, writeFileSync} = require('node:fs'), {subtle} = globalThis.crypto;
(async () => {
  const aes = await subtle.importKey('raw', readFileSync('aes'), 'AES-GCM', false, ['encrypt']);
  const iv = crypto.getRandomValues(new Uint8Array(12));
  const made = await subtle.encrypt({name: 'AES-GCM', iv}, aes, readFileSync('plain'));
  writeFileSync('out', Buffer.concat([iv, Buffer.from(made)]));
})();
"""
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")


@pytest.fixture
def served(keys: Keys, tmp_path: Path) -> Keys:
    """These keys, as the service's own."""
    shutil.copytree(keys.ring.folder, tmp_path / "keys")
    return Keys(tmp_path / "keys")


@needs_node
def test_a_client_in_javascript_encrypts_for_us(
    files: Files, served: Keys, api: Api, tmp_path: Path
) -> None:
    import base64  # noqa: PLC0415

    (tmp_path / "plain").write_bytes(CONTENT)
    auth = "Basic " + base64.b64encode(":".join(api.auth).encode()).decode()  # type: ignore[arg-type]
    subprocess.run(
        ["node", "-e", NODE, "--", api.url, auth, "plain", "out"],
        cwd=tmp_path, check=True, timeout=30,
    )  # fmt: skip
    wrapped = (tmp_path / "out.key").read_bytes()
    assert open_(files, served, (tmp_path / "out").read_bytes(), wrapped) == CONTENT


@needs_node
def test_a_client_that_wraps_its_key_with_openssl_encrypts_for_us(
    files: Files, served: Keys, api: Api, tmp_path: Path
) -> None:
    (tmp_path / "plain").write_bytes(CONTENT)
    (tmp_path / "key.pem").write_bytes(api.get("/key").content)
    wrap = "openssl rand -out aes 32 && openssl pkeyutl -encrypt -pubin -inkey key.pem -in aes -out wrapped"
    oaep = "-pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256"
    subprocess.run(f"{wrap} {oaep}", shell=True, cwd=tmp_path, check=True, timeout=30)
    subprocess.run(["node", "-e", NODE_AES], cwd=tmp_path, check=True, timeout=30)
    wrapped = (tmp_path / "wrapped").read_bytes()
    assert open_(files, served, (tmp_path / "out").read_bytes(), wrapped) == CONTENT


def test_a_client_of_openssl_alone_encrypts_by_the_certificate(
    files: Files, served: Keys, api: Api, tmp_path: Path
) -> None:
    (tmp_path / "report.pdf").write_bytes(CONTENT)
    (tmp_path / "key.crt").write_bytes(api.get("/key.crt").content)
    page = (Path(__file__).parent.parent / "docs" / "encryption.md").read_text()
    command = page.partition("openssl cms")[2].partition("```")[0].replace("\\\n", " ")
    subprocess.run(f"openssl cms{command}", shell=True, cwd=tmp_path, check=True, timeout=30)
    assert open_(files, served, (tmp_path / "report.pdf.cms").read_bytes(), None) == CONTENT


# -- our own client

Encrypt = Callable[..., int]


@pytest.mark.parametrize("by", ["our key", "a file", "a URL"])
def test_postrider_encrypt_makes_what_opens(
    files: Files, served: Keys, api: Api, tmp_path: Path, postrider: Postrider,
    capsys: pytest.CaptureFixture[str], by: str,
) -> None:  # fmt: skip
    (tmp_path / "a.pdf").write_bytes(CONTENT)
    (tmp_path / "key.pem").write_text(served.newest().pem)
    url = api.url.replace("//", "//{}:{}@".format(*api.auth)) + "/key"  # type: ignore[misc]
    more = {"our key": (), "a file": ("--key", "key.pem"), "a URL": ("--key-url", url)}[by]
    assert postrider("encrypt", "a.pdf", *more, "-o", "out") == 0
    assert "curl" in capsys.readouterr().out
    wrapped = (tmp_path / "out.key").read_bytes()
    assert open_(files, served, (tmp_path / "out").read_bytes(), wrapped) == CONTENT


def test_postrider_encrypt_says_why_it_cannot(
    api: Api, tmp_path: Path, postrider: Postrider, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.pdf").write_bytes(CONTENT)
    (tmp_path / "junk").write_bytes(b"no key")
    for argv, words in (
        (("missing.pdf", "--key", "junk"), "no public key"),
        (("a.pdf", "--key", "nowhere"), "No such file"),
        (("a.pdf", "--key-url", api.url + "/key"), "status 401"),
        (("a.pdf", "--key-url", "ftp://x"), "https://"),
    ):
        assert postrider("encrypt", *argv) == 1
        told = capsys.readouterr().err
        assert words in told
        assert told.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["a.pdf", "junk"]


def test_postrider_encrypt_makes_no_key_of_its_own(
    tmp_path: Path, postrider: Postrider, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a client's machine it would open nowhere."""
    (tmp_path / "a.pdf").write_bytes(CONTENT)
    assert postrider("encrypt", "a.pdf") == 1
    assert "--key-url: is needed" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.pdf"]


@pytest.mark.parametrize("there", ["out", "out.key"])
def test_postrider_encrypt_writes_over_nothing(
    served: Keys, tmp_path: Path, postrider: Postrider, there: str
) -> None:
    (tmp_path / "a.pdf").write_bytes(CONTENT)
    (tmp_path / there).write_text("mine")
    assert postrider("encrypt", "a.pdf", "-o", "out") == 1
    assert (tmp_path / there).read_text() == "mine"
    assert len(list(tmp_path.glob("out*"))) == 1


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="NO FILE THAT CANNOT BE READ")
def test_postrider_encrypt_that_fails_half_way_leaves_nothing(
    served: Keys, tmp_path: Path, postrider: Postrider, capsys: pytest.CaptureFixture[str]
) -> None:
    assert postrider("encrypt", "/proc/self/mem", "-o", "out") == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.glob("out*"))


def test_the_line_that_postrider_encrypt_prints_uploads_both(
    served: Keys, api: Api, tmp_path: Path, postrider: Postrider, capsys: pytest.CaptureFixture[str]
) -> None:
    name = """Ana's "list"; x,y $(touch harm).pdf"""
    (tmp_path / name).write_bytes(CONTENT)
    assert postrider("encrypt", name) == 0
    line = capsys.readouterr().out.splitlines()[1]
    line = line.replace("-u USER", "-s -u {}:{}".format(*api.auth)).replace("URL/", f"{api.url}/")  # type: ignore[misc]
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, timeout=30, check=True)  # fmt: skip
    (kept,) = json.loads(done.stdout)["files"]
    assert kept["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert kept["name"] == "Ana's _list__ x,y $(touch harm).pdf"
    assert not (tmp_path / "harm").exists()


def test_files_open_while_keys_are_replaced(files: Files, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    keys.newest()
    done, faults, opened_ = threading.Event(), [], []

    def upload() -> None:
        ours = Keys(tmp_path / "keys")
        try:
            while not done.is_set():
                content = os.urandom(1000)
                key = ours.newest()
                assert open_(files, ours, *pair(key, content)) == content
                opened_.append(1)
        except BaseException as error:  # noqa: BLE001 - told in the test's own thread
            faults.append(error)

    threads = [threading.Thread(target=upload) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            before = len(opened_)
            keys.rotate()
            wait_until(lambda before=before: len(opened_) >= before + 6 or faults, 20, "more")
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not faults
    assert len(keys.every()) == 3
