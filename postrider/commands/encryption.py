"""`postrider encrypt` and `postrider encryption`: files encrypted for a service, and the keys of this one."""

import argparse
import base64
import secrets
import shlex
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from messengers.base import NoReply, Request
from postrider.commands.shell import Parsers, opened
from postrider.commands.terminal import new_file, say, say_json, told
from postrider.errors import InvalidRequest
from postrider.keys import OAEP, Keys
from postrider.resealing import Resealing
from postrider.settings import Settings
from postrider.transport import Blocking
from postrider.vault import Vault

PART = 1 << 20


def add_commands(commands: "Parsers[argparse.ArgumentParser]") -> None:
    """Adds these subcommands, each with its function as `run`."""
    what = "encrypt a file for a service, to be uploaded"
    parser = commands.add_parser("encrypt", help=what, description=what)
    parser.add_argument("file", metavar="FILE", type=Path)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--key-url", metavar="URL", help="https://USER:PASSWORD@HOST/key")
    source.add_argument("--key", metavar="FILE", type=Path, help="what GET /key gave; else ours")
    parser.add_argument("-o", "--out", metavar="OUT", type=Path, help="FILE.encrypted, if left out")
    parser.set_defaults(run=encrypt)
    what = "show the keys of this service, or make a new one"
    parser = commands.add_parser("encryption", help=what, description=what)
    keys = parser.add_subparsers(metavar="COMMAND", required=True)
    what = "show the keys"
    parser = keys.add_parser("show", help=what, description=what)
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=show)
    what = "make a new key, at once in use; what was encrypted for older ones still opens"
    parser = keys.add_parser("rotate", help=what, description=what)
    parser.add_argument("--at-rest", action="store_true", help="the key for what is kept, instead")
    parser.set_defaults(run=rotate)
    what = "encrypt all that is kept under the newest key, while everything runs"
    parser = keys.add_parser("renew", help=what, description=what)
    parser.set_defaults(run=renew)


# -- for who uploads


@told
def encrypt(args: argparse.Namespace) -> int:
    """Writes OUT and OUT.key."""
    out: Path = args.out or args.file.with_name(f"{args.file.name}.encrypted")
    beside = out.with_name(f"{out.name}.key")
    public = _public(args)
    key, nonce = secrets.token_bytes(32), secrets.token_bytes(12)
    encryptor = Cipher(AES(key), GCM(nonce)).encryptor()
    with new_file(beside) as wrapped, new_file(out) as encrypted, args.file.open("rb") as plain:
        wrapped.write(public.encrypt(key, OAEP))
        wrapped.flush()  # what the disk does not take is known before the other one counts
        encrypted.write(nonce)
        while part := plain.read(PART):
            encrypted.write(encryptor.update(part))
        encrypted.write(encryptor.finalize() + encryptor.tag)
    say(f"{out} is encrypted, its key is in {beside}. Upload both:")
    parts = (f"file=@{_quoted(out)};filename={_quoted(args.file.name)}", f"key=@{_quoted(beside)}")
    form = " ".join(f"-F {shlex.quote(part)}" for part in parts)
    say(f"curl -u USER {form} URL/api/v1/files")
    return 0


def _quoted(name: object) -> str:
    """A name within curl's -F, where `;` and `,` part one thing from the next. https://curl.se/docs/manpage.html#-F"""
    return '"' + str(name).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _public(args: argparse.Namespace) -> RSAPublicKey:
    if args.key_url:
        name, text = "--key-url", _fetched(args.key_url)
    elif args.key:
        name, text = "--key", args.key.read_bytes()
    else:
        ours = Keys(Settings.from_env().keys_dir).every()
        if not ours:  # to make one here would encrypt for nobody
            raise InvalidRequest("--key-url", "is needed, or --key: there is no service's key here")
        return ours[0].private.public_key()
    try:
        public = load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidRequest(name, "holds no public key in PEM") from None
    if not isinstance(public, RSAPublicKey):
        raise InvalidRequest(name, "is no RSA key")
    return public


def _fetched(url: str) -> bytes:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidRequest("--key-url", "write it as https://USER:PASSWORD@HOST/key")
    credentials, _, host = parts.netloc.rpartition("@")
    headers = {"Accept": "text/plain"}
    if credentials:
        user, _, password = map(unquote, credentials.partition(":"))
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        headers["Authorization"] = f"Basic {login}"
    bare = urlunsplit(parts._replace(netloc=host))
    settings = Settings.from_env()
    reply = Blocking(lambda _: None, tls_verify=settings.tls_verify).send(
        Request("GET", bare, headers=headers)
    )
    if isinstance(reply, NoReply):
        raise InvalidRequest("--key-url", f"does not answer: {reply.reason}")
    if reply.status != 200:
        raise InvalidRequest("--key-url", f"answers with status {reply.status}")
    return reply.body


# -- for who runs the service


@told
def show(args: argparse.Namespace) -> int:
    """The keys, the newest first."""
    settings = Settings.from_env()
    keys = Keys(settings.keys_dir).every()
    kept = Vault(settings.keys_dir / "at-rest").ids()
    if args.json:
        say_json(
            {
                "keys": [{"kid": key.kid, "made_at": key.made_at.isoformat()} for key in keys],
                "encrypt_at_rest": settings.encrypt_at_rest,
                "at_rest_keys": kept,
            }
        )
        return 0
    for nth, key in enumerate(keys):
        say(f"{key.kid}  {'given out' if nth == 0 else 'opens what was encrypted for it'}")
    if not keys:
        say("No key yet: the API makes one as it starts.")
    state = "on" if settings.encrypt_at_rest else "off"
    say(f"ENCRYPT_AT_REST is {state}; keys for it: {', '.join(kept) or 'none'}")
    return 0


@told
def rotate(args: argparse.Namespace) -> int:
    """A new key, which running processes take at once."""
    with opened() as desk:
        settings = desk.service.settings
        if not args.at_rest:
            kid = desk.service.keys.rotate().kid
            desk.note("encryption rotate", kid)
            say(f"GET /key gives {kid} from now on.")
            return 0
        kid = desk.service.vault.rotate()
        desk.note("encryption rotate --at-rest", kid)
    say(
        f"What is new is encrypted under {kid} from now on. For what there is: postrider encryption renew"
    )
    if not settings.encrypt_at_rest:
        say("ENCRYPT_AT_REST is off: nothing new is encrypted.")
    return 0


@told
def renew(_: argparse.Namespace) -> int:
    """What is kept is under the newest key."""
    with opened() as desk:
        service = desk.service
        if not service.settings.encrypt_at_rest:
            raise InvalidRequest("ENCRYPT_AT_REST", "is off, so nothing is to be encrypted")
        done = Resealing(service.store.redis, service.files, service.vault).run()
        told_ = f"{done.texts} texts, {done.files} files"
        desk.note("encryption renew", told_)
    say(f"Encrypted anew: {told_}.")
    if done.unreadable:
        say(f"{done.unreadable} cannot be read, as was told above, and stay as they are.")
    return 1 if done.unreadable else 0
