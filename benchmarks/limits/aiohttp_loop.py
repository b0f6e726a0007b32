"""The bare loop with aiohttp on uvloop: pop ids, POST them concurrently, keep no books."""

import asyncio

import aiohttp
import uvloop
from work import HEADERS, IDLE_S, PATH, Cost, Pop, arguments, body, counting, popping


async def run(url: str, connections: int, pop: Pop, *, ends: bool) -> None:
    """Sends all that `pop` gives; with `ends`, until it gives nothing."""
    ids: list[bytes] = []
    looking = asyncio.Lock()

    async def look() -> bool:
        """Waits until there is an id; False when there will be none."""
        async with looking:  # else a hundred of them poll
            while not ids:
                ids.extend(pop() or [])
                if not ids and ends:
                    return False
                if not ids:
                    await asyncio.sleep(IDLE_S)
        return True

    async def send(session: aiohttp.ClientSession) -> None:
        while ids or await look():
            async with session.post(
                url + PATH, data=body(ids.pop()), headers=HEADERS, allow_redirects=False
            ) as response:
                await response.read()

    async with (
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, ssl=False),
            timeout=aiohttp.ClientTimeout(
                total=30, sock_connect=5, sock_read=10, ceil_threshold=30
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        ) as session,
        asyncio.TaskGroup() as tasks,
    ):
        for _ in range(connections):
            tasks.create_task(send(session))


def main() -> None:
    args = arguments(__doc__)
    if args.redis:
        uvloop.run(run(args.url, args.connections, popping(args.redis, 100), ends=False))
    cost = Cost()
    uvloop.run(run(args.url, args.connections, counting(args.count, 100), ends=True))
    cost.tell(args.count)


if __name__ == "__main__":
    main()
