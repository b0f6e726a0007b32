"""A Slack on loopback, for slack_sdk: it takes what Slack takes, refuses what Slack refuses, and knows what became of it.

https://docs.slack.dev/reference/methods
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs

TOKEN = "xoxb-planted-slack-token"
CHANNEL = "C0WHATSAPP"
NEEDS = {
    "conversations.list": (),
    "chat.postMessage": ("channel", "text"),
    "chat.update": ("channel", "ts", "text"),
    "chat.delete": ("channel", "ts"),
    "files.getUploadURLExternal": ("filename", "length"),
    "files.completeUploadExternal": ("files",),
    "files.delete": ("file",),
}


@dataclass
class Picture:
    """A file: `shared` once it is in the channel."""

    id: str
    name: str
    length: int
    content: bytes = b""
    title: str = ""
    shared: bool = False
    deleted: bool = False


@dataclass
class Said:
    """A message, and every text it has had."""

    ts: str
    texts: list[str]
    deleted: bool = False

    @property
    def text(self) -> str:
        return self.texts[-1]


@dataclass
class Answer:
    """What to say instead. `after_s`: seconds before anything is said."""

    status: int = 200
    error: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    after_s: float = 0.0


class FakeSlack:
    """Use as a context manager; `script` may be set at any time."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.files: dict[str, Picture] = {}
        self.messages: list[Said] = []
        self.channels = [{"id": f"C{n:07d}", "name": f"other-{n}"} for n in range(7)]
        self.channels.append({"id": CHANNEL, "name": "whatsapp_services"})
        self.members = {CHANNEL}
        self.private: set[str] = set()
        """Channels that are seen by who may list private ones."""
        self.page = 3
        self.script: Callable[[str, dict[str, Any]], Answer | None] = lambda *_: None
        self._lock = threading.Lock()
        self._count = 0

    @property
    def shown(self) -> list[Picture]:
        """What stands in the channel now."""
        return [p for p in self.files.values() if p.shared and not p.deleted]

    def methods(self) -> list[str]:
        return [method for method, _ in self.calls]

    def __enter__(self) -> Self:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                answer = outer.take(self.path, dict(self.headers.items()), body)
                time.sleep(answer.after_s)
                said = answer.raw if answer.raw is not None else b"OK"
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign] # who hangs up is no error of ours
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def env(self) -> dict[str, str]:
        return {"SLACK_BOT_TOKEN": TOKEN, "SLACK_API_URL": f"{self.url}/api/"}

    # -- answering

    def take(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        headers = {name.lower(): value for name, value in headers.items()}
        with self._lock:
            if path.startswith("/upload/"):
                scripted = self.script("upload", {})
                return scripted or self._uploaded(path.rpartition("/")[2], headers, body)
            method = path.removeprefix("/api/")
            asked = _asked(headers, body)
            self.calls.append((method, asked))
            if scripted := self.script(method, asked):
                return _told(scripted)
            if headers.get("authorization") != f"Bearer {TOKEN}":
                return _no("invalid_auth")
            if method not in NEEDS:
                return _no("unknown_method")
            for name in NEEDS[method]:
                if not asked.get(name):
                    return _no("invalid_arguments")
            channel = asked.get("channel") or asked.get("channel_id")
            if channel is not None and channel not in {c["id"] for c in self.channels}:
                return _no("channel_not_found")
            if channel is not None and channel not in self.members:
                return _no("not_in_channel")
            found: Answer = getattr(self, "_" + method.replace(".", "_"))(asked)
            return found

    def _uploaded(self, id_: str, headers: dict[str, str], body: bytes) -> Answer:
        picture = self.files[id_]
        content = body
        if headers.get("content-type", "").startswith("multipart/"):
            head = f"Content-Type: {headers['content-type']}\r\n\r\n".encode()
            (part,) = BytesParser(policy=HTTP).parsebytes(head + body).iter_parts()  # type: ignore[attr-defined]
            content = part.get_payload(decode=True)
        if len(content) != picture.length:
            return Answer(400, raw=b"length mismatch")
        picture.content = content
        return Answer(200, raw=f"OK - {len(content)}".encode())

    def _conversations_list(self, asked: dict[str, Any]) -> Answer:
        limit = int(asked.get("limit", 100))
        if not 0 < limit < 1000:
            return _no("invalid_limit")
        types = str(asked.get("types", "public_channel")).split(",")
        seen = [
            c for c in self.channels if c["id"] not in self.private or "private_channel" in types
        ]
        at = int(asked.get("cursor") or 0)
        after = at + self.page
        cursor = str(after) if after < len(seen) else ""
        return _yes(channels=seen[at:after], response_metadata={"next_cursor": cursor})

    def _chat_postMessage(self, asked: dict[str, Any]) -> Answer:  # noqa: N802 - Slack's name
        said = Said(self._next("1700000000.{:06d}"), [asked["text"]])
        self.messages.append(said)
        return _yes(channel=asked["channel"], ts=said.ts)

    def _chat_update(self, asked: dict[str, Any]) -> Answer:
        if (said := self._message(asked["ts"])) is None:
            return _no("message_not_found")
        said.texts.append(asked["text"])
        return _yes(channel=asked["channel"], ts=said.ts, text=said.text)

    def _chat_delete(self, asked: dict[str, Any]) -> Answer:
        if (said := self._message(asked["ts"])) is None:
            return _no("message_not_found")
        said.deleted = True
        return _yes(channel=asked["channel"], ts=said.ts)

    def _message(self, ts: str) -> Said | None:
        return next((m for m in self.messages if m.ts == ts and not m.deleted), None)

    def _files_getUploadURLExternal(self, asked: dict[str, Any]) -> Answer:  # noqa: N802
        picture = Picture(self._next("F{:08d}"), asked["filename"], int(asked["length"]))
        self.files[picture.id] = picture
        return _yes(upload_url=f"{self.url}/upload/{picture.id}", file_id=picture.id)

    def _files_completeUploadExternal(self, asked: dict[str, Any]) -> Answer:  # noqa: N802
        files = asked["files"]
        wanted = json.loads(files) if isinstance(files, str) else files
        done = []
        for one in wanted:
            picture = self.files.get(one["id"])
            if picture is None or not picture.content:
                return _no("file_not_found")
            picture.title, picture.shared = one.get("title", ""), bool(asked.get("channel_id"))
            done.append({"id": picture.id, "title": picture.title})
        return _yes(files=done)

    def _files_delete(self, asked: dict[str, Any]) -> Answer:
        picture = self.files.get(asked["file"])
        if picture is None or picture.deleted:
            return _no("file_deleted" if picture else "file_not_found")
        picture.deleted = True
        return _yes()

    def _next(self, form: str) -> str:
        self._count += 1
        return form.format(self._count)


def _asked(headers: dict[str, str], body: bytes) -> dict[str, Any]:
    if headers.get("content-type", "").startswith("application/json"):
        found: dict[str, Any] = json.loads(body)
        return found
    return {name: values[0] for name, values in parse_qs(body.decode()).items()}


def _told(answer: Answer) -> Answer:
    if answer.raw is None:
        answer.raw = json.dumps({"ok": not answer.error, "error": answer.error}).encode()
        answer.headers = {"Content-Type": "application/json", **answer.headers}
    return answer


def _yes(**said: Any) -> Answer:
    raw = json.dumps({"ok": True, **said}).encode()
    return Answer(200, headers={"Content-Type": "application/json"}, raw=raw)


def _no(error: str) -> Answer:
    return _told(Answer(200, error))
