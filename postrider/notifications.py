"""Carries notifications by Apprise. It is loaded where a target is set up, and nowhere else: half a second, and 30 MB.

One call of its `notify` for each URL, without retries of its own, in a thread that is left behind when it takes too long.
Its log is where it says what went wrong: each call has a logger of its own, which nobody else hears.
"""

import json
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryDirectory
from typing import Any

from messengers.apprise import Notification, Place
from messengers.base import Errand, File, NoReply, Reply

CONNECT_S = 5.0
READ_S = 10.0
WHOLE_S = 30.0
"""Seconds for one call."""
AT_ONCE = 8
"""Calls of one URL under way in a process, those that were left behind included."""
LINES, LINE = 50, 2_000
BYTES_A_S = 256 * 1024
log = logging.getLogger("postrider.notifications")
_STATUS = re.compile(r"\berror[=: ]+([1-5]\d\d)\b")
_NOTHING_LEFT = re.compile(
    r"NewConnectionError|ConnectTimeout|NameResolution|SSLError|ProxyError|InvalidURL"
    r"|Connection refused|unreachable|Name or service"
)
_LEFT = re.compile(
    r"[Rr]ead ?[Tt]ime|timed out|aborted|[Rr]eset|Disconnected|Incomplete|Broken pipe"
)


def look(url: str, *, tls_verify: bool = True) -> Place | None:
    """What a URL leads to; None when Apprise makes nothing of it. Asks nobody."""
    plugin = _plugin(url, tls_verify=tls_verify)
    if plugin is None:
        return None
    cuts = plugin.overflow_mode.value != "upstream"
    return Place(
        url,
        str(plugin.service_name),
        takes_files=bool(plugin.attachment_support),
        limit=0 if cuts else max(0, plugin.body_maxlen),
    )


class Notifications:
    """The carrier of notifications."""

    def __init__(self, *, tls_verify: bool = True) -> None:
        self._tls_verify = tls_verify
        self._lock = threading.Lock()
        self._under_way: Counter[str] = Counter()

    def carry(self, errand: Errand, whole_s: float = WHOLE_S) -> Reply | NoReply:
        """What became of it at each of its places within this time, as JSON."""
        if not isinstance(errand, Notification):
            raise TypeError(f"this is a {type(errand).__name__}")
        try:
            folder = Folder(errand.files) if errand.files else None
        except OSError as error:
            log.error("a file cannot be read: %s", error.strerror or error)  # noqa: TRY400 - no more is to be told
            return NoReply(left=False, reason="a file of it cannot be read")
        whole_s += sum(file.size for file in errand.files) / BYTES_A_S
        until = time.monotonic() + whole_s
        try:
            calls = [self._start(errand, url, folder) for url in errand.urls]
        finally:
            if folder:
                folder.leave()
        places = [call.told(until) for call in calls]
        told = {"key": errand.key, "places": places}
        return Reply(200, json.dumps(told).encode())

    def _start(self, errand: Notification, url: str, folder: "Folder | None") -> "_Call":
        call = _Call(errand, url, folder, tls_verify=self._tls_verify)
        with self._lock:
            if self._under_way[url] >= AT_ONCE:
                call.refuse(f"{AT_ONCE} earlier calls have not come back")
                return call
            self._under_way[url] += 1
        if folder:
            folder.use()
        threading.Thread(target=self._run, args=(call,), name="apprise", daemon=True).start()
        return call

    def _run(self, call: "_Call") -> None:
        try:
            call.make()
        finally:
            if call.folder:
                call.folder.leave()
            with self._lock:
                self._under_way[call.url] -= 1
                if not self._under_way[call.url]:
                    del self._under_way[call.url]


