"""A messenger that is none: an HTTP server on loopback that records every request and answers, or misbehaves, as told.

It speaks Telegram's, Viber's and WhatsApp's form by the path that is called. It writes its own HTTP, so that it can also
write it badly.
"""

import asyncio
import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.client import responses
from typing import Any, Self
from urllib.parse import unquote

import uvloop

from postrider.selftest.forms import Upload, parts_of


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it came. `at` is seconds since the epoch."""

    at: float
    path: str
    headers: dict[str, str]
    json: dict[str, Any]
    """Its object; of a form, the fields."""
    uploads: dict[str, Upload] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """What was called: `sendPhoto`, `media`."""
        return self.path.rpartition("/")[2]

    @property
    def service(self) -> str:
        """The messenger that was meant."""
        if self.path.startswith("/bot"):
            return "telegram"
        return "viber" if self.path.startswith("/pa/") else "whatsapp"

    @property
    def to(self) -> str:
        """Whom it was for, in any messenger's form."""
        return str(
            next(self.json[k] for k in ("chat_id", "receiver", "to", "recipient") if k in self.json)
        )

    @property
    def receivers(self) -> list[str]:
        """Everybody it was for: one, but for Viber's broadcasts; nobody, when it is no message at all."""
        if "broadcast_list" in self.json:
            return [str(each) for each in self.json["broadcast_list"]]
        named = any(k in self.json for k in ("chat_id", "receiver", "to", "recipient"))
        return [self.to] if named else []

    @property
    def text(self) -> str:
        """What it said."""
        text = self.json.get("text", "")
        return str(text["body"] if isinstance(text, dict) else text)


@dataclass(frozen=True, slots=True)
class Answer:
    """What to say. `cut`: read the request, then close the connection without a word.

    `parts`: write these bytes as they are, `every_s` apart, instead of an HTTP answer made of the rest.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    after_s: float = 0.0
    cut: bool = False
    parts: Iterable[bytes] | None = None
    every_s: float = 0.0

    @property
    def takes(self) -> bool:
        """Whether the messenger has the message, for all that we can know: what is not refused may be taken."""
        return self.cut or self.parts is not None or 200 <= self.status <= 299


Script = Callable[[Call], Answer | None]
"""What to answer to a call; None: yes, in the messenger's own form."""


def says(status: int = 200, *, after_s: float = 0.0, **body: Any) -> Answer:
    """An answer with a JSON object."""
    return Answer(status, json.dumps(body).encode(), {"Content-Type": "application/json"}, after_s)


def yes(call: Call, n: int, after_s: float = 0.0) -> Answer:
    """What the messenger says that has taken `call` as its message number `n`."""
    if call.service == "telegram":
        return says(ok=True, result=_made(call, n), after_s=after_s)
    if call.method == "media":
        return says(id=f"media.{n}", after_s=after_s)
    if call.service == "whatsapp":
        return says(messaging_product="whatsapp", messages=[{"id": f"wamid.{n}"}], after_s=after_s)
    viber: dict[str, object] = {"status": 0, "status_message": "ok", "message_token": n}
    if "broadcast_list" in call.json:
        viber["failed_list"] = []
    return Answer(body=json.dumps(viber).encode(), after_s=after_s)


def _made(call: Call, n: int) -> object:
    """The message that Telegram makes of it, or the messages of an album."""
    kinds = ("photo", "video", "audio", "voice", "animation", "sticker", "document")
    if call.method == "sendMediaGroup":
        media = json.loads(call.json["media"]) if call.uploads else call.json["media"]
        return [
            _showing({"message_id": n + index}, each["type"], each["media"], n + index)
            for index, each in enumerate(media)
        ]
    kind = next((kind for kind in kinds if kind in call.json or kind in call.uploads), None)
    return _showing({"message_id": n}, kind, call.json.get(kind or ""), n)


def _showing(message: dict[str, Any], kind: str | None, media: str | None, n: int) -> object:
    if kind is None:
        return message
    new = not media or media.startswith(("attach://", "http"))
    shown = {"file_id": f"file-{n}" if new else media}
    return message | {kind: [{"file_id": "thumb"}, shown] if kind == "photo" else shown}


RATES = [
    f"{name}_{rate}"
    for name in ("TELEGRAM", "VIBER", "WHATSAPP")
    for rate in ("RATE", "RECIPIENT_RATE")
]


class FakeMessenger:
    """The server, in a thread of its own. Use as a context manager; `script` may be set at any time."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.took: list[Call] = []
        """Those of `calls` whose message the messenger has."""
        self.script: Script = lambda _: None
        self.reads_s = 0.0
        """Seconds that it takes over each 64 KiB of a body."""
        self._ids = itertools.count(1)
        self._connections: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        # Bound and never listened on: it keeps the port ours while the door is shut.
        self._hold = socket.socket()
        self._hold.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._hold.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._hold.getsockname()[1]}"
        self._thread.start()
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.shut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._hold.close()

    def open(self) -> None:
        """From now on connections are taken."""
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)

    def shut(self) -> None:
        """From now on connections are refused; those that stand are cut."""
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(10)

    async def _open(self) -> None:
        door = socket.socket()
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        door.bind(self._hold.getsockname())
        self._server = await asyncio.start_server(self._connected, sock=door, backlog=1024)

    async def _shut(self) -> None:
        self._server.close()
        standing = list(self._connections)
        for task in standing:
            task.cancel()
        await asyncio.gather(*standing, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; False when the connection is of no more use."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        at = time.time()
        first, *lines = head[:-4].split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        length = next((int(v) for k, v in headers.items() if k.lower() == "content-length"), 0)
        raw = await self._read(reader, length)
        path = unquote(first.split(" ")[1].partition("?")[0])
        content_type = next((v for k, v in headers.items() if k.lower() == "content-type"), "")
        if content_type.startswith("multipart/form-data"):
            call = Call(at, path, headers, *parts_of(raw, content_type))
        else:
            call = Call(at, path, headers, json.loads(raw) if raw else {})
        answer = self.script(call) or yes(call, next(self._ids))
        self.calls.append(call)
        if answer.takes:
            self.took.append(call)
        await asyncio.sleep(answer.after_s)
        if answer.cut:
            return False
        if answer.parts is None:
            writer.write(_http(answer))
            return True
        for part in answer.parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(answer.every_s)
        return False

    async def _read(self, reader: asyncio.StreamReader, length: int) -> bytes:
        if not self.reads_s:
            return await reader.readexactly(length)
        body = b""
        while len(body) < length:
            body += await reader.readexactly(min(64 * 1024, length - len(body)))
            await asyncio.sleep(self.reads_s)
        return body

    def env(self) -> dict[str, str]:
        """The settings that make this server all three messengers, as fast as they come."""
        return {
            **dict.fromkeys(RATES, "0"),
            "TELEGRAM_API_URL": self.url,
            "TELEGRAM_BOT_TOKEN": "123:planted-telegram-secret",
            "VIBER_API_URL": self.url,
            "VIBER_AUTH_TOKEN": "planted-viber-secret",
            "WHATSAPP_API_URL": self.url,
            "WHATSAPP_ACCESS_TOKEN": "planted-whatsapp-secret",
            "WHATSAPP_PHONE_NUMBER_ID": "106540352242922",
        }


def _http(answer: Answer) -> bytes:
    headers = {"Content-Length": str(len(answer.body)), **answer.headers}
    lines = [
        f"HTTP/1.1 {answer.status} {responses.get(answer.status, '')}",
        *(f"{k}: {v}" for k, v in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + answer.body
