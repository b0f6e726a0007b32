"""arq: the worker's settings, and what fills its queue."""

import asyncio
import os
from datetime import UTC, datetime
from typing import Any, ClassVar

import aiohttp
import filling
import uvloop
from arq import create_pool
from arq.connections import RedisSettings

URL = os.environ["BENCH_URL"]
TEXT = "x" * 200
HEADERS = {"Accept-Encoding": "identity", "User-Agent": "postrider"}
SETTINGS = RedisSettings(unix_socket_path=os.environ["BENCH_SOCKET"])
TOGETHER = 500

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


async def deliver(ctx: dict[str, Any], chat_id: int, text: str) -> None:
    message = {"chat_id": chat_id, "text": text}
    async with ctx["session"].post(URL, json=message, headers=HEADERS) as response:
        response.raise_for_status()
        await response.read()


async def on_startup(ctx: dict[str, Any]) -> None:
    ctx["session"] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


async def on_shutdown(ctx: dict[str, Any]) -> None:
    await ctx["session"].close()


class Worker:
    """What `arq` reads."""

    functions: ClassVar = [deliver]
    on_startup = on_startup
    on_shutdown = on_shutdown
    redis_settings = SETTINGS
    max_jobs = int(os.environ.get("BENCH_PLACES", "100"))
    keep_result = 0


async def enqueue(numbers: range, due_at: float) -> None:
    pool = await create_pool(SETTINGS)
    defer = {"_defer_until": datetime.fromtimestamp(due_at, UTC)} if due_at else {}
    for start in range(0, len(numbers), TOGETHER):
        part = numbers[start : start + TOGETHER]
        await asyncio.gather(*(pool.enqueue_job("deliver", n, TEXT, **defer) for n in part))
    await pool.aclose()


def fill(numbers: range, due_at: float, form: str) -> None:
    del form
    asyncio.run(enqueue(numbers, due_at))


if __name__ == "__main__":
    filling.main(fill)