class _Call:
    """One URL that is asked to take one notification."""

    def __init__(
        self, errand: Notification, url: str, folder: "Folder | None", *, tls_verify: bool
    ) -> None:
        self.url = url
        self.folder = folder
        self._errand = errand
        self._tls_verify = tls_verify
        self._ended = threading.Event()
        self._told: dict[str, Any] = {}

    def refuse(self, why: str) -> None:
        """Ends it before it begins."""
        self._told = {"ok": False, "left": False, "words": why}
        self._ended.set()

    def make(self) -> None:
        """Asks, and keeps what came of it."""
        try:
            self._told = self._made()
        except Exception:
            log.exception("delivery %s: Apprise broke", self._errand.key)
            self._told = {"ok": False, "left": True, "words": "internal error"}
        self._ended.set()

    def told(self, until: float) -> dict[str, Any]:
        """What came of it until then; whatever comes later nobody hears."""
        if self._ended.wait(max(0.0, until - time.monotonic())):
            return self._told
        return {"ok": False, "left": True, "words": "no answer in time"}

    def _made(self) -> dict[str, Any]:
        plugin = _plugin(self.url, tls_verify=self._tls_verify)
        if plugin is None:
            return {"ok": False, "left": False, "words": "Apprise makes nothing of this URL"}
        from apprise import Apprise, AppriseAttachment  # noqa: PLC0415 - as above
        from apprise.attachment.file import AttachFile  # noqa: PLC0415

        on_disk: Any = AttachFile
        plugin.logger = heard = _Heard()
        attached = AppriseAttachment(asset=plugin.asset)
        files = zip(self.folder.paths, self._errand.files, strict=True) if self.folder else ()
        for path, file in files:
            attached.add(on_disk(str(path), name=file.name, mimetype=file.media_type))
        places = Apprise(asset=plugin.asset)
        places.add(plugin)
        with places.notify(
            body=self._errand.body,
            title=self._errand.title,
            body_format=self._errand.format or None,
            attach=attached if len(attached) else None,
        ) as result:
            ok = bool(result)
        return {"service": str(plugin.service_name), "ok": ok} | ({} if ok else heard.failure())


class _Heard(logging.Logger):
    """What one call logs, the first lines of it; nobody else hears them."""

    def __init__(self) -> None:
        super().__init__("apprise", logging.DEBUG)
        self._said: list[tuple[int, str]] = []

    def handle(self, record: logging.LogRecord) -> None:
        """Keeps a line, unless it shows what was sent, which may be long and is nobody's concern."""
        if len(self._said) < LINES and "ayload" not in str(record.msg):
            self._said.append((record.levelno, record.getMessage()[:LINE]))

    def failure(self) -> dict[str, Any]:
        """Why it failed: words, HTTP status if one was told, whether it may have arrived all the same."""
        loud = [said for level, said in self._said if level >= logging.WARNING]
        # Apprise's own words for it; what was sent or answered may hold any others.
        every = "\n".join(said for _, said in self._said if "xception" in said[:40])
        status = _STATUS.findall("\n".join(loud))
        left = bool(_LEFT.search(every)) and not _NOTHING_LEFT.search(every)
        found: dict[str, Any] = {"words": " ".join(loud), "left": left}
        return found | ({"status": int(status[-1])} if status else {})


class Folder:
    """Files under their own names, for as long as anybody uses them. Apprise names what it sends as its file is named."""

    def __init__(self, files: Sequence[File]) -> None:
        self._folder = TemporaryDirectory(prefix="postrider-")
        self._lock = threading.Lock()
        self._users = 1  # who made it, until all are asked
        self.paths: list[Path] = []
        try:
            for n, file in enumerate(files):
                path = Path(self._folder.name, str(n), file.name)
                path.parent.mkdir(mode=0o700)
                with file.open() as content, path.open("xb") as copy:
                    copyfileobj(content, copy)
                self.paths.append(path)
        except BaseException:
            self._folder.cleanup()
            raise

    def use(self) -> None:
        """Says that one more uses them."""
        with self._lock:
            self._users += 1

    def leave(self) -> None:
        """Deletes them with the last who used them."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._folder.cleanup()


def _plugin(url: str, *, tls_verify: bool) -> Any:
    """Apprise's own object for a URL, within our limits; None when it makes nothing of it."""
    # Its own logger tells URLs; what is of concern we tell in words of our own.
    logging.getLogger("apprise").disabled = True
    from apprise import Apprise, AppriseAsset, URLBase  # noqa: PLC0415 - half a second, and 30 MB

    asset = AppriseAsset(
        app_id="Postrider",
        app_desc="Postrider",
        storage_mode="memory",
        http_redirects=False,
        secure_logging=True,
        interpret_escapes=False,
        interpret_emojis=False,
        service_timeout=0,  # its own would take threads that all calls share
    )
    plugin: Any = Apprise.instantiate(url, asset=asset)
    if plugin is None:
        return None
    plugin.retry = 0
    if not tls_verify:
        plugin.verify_certificate = False
    if plugin.socket_connect_timeout == URLBase.socket_connect_timeout:
        plugin.socket_connect_timeout = CONNECT_S
    if plugin.socket_read_timeout == URLBase.socket_read_timeout:
        plugin.socket_read_timeout = READ_S
    return plugin
