"""The accounts that are set up: `default` of each messenger by the environment, others by a file, `ACCOUNTS_FILE`.

    [telegram.shop]
    token = "123:abc"
    rate = 5

A table's keys are its messenger's settings without their prefix, `token` for its secret, `..._file` for a file that holds one,
and what the account may do. Whatever a table leaves out is as the environment says, except secrets and ids.
"""

import re
import tomllib
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, SecretStr, ValidationError

from messengers import MESSENGERS, apprise
from messengers.base import Messenger
from messengers.whatsapp_web import WhatsAppWeb
from postrider import notifications
from postrider.errors import Misconfigured
from postrider.settings import Rate, Settings

DEFAULT = "default"
"""The account of the environment."""
TOKENS = ("bot_token", "auth_token", "access_token")
"""What `token` may stand for."""
TARGETS = {"apprise_targets": "urls"}
"""Settings that hold many things by name in the environment -> the key of a table, which holds one, named as the account."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")

Key = tuple[str, str]
"""Messenger and account name."""
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class Paces(BaseModel):
    """What one account may do, where that is not what the environment says."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    rate: Rate | None = None
    """Messages per second; 0: no limit."""
    recipient_rate: Rate | None = None
    """Messages per second to one recipient."""
    daily_cap: Annotated[int, Field(ge=0)] | None = None
    """Messages per day; 0: no limit."""
    concurrency: PositiveInt | None = None
    """Sends under way at once in one worker."""


class PhonePaces(Paces):
    """What a linked phone may do besides: `gap_s` seconds, least and most, between two messages; nothing, unless it is `there`.

    `owner`: the id of the client whose it is; `shared`: everybody's.
    """

    gap_s: tuple[float, float] = (0.0, 0.0)
    there: bool = False
    owner: str = ""
    shared: bool = False


class Accounts(Mapping[Key, Messenger]):
    """Account -> its adapter; `paces` has what some may do that is not as the environment says.

    Sessions of linked phones come and go while others read: whoever iterates has the accounts of one moment.
    """

    phone: WhatsAppWeb | None = None
    """What the accounts of linked phones are made from, where a sidecar is set up."""

    def __init__(self) -> None:
        self._now: dict[Key, Messenger] = {}
        self.paces: dict[Key, Paces] = {}

    def __getitem__(self, key: Key) -> Messenger:
        return self._now[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._now)

    def __len__(self) -> int:
        return len(self._now)

    def items(self) -> ItemsView[Key, Messenger]:
        """All of this moment."""
        return self._now.items()

    def values(self) -> ValuesView[Messenger]:
        """All of this moment."""
        return self._now.values()

    def __setitem__(self, key: Key, adapter: Messenger) -> None:
        self._now = self._now | {key: adapter}

    def replace(
        self, service: str, accounts: Mapping[Key, Messenger], paces: Mapping[Key, Paces]
    ) -> None:
        """Makes these the accounts of a messenger, with what they may do."""
        self.paces = _others(self.paces, service) | dict(paces)
        self._now = _others(self._now, service) | dict(accounts)


def _others(known: Mapping[Key, T], service: str) -> dict[Key, T]:
    return {key: value for key, value in known.items() if key[0] != service}


@dataclass(frozen=True, slots=True)
class _Keys:
    """What a table of one messenger may hold: key -> setting, key -> setting whose value a file holds."""

    prefix: str
    plain: dict[str, str] = field(default_factory=dict)
    in_file: dict[str, str] = field(default_factory=dict)
    own: dict[str, None] = field(default_factory=dict)
    """Settings that say who an account is, so that no other can have them from the environment."""

    @classmethod
    def of(cls, service: str) -> "_Keys":
        prefix = _prefix(service)
        others = tuple(p for p in map(_prefix, MESSENGERS) if len(p) > len(prefix))
        keys = cls(prefix)
        needs = {need.lower() for need in MESSENGERS[service].needs}
        for name, info in Settings.model_fields.items():
            key = name.removeprefix(prefix)
            if (
                (key == name and name not in needs)
                or name.startswith(others)
                or key in Paces.model_fields
            ):
                continue
            secret = SecretStr in get_args(info.annotation)
            if name in TARGETS:
                key = TARGETS[name]
            for word in (key, "token") if key in TOKENS else (key,):
                keys.plain[word] = name
                if secret:
                    keys.in_file[f"{word}_file"] = name
            if secret or name.upper() in MESSENGERS[service].needs:
                keys.own[name] = None
        return keys

    def __str__(self) -> str:
        return ", ".join((*self.plain, *self.in_file, *Paces.model_fields))


