"""What is well with settings, Redis, workers and messengers, and what is not, with a remedy; who has written to our bots."""

import stat
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import redis
from urllib3.exceptions import InsecureRequestWarning

from messengers import MESSENGERS
from messengers.abilities import Targets
from messengers.base import (
    Identity,
    Messenger,
    NoReply,
    Person,
    Rejected,
    Reply,
    Request,
    Retry,
    Unclear,
)
from messengers.inward import Webhook
from messengers.whatsapp_web import WhatsAppWeb
from postrider import demands, embedded, link, queue, room, signing, stopping
from postrider.accounts import DEFAULT
from postrider.changes import Changes
from postrider.errors import Misconfigured, Unavailable
from postrider.inbox import Inbox
from postrider.keys import Keys
from postrider.outbox import Outbox
from postrider.records import account_key
from postrider.service import RESCUE_AFTER_S, open_accounts
from postrider.settings import Settings
from postrider.spelling import misspelt
from postrider.standing import standings
from postrider.store import Store
from postrider.transport import Blocking
from postrider.vault import Vault

SKEW_S = 2.0
"""Seconds that this clock and Redis's may be apart."""
REDIS_WAIT_S = 2.0
NEARLY = 0.70
"""Of maxmemory: from here on it is near that nothing is accepted."""
URLS = {"mail": "SMTP_URL"}
"""Where a messenger is, where that is not its name and `_API_URL`."""
RESTART = "then start again"

State = Literal["ok", "warning", "fault", "off"]
"""Of one thing. `off`: not set up, which is no fault."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. `remedy` says what to do, unless all is well."""

    name: str
    state: State
    detail: str
    remedy: str = ""


@runtime_checkable
class KnowsPeople(Protocol):
    """What an adapter has besides when its messenger tells who has written."""

    def people_request(self) -> Request:
        """Asks who has written lately."""

    def read_people(self, reply: Reply) -> list[Person]:
        """They, each once; [] also when it cannot be asked."""


