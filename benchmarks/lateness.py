"""How late messages leave: one every `--every` seconds, through the real API, to a messenger on loopback.

    python benchmarks/lateness.py [--messages 200] [--every 0.1]

Starts an embedded Redis, the API and one worker in a temporary folder, and prints the lateness of each request as the
messenger saw it: below zero would be early.
"""

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import requests
from aiohttp import web

ROOT = Path(__file__).resolve().parent.parent
AUTH = ("postrider", "benchmark")


async def serve(arrived: dict[str, float], port: int, count: int) -> None:
    """A messenger that notes when each request came, until all have."""
    complete = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        at = time.time()
        body = await request.json()
        arrived[str(body["chat_id"])] = at
        if len(arrived) == count:
            complete.set()
        return web.json_response({"ok": True, "result": {"message_id": 1}})

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await complete.wait()
    await runner.cleanup()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_ready(url: str) -> None:
    for _ in range(300):
        try:
            if requests.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.1)
    sys.exit("the service did not come up")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=200)
    parser.add_argument("--every", type=float, default=0.1, help="seconds between two")
    args = parser.parse_args()
    port, api_port = free_port(), free_port()
    url = f"http://127.0.0.1:{api_port}"
    with tempfile.TemporaryDirectory() as folder:
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "API_PASSWORD": AUTH[1],
            "BIND": f"127.0.0.1:{api_port}",
            "DATA_DIR": folder,
            "TELEGRAM_BOT_TOKEN": "1:x",
            "TELEGRAM_API_URL": f"http://127.0.0.1:{port}",
        }
        command = Path(sys.executable).with_name("postrider")
        processes = [
            subprocess.Popen([command, name], env=env, cwd=folder)
            for name in ("redis", "api", "worker")
        ]
        try:
            wait_ready(url)
            first = datetime.now(UTC) + timedelta(seconds=3 + args.messages * 0.01)
            due = {str(n): first + timedelta(seconds=n * args.every) for n in range(args.messages)}
            for uuid, at in due.items():
                message = {
                    "body": "Hello",
                    "send_at": at.isoformat(),
                    "recipients": [{"uuid": uuid, "service": "telegram"}],
                }
                requests.post(
                    f"{url}/send_message", json=message, auth=AUTH, timeout=10
                ).raise_for_status()
            arrived: dict[str, float] = {}
            asyncio.run(serve(arrived, port, args.messages))
        finally:
            for process in reversed(processes):
                process.terminate()
                process.wait(60)
    late_ms = sorted((arrived[uuid] - at.timestamp()) * 1000 for uuid, at in due.items())
    print(f"{args.messages} messages, one every {args.every} s; lateness in ms:")
    print(f"  first {late_ms[0]:.1f}  p50 {statistics.median(late_ms):.1f}", end="  ")
    print(
        f"p99 {late_ms[int(len(late_ms) * 0.99) - 1]:.1f}  worst {late_ms[-1]:.1f}  early {sum(v < 0 for v in late_ms)}"
    )


if __name__ == "__main__":
    main()