def open_accounts(settings: Settings) -> Accounts:
    """Every account that is set up. Raises Misconfigured with every fault of the file."""
    env = settings.messenger_env()
    accounts = Accounts()
    for name, cls in MESSENGERS.items():
        adapter = cls.from_env(env)
        if isinstance(adapter, WhatsAppWeb):
            accounts.phone = adapter  # its accounts are sessions, which come and go
        elif adapter is not None:
            accounts[name, DEFAULT] = adapter
    path, faults = settings.accounts_file, list[str]()
    for key, table in _tables(path, faults):
        _open(accounts, key, table, settings, faults)
    if faults:
        raise Misconfigured(*(f"{path}: {fault}" for fault in faults))
    _with_targets(accounts, settings)
    return accounts


def _with_targets(accounts: Accounts, settings: Settings) -> None:
    """Makes each target an account. Raises Misconfigured, which names what Apprise makes nothing of."""
    mine = [a for a in accounts.values() if isinstance(a, apprise.Apprise)]
    if not mine:
        return
    targets: dict[str, tuple[apprise.Place, ...]] = {}
    faults = []
    for adapter in mine:
        for name, places in adapter.targets.items():
            if name in targets:
                faults.append(f"apprise.{name}: stands in APPRISE_TARGETS, too")
            found = [
                notifications.look(place.url, tls_verify=settings.tls_verify) for place in places
            ]
            faults += (
                f"apprise.{name}: Apprise makes nothing of URL number {n}"
                for n, place in enumerate(found, 1)
                if place is None
            )
            targets[name] = tuple(place for place in found if place)
    if faults:
        raise Misconfigured(*faults)
    every = apprise.Apprise(targets)
    accounts["apprise", DEFAULT] = every
    for name, adapter in every.single().items():
        accounts["apprise", name] = adapter
        paces = accounts.paces.get(("apprise", name), Paces())
        if paces.concurrency is None:
            paces = paces.model_copy(update={"concurrency": every.AT_ONCE})
        accounts.paces["apprise", name] = paces


def secrets(settings: Settings) -> Iterator[str]:
    """Every secret in the file, for who has to hide them; none of a file that cannot be read."""
    for (service, _), table in _tables(settings.accounts_file, []):
        keys = _Keys.of(service)
        for key, raw in table.items():
            if keys.plain.get(key) in keys.own and isinstance(raw, str):
                found = raw
            elif key in keys.in_file:
                found = _in_file(settings.accounts_file.parent / str(raw), []) or ""
            else:
                continue
            yield found
            if key.removesuffix("_file") in TARGETS.values():
                for url in found.split():
                    yield from apprise.secrets_in(url)


