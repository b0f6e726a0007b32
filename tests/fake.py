"""A messenger that is none: a real HTTP server on loopback that records every request and answers as it is told.

It speaks Telegram's, Viber's and WhatsApp's form by the path that is called.
"""

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web


@dataclass(frozen=True)
class Call:
    """One request as it came. `at` is seconds since the epoch."""

    at: float
    path: str
    headers: dict[str, str]
    json: dict[str, Any]

    @property
    def to(self) -> str:
        """Whom it was for, in any messenger's form."""
        return str(
            next(self.json[k] for k in ("chat_id", "receiver", "to", "recipient") if k in self.json)
        )

    @property
    def tos(self) -> list[str]:
        """The same for a call that may be for many."""
        return self.json.get("broadcast_list") or [self.to]

    @property
    def text(self) -> str:
        """What it said."""
        text = self.json.get("text", "")
        return text["body"] if isinstance(text, dict) else text


@dataclass(frozen=True)
class Answer:
    """What to say. `cut`: read the request, then close the connection without a word."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    after_s: float = 0.0
    cut: bool = False


Script = Callable[[Call], Answer | None]
"""What to answer to a call; None: yes, in the messenger's own form."""


def says(status: int = 200, *, after_s: float = 0.0, **body: Any) -> Answer:
    """An answer with a JSON object."""
    return Answer(status, json.dumps(body).encode(), {"Content-Type": "application/json"}, after_s)


RATES = [
    f"{m}_{rate}" for m in ("TELEGRAM", "VIBER", "WHATSAPP") for rate in ("RATE", "RECIPIENT_RATE")
]


class FakeMessenger:
    """The server, in a thread of its own. Use as a context manager; `script` may be set at any time."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.script: Script = lambda _: None
        self._ids = itertools.count(1)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> str:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        late = asyncio.all_tasks() - {
            asyncio.current_task()
        }  # answers that nobody waits for any more
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        at = time.time()
        raw = await request.read()
        body = json.loads(raw) if raw else {}
        call = Call(at, request.path, dict(request.headers), body)
        self.calls.append(call)
        answer = self.script(call) or self._yes(call)
        await asyncio.sleep(answer.after_s)
        if answer.cut:
            if request.transport:
                request.transport.abort()
            return web.Response()
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)

    def _yes(self, call: Call) -> Answer:
        n = next(self._ids)
        if call.path.startswith("/bot"):
            return says(ok=True, result={"message_id": n})
        if call.path.startswith("/pa/"):
            viber = {"status": 0, "status_message": "ok", "message_token": n}
            return Answer(200, json.dumps(viber).encode())
        return says(messaging_product="whatsapp", messages=[{"id": f"wamid.{n}"}])

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


ANA = {"id": 42, "type": "private", "first_name": "Ana", "username": "ana"}
CHOIR = {"id": -100123, "type": "supergroup", "title": "Choir [red]"}
UPDATES = [
    {"update_id": 1, "message": {"chat": ANA, "from": ANA}},
    {"update_id": 2, "message": {"chat": CHOIR, "from": ANA}},
]


def introduces_itself(call: Call) -> Answer | None:
    """What messengers say who know us."""
    match call.path.rpartition("/")[2]:
        case "getMe":
            return says(ok=True, result={"id": 1, "is_bot": True, "username": "post_bot"})
        case "getUpdates":
            return says(ok=True, result=UPDATES)
        case "get_account_info":
            return Answer(200, b'{"status": 0, "name": "Shop", "uri": "shop"}')
        case "106540352242922":
            return says(verified_name="Shop", display_phone_number="+49 30 123")
    return None