@dataclass(slots=True)
class Report:
    """All that was found. `people`: messenger/account -> who has written to it."""

    checks: list[Check] = field(default_factory=list)
    people: dict[str, dict[str, Person]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Nothing is at fault."""
        return all(check.state != "fault" for check in self.checks)

    def meet(self, account: str, people: Sequence[Person]) -> None:
        """Adds people of one account."""
        self.people.setdefault(account, {}).update({person.to: person for person in people})


def examine(about_to: Callable[[str], None] = lambda _: None) -> Report:
    """Everything, in the order in which one thing stands on another. Tells `about_to` what may take a while."""
    report = Report()
    try:
        report.checks.append(_env_file(Path(".env")))
        settings = Settings.from_env()
        if settings.accounts_file.exists():
            report.checks.append(_env_file(settings.accounts_file))
        accounts = open_accounts(settings)
    except Misconfigured as error:
        remedy = f"correct it in .env or in the environment, {RESTART}"
        report.checks += [Check("settings", "fault", fault, remedy) for fault in error.faults]
        return report
    report.checks += _settings(settings, accounts)
    report.checks += _keys(settings)
    about_to("Redis")
    try:
        with link.connect(settings.redis_address) as client:
            report.checks += _redis(settings)
            stops = list(_stops(client))
            report.checks += [_workers(settings, client), *stops, _backlog(client, bool(stops))]
            report.checks += _events(client)
            report.checks += _pauses(client, [account_key(*key) for key in accounts])
            for (service, account), adapter in accounts.items():
                if isinstance(adapter, KnowsPeople) or _calls_us(adapter):
                    name = f"{service}/{account}"
                    report.meet(name, Inbox(client).people(name))
    except Misconfigured as error:  # it does not answer
        remedy = (
            "correct REDIS_URL, or start that Redis"
            if settings.redis_url
            else "./run.sh starts it; if it runs, run this where its .env and DATA_DIR are"
        )
        words = (fault.partition("; ")[0] for fault in error.faults)
        report.checks += [Check("Redis", "fault", word, remedy) for word in words]
    except (Unavailable, *queue.ERRORS) as error:
        remedy = "let our user do it (redis.io/docs: ACL), and run this again"
        report.checks.append(Check("Redis", "fault", f"fails a call: {error}", remedy))
    transport = Blocking(lambda _: None, tls_verify=settings.tls_verify)
    about_to("the API")
    report.checks.append(_api(settings))
    for (service, account), adapter in accounts.items():
        about_to(service)
        report.checks.append(check := _account(service, account, adapter, transport))
        if check.state == "ok" and isinstance(adapter, KnowsPeople):
            reply = transport.send(adapter.people_request())
            found = adapter.read_people(reply) if isinstance(reply, Reply) else []
            report.meet(f"{service}/{account}", found)
    report.checks += _not_set_up(settings, accounts)
    return report


# -- settings


def _env_file(path: Path) -> Check:
    """Nobody else may read the file with the secrets."""
    name, place = path.name, path.resolve()
    try:
        mode = stat.S_IMODE(place.stat().st_mode)
    except FileNotFoundError:
        return Check(name, "ok", f"none in {place.parent}: settings come from the environment")
    if mode & 0o077:
        detail = f"{place} has mode {mode:o}: others on this machine can read its secrets"
        return Check(name, "warning", detail, f"chmod 600 {place}")
    return Check(name, "ok", f"{place}, for its owner only")


def _calls_us(adapter: object) -> bool:
    return isinstance(adapter, Webhook) and not adapter.webhook_lacks()


def _settings(settings: Settings, accounts: Mapping[tuple[str, str], Messenger]) -> Iterator[Check]:
    yield Check("settings", "ok", f"all valid; times are in {settings.tz}")
    for words in misspelt():
        yield Check("misspelt", "warning", words, f"correct it in .env, {RESTART}")
    callers = ", ".join(sorted({s for (s, _), a in accounts.items() if _calls_us(a)}))
    url = settings.public_url or ""
    if not callers:
        detail = url or "not set; no messenger that is set up needs it"
        yield Check("PUBLIC_URL", "ok" if url else "off", detail)
    elif url.startswith("https://"):
        yield Check("PUBLIC_URL", "ok", f"{url}, where {callers} calls us")
    else:
        what = f"{url} is not https://" if url else "not set"
        remedy = f"set it to the https:// address of this API, then: postrider hooks set {callers}"
        detail = f"{what}, and {callers} sends nothing before it can call us"
        yield Check("PUBLIC_URL", "fault", detail, remedy)


def _api(settings: Settings) -> Check:
    """Whether it can be reached as those on this machine reach it."""
    if settings.api_password is None:
        remedy = "write API_PASSWORD into .env, or let ./run.sh make one"
        return Check("API", "fault", "API_PASSWORD is not set, so the API does not start", remedy)
    # Its certificate is for the name by which others know it, and nothing is told that only it may know.
    own = Blocking(lambda _: None, tls_verify=False)
    with warnings.catch_warnings(action="ignore", category=InsecureRequestWarning):
        reply = own.send(Request("GET", f"{settings.url}/healthz"))
    if isinstance(reply, Reply) and reply.status == 200:
        return Check("API", "ok", f"{settings.url}, for the user {settings.api_user}")
    why = f"HTTP {reply.status}" if isinstance(reply, Reply) else reply.reason
    remedy = "./run.sh starts it; where it runs on another machine, ask there"
    return Check("API", "warning", f"{settings.url} does not answer: {why}", remedy)


# -- encryption


def _keys(settings: Settings) -> Iterator[Check]:
    """What files are encrypted for, and what is kept encrypted by."""
    try:
        keys, kept = Keys(settings.keys_dir), Vault(settings.keys_dir / "at-rest")
        there, at_rest = len(keys.every()), len(kept.ids())
    except (OSError, ValueError) as error:
        remedy = f"put it back from a backup, {RESTART}"
        yield Check("keys", "fault", f"{settings.keys_dir} cannot be read: {error}", remedy)
        return
    rings = (keys.ring, kept.ring, signing.ring(settings.keys_dir))
    paths = [path for ring in rings for path in (*ring.paths(), ring.folder) if path.exists()]
    if exposed := [path for path in paths if path.stat().st_mode & 0o077]:
        detail = f"{exposed[0]} is open to others on this machine"
        yield Check("keys", "fault", detail, f"chmod -R go= {settings.keys_dir}")
    elif there:
        older = f", {there - 1} older still open files" if there > 1 else ""
        yield Check("keys", "ok", f"one is given to clients{older}; for their owner only")
    else:
        yield Check("keys", "off", "none yet: the API makes one as it starts")
    count = f"{at_rest} key{'' if at_rest == 1 else 's'}"
    if settings.encrypt_at_rest:
        yield Check("at rest", "ok", f"texts and files are kept encrypted; {count}")
    else:
        more = f"; {count} for what was encrypted before" if at_rest else ""
        yield Check("at rest", "off", f"texts and files are kept as they are{more}")


# -- Redis


def _redis(settings: Settings) -> Iterator[Check]:
    """Raises Misconfigured when it does not answer."""
    with embedded.wait_ready(settings, REDIS_WAIT_S) as client:
        server: Any = client.info()
        place = "embedded" if settings.redis_url is None else "by REDIS_URL"
        yield Check("Redis", "ok", f"{server['redis_version']}, {place}")
        yield from _durability(settings, client, server)
        yield from _writes(client)
        yield judge_memory(room.Memory.of(client))
        before = time.time()
        seconds, micros = client.time()
        here = (before + time.time()) / 2
        yield judge_clock(here, seconds + micros / 1e6)


def _durability(settings: Settings, client: redis.Redis, server: Any) -> Iterator[Check]:
    """Whether Redis keeps what it takes. `server`: its INFO."""
    try:
        warnings = demands.check(settings, client)
    except Misconfigured as error:
        yield from (_named("durability", "fault", fault) for fault in error.faults)
        return
    yield from (_named("durability", "warning", warning) for warning in warnings)
    if not warnings:
        kept = (
            "an append-only file is kept"
            if server["aof_enabled"]
            else "no file is kept, as DURABILITY=none accepts"
        )
        yield Check(
            "durability", "ok", f"nothing is evicted ({server['maxmemory_policy']}), {kept}"
        )


def _writes(client: redis.Redis) -> Iterator[Check]:
    """What hinders them, unless it is memory, which has a check of its own."""
    try:
        queue.prepare(client)
    except redis.exceptions.OutOfMemoryError:
        return
    except redis.ResponseError as error:
        detail = link.why_unavailable(error) or f"a write fails: {error}"
        yield Check("Redis writes", "fault", detail, _remedy(str(error)))


def _remedy(error: str) -> str:
    match error.partition(" ")[0]:
        case "MISCONF":
            return "make room on its disk, and see its log"
        case "NOREPLICAS":
            return "bring its replicas back; min-replicas-to-write says how many it must have"
    return "see its log"


def judge_memory(memory: room.Memory) -> Check:
    """Bytes used, and how many may be."""
    if not memory.limit:
        remedy = "CONFIG SET maxmemory to what it may use, and the same in redis.conf"
        detail = f"{_size(memory.used)} used, and no limit: the kernel may end Redis when memory runs out"
        return Check("Redis memory", "warning", detail, remedy)
    share = memory.used / memory.limit
    detail = f"{_size(memory.used)} of {_size(memory.limit)} used ({share:.0%})"
    if memory.waiting:
        detail += f", {memory.once_sent / memory.limit:.0%} once all that waits is sent"
    remedy = "raise maxmemory (REDIS_MAXMEMORY for the embedded Redis), or: postrider purge"
    if memory.left <= 0:
        return Check("Redis memory", "fault", f"{detail}: nothing more is accepted", remedy)
    if share >= NEARLY:
        detail += f": from {room.FULL:.0%} on nothing is accepted"
        return Check("Redis memory", "warning", detail, remedy)
    return Check("Redis memory", "ok", detail)


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def judge_clock(here: float, redis_: float) -> Check:
    """This clock and Redis's, in seconds since the epoch."""
    skew_s = here - redis_
    if abs(skew_s) <= SKEW_S:
        return Check("clock", "ok", f"within {max(abs(skew_s), 0.001):.3f} s of Redis's")
    which = "ahead of" if skew_s > 0 else "behind"
    detail = f"{abs(skew_s):.1f} s {which} Redis's, which decides when a message is due"
    return Check("clock", "fault", detail, "set both by NTP: timedatectl set-ntp true")


def _workers(settings: Settings, client: redis.Redis) -> Check:
    if queue.any_worker(client):
        return Check("workers", "ok", "at work")
    remedy = (
        "./run.sh starts them, postrider worker starts one"
        if settings.workers
        else "WORKERS=0 starts none: start rqscheduler and rq worker, or postrider worker"
    )
    return Check("workers", "fault", "none is alive, so nothing is sent", remedy)


def _stops(client: redis.Redis) -> Iterator[Check]:
    """What operators let not leave."""
    for name, (at, by) in sorted(Changes(client).stops().items()):
        what = "everything" if name == stopping.EVERYTHING else name
        detail = f"{what} is stopped since {at:%Y-%m-%d %H:%M:%S} UTC, by {by or 'nobody known'}"
        yield Check("stops", "warning", detail, "postrider go-on lets it leave again")


def _backlog(client: redis.Redis, stopped: bool) -> Check:
    """What stands where. `stopped`: something is, so that it may be late for that."""
    counts = Store(client).counts(late_s=RESCUE_AFTER_S)
    queued = sum(queue.lengths(client).values())
    detail = (
        f"{counts.waiting} waiting ({queued} queued), {counts.sending} being sent,"
        f" {counts.finished} finished, {counts.failed} failed"
    )
    if counts.late:
        detail = f"{counts.late} are more than {RESCUE_AFTER_S:.0f} s late; {detail}"
        remedy = (
            "see what is stopped above, or where a messenger is off or at fault below;"
            if stopped
            else "is their messenger off or at fault below? If none is,"
        )
        return Check("deliveries", "warning", detail, f"{remedy} run more workers: WORKERS")
    if counts.held:
        detail = f"{counts.held} unknown: they may have arrived; {detail}"
        return Check("deliveries", "warning", detail, "postrider finished lists them")
    return Check("deliveries", "ok", detail)


def _events(client: redis.Redis) -> Iterator[Check]:
    """Callbacks that nobody posts."""
    count, since = Outbox(client).waiting()
    waited_s = (Store(client).now() - since).total_seconds() if since else 0.0
    if waited_s > RESCUE_AFTER_S:
        detail = f"{count} events wait to be posted, the oldest for {waited_s:.0f} s"
        remedy = "is a courier alive? ./run.sh starts it, postrider courier starts one"
        yield Check("callbacks", "fault", detail, remedy)


def _pauses(client: redis.Redis, accounts: Sequence[str]) -> Iterator[Check]:
    """Accounts whose deliveries wait, because their messenger asked for it or does not answer."""
    for account, stands in standings(client, accounts).items():
        if (pause := stands.pause) is None:
            continue
        until = f"sends nothing before {pause.until:%Y-%m-%d %H:%M:%S} UTC"
        if pause.kind == "refused":
            remedy = f"mend it there, or correct its settings, {RESTART}; no delivery loses a try"
            yield Check(account, "fault", f"is refused and {until}: {pause.why}", remedy)
        else:
            remedy = "nothing, if that will pass: it goes on by itself, and no delivery loses a try"
            yield Check(account, "warning", f"{until}: {pause.why}", remedy)


def _named(name: str, state: State, fault: str) -> Check:
    """What `demands.check` found: it puts the remedy behind the last colon."""
    detail, _, remedy = fault.rpartition(": ")
    return Check(name, state, detail, remedy)


# -- messengers


def _account(service: str, account: str, adapter: Messenger, transport: Blocking) -> Check:
    """What the messenger answers when it is asked who we are."""
    name = service if account == "default" else f"{service}/{account}"
    request = adapter.whoami()
    if request is None:
        reaches: object = adapter
        detail = reaches.described() if isinstance(reaches, Targets) else "needs no account"
        return Check(name, "ok", detail)
    settings, url = " and ".join(adapter.needs), URLS.get(service, f"{service.upper()}_API_URL")
    if account != DEFAULT:
        settings = url = f"[{service}.{account}] in the file of accounts"
    reply = transport.send(request)
    if isinstance(reply, NoReply):
        return Check(
            name, "fault", f"cannot be asked: {reply.reason}", f"check the network and {url}"
        )
    match adapter.read_whoami(reply):
        case Identity(who):
            return Check(name, "ok", f"we are {who}")
        case Retry(reason, pauses=pauses) if reply.status == 429 or pauses != "account":
            return Check(name, "warning", f"not now: {reason}", "run postrider doctor again later")
        case Retry(reason) | Rejected(reason):
            return Check(name, "fault", f"refuses us: {reason}", f"check {settings}, {RESTART}")
        case Unclear(reason):
            return Check(name, "fault", f"makes no sense: {reason}", f"check {url}, {RESTART}")


def _not_set_up(
    settings: Settings, accounts: Mapping[tuple[str, str], Messenger]
) -> Iterator[Check]:
    env = settings.messenger_env()
    there = {service for service, _ in accounts}
    for name, adapter in MESSENGERS.items():
        if name in there:
            continue
        if name == WhatsAppWeb.name and adapter.from_env(env):
            yield Check(name, "off", "no phone is linked yet", "postrider sessions add NAME")
            continue
        lacks = [need for need in adapter.needs if not env.get(need)] or ["SANDBOX=on"]
        if 0 < len(lacks) < len(adapter.needs):
            detail = f"half set up: {' and '.join(lacks)} is missing"
            yield Check(name, "warning", detail, f"set {' and '.join(lacks)}, {RESTART}")
        else:
            yield Check(name, "off", "not set up", f"set {' and '.join(lacks)}")