def _tables(path: Path, faults: list[str]) -> Iterator[tuple[Key, Mapping[str, Any]]]:
    """The accounts' tables; none where there is no file."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except UnicodeDecodeError:
        faults.append("is not UTF-8")
        return
    except OSError as error:
        faults.append(f"cannot be read: {error.strerror}")
        return
    except tomllib.TOMLDecodeError as error:
        # No more than where it is: its words may quote what stands there.
        place = re.search(r"\(at [^)]*\)", str(error))
        faults.append(f"cannot be read as TOML {place[0] if place else ''}".rstrip())
        return
    for service, accounts in document.items():
        if service not in MESSENGERS:
            known = ", ".join(sorted(MESSENGERS))
            faults.append(f"{service[:40]}: unknown messenger; there are {known}")
            continue
        tables = accounts.items() if isinstance(accounts, dict) else [("", None)]
        for name, table in tables:
            if isinstance(table, dict):
                yield (service, name), table
            else:
                faults.append(f"{service}.{name[:40]}: belongs below a line [{service}.NAME]")


def _open(
    accounts: Accounts, key: Key, table: Mapping[str, Any], settings: Settings, faults: list[str]
) -> None:
    """Adds the account that `table` describes, or its faults."""
    service, name = key
    keys, told = _Keys.of(service), list[str]()
    if service == WhatsAppWeb.name:
        faults.append(f"{service}: its sessions are added by `postrider sessions add`, not here")
        return
    if not _NAME.fullmatch(name):
        told.append(": a name has 1 to 32 letters, digits, - and _")
    if name == DEFAULT:
        told.append(": that name is the environment's; choose another")
    values, words = _values(keys, table, settings.accounts_file.parent, told)
    for setting, word in TARGETS.items():
        if setting in values:
            if any("=" in url.partition("://")[0] for url in values[setting].split()):
                told.append(f".{word}: holds URLs, with spaces between, and no names")
            values[setting] = f"{name}={values[setting]}"
    paces = _valid(
        Paces, {k: values.pop(k) for k in Paces.model_fields if k in values}, words, told
    )
    inherited = {
        k: v for k, v in settings.model_dump(exclude=set(keys.own)).items() if v is not None
    }
    own = _valid(Settings, inherited | values, words, told)
    needs = [need.lower() for need in MESSENGERS[service].needs]
    missing = [
        TARGETS.get(need, need.removeprefix(keys.prefix)) for need in needs if need not in values
    ]
    if missing and not told:
        told.append(f": {' and '.join(missing)} is missing")
    if (
        own
        and paces
        and not told
        and (adapter := MESSENGERS[service].from_env(own.messenger_env()))
    ):
        accounts[key] = adapter
        accounts.paces[key] = paces
    faults += (f"{service}.{name[:40]}{fault}" for fault in told)


def _values(
    keys: _Keys, table: Mapping[str, Any], folder: Path, told: list[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Setting -> what the table gives it, as the environment would; and setting -> its key in the table."""
    values: dict[str, str] = {}
    words: dict[str, str] = {}
    for key, raw in table.items():
        name = keys.plain.get(key) or keys.in_file.get(key) or key
        faults: list[str] = []
        if name == key and key not in Paces.model_fields:
            faults.append(f"unknown; it may hold {keys}")
        elif not isinstance(raw, str | int | float):
            faults.append("must be a text, a number, true or false")
        elif name in values:
            faults.append("given twice")
        else:
            text = raw if isinstance(raw, str) else str(raw).lower()
            value = _in_file(folder / text, faults) if key in keys.in_file else text.strip()
            if value:
                values[name], words[name] = value, key
            elif not faults:
                faults.append("is empty")
        told += (f".{key[:40]}: {fault}" for fault in faults)
    return values, words


def _in_file(path: Path, faults: list[str]) -> str | None:
    try:
        if secret := path.read_text(encoding="utf-8").strip():
            return secret
        faults.append(f"{path} is empty")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        faults.append(f"cannot read {path}: {why}")
    return None


def _valid(
    model: type[M], values: Mapping[str, Any], words: Mapping[str, str], told: list[str]
) -> M | None:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for fault in error.errors(include_input=False, include_url=False):
            name = str(fault["loc"][0]) if fault["loc"] else "settings"
            told.append(f".{words.get(name, name)}: {fault['msg'].removeprefix('Value error, ')}")
        return None


def _prefix(service: str) -> str:
    return service.replace("-", "_") + "_"
