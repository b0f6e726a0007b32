"""What it takes to find something among a million deliveries, and to take all of them away.

    python benchmarks/lists.py [--deliveries 1000000]

Starts a Redis and the API, stores deliveries in many states, and prints for each filter of
`/api/v1/deliveries` and `/api/v1/messages` the time of the first page of 1,000 and of one from deep in the list; then what
an export streams, the memory of the API before and after it, and how long it takes to stop a message of 100,000.
"""

import argparse
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import requests
from api import DAY_S, Client, served
from contestants import MOST, TEXT, service
from stage import Stage, ends_on_signals

from messengers.base import Rejected, Sent, Unclear
from postrider.model import NewMessage, Recipient
from postrider.service import Service

PAGE = 1_000
DEEP = 200
"""Pages to go on before the deep one is timed."""
FILTERS = {
    "none": {},
    "state=scheduled": {"state": "scheduled"},
    "state=sent": {"state": "sent"},
    "state=failed": {"state": "failed"},
    "state=unknown": {"state": "unknown"},
    "state=cancelled": {"state": "cancelled"},
    "service=viber (none)": {"service": "viber"},
    "uuid": {"uuid": "4711"},
    "message": {"message": "?"},
    "reference": {"reference": "order-3"},
    "tag": {"tag": "odd"},
    "from, to (a tenth)": {"from": "?", "to": "?"},
    "state=failed, tag": {"state": "failed", "tag": "odd"},
    "state=scheduled, service=viber (none)": {"state": "scheduled", "service": "viber"},
}


def store(stage: Stage, count: int) -> list[str]:
    """Puts them there: messages of 100,000, a tenth due now and ended each way, one cancelled. Gives the messages' ids."""
    ours = service(stage)
    ids = []
    for first in range(0, count, MOST):
        n = first // MOST
        recipients = tuple(
            Recipient(str(uuid), "telegram") for uuid in range(first, min(first + MOST, count))
        )
        at = datetime.now(UTC) + timedelta(seconds=DAY_S) if n % 10 else None
        tags = ("odd",) if n % 2 else ()
        new = NewMessage(TEXT, recipients, at, reference=f"order-{n}", tags=tags)
        ids.append(ours.accept(new)[0].id)
        _end_all(ours)
    ours.cancel(ids[-1], None)
    return ids


def _end_all(ours: Service) -> None:
    outcomes = (*(Sent("1"),) * 97, Rejected("chat not found"), Rejected("blocked"), Unclear("-"))
    n = 0
    while claims := ours.sender.claim("benchmark", 1000).claims:
        verdicts = []
        for claim in claims:
            verdicts.append(ours.sender.verdict(claim, outcomes[n % len(outcomes)]))
            n += 1
        ours.sender.record("benchmark", verdicts)


def pages(client: Client, path: str, params: dict[str, str]) -> Iterator[tuple[float, int]]:
    """Milliseconds and rows of each page."""
    cursor = None
    while True:
        asked = {**params, "limit": str(PAGE), **({"cursor": cursor} if cursor else {})}
        began = time.perf_counter()
        answer = client.get(f"{client.url}{path}", params=asked, timeout=60)
        took_ms = (time.perf_counter() - began) * 1000
        answer.raise_for_status()
        told = answer.json()
        yield took_ms, len(told[path.rpartition("/")[2]])
        if (cursor := told["next"]) is None:
            return


def measure(deliveries: int) -> None:
    """Prints all of it."""
    with Stage() as stage:
        ids = store(stage, deliveries)
        middle = ids[len(ids) // 2]
        with served(stage) as client:
            print(
                f"| {deliveries:,} deliveries, {PAGE:,} a page | first page (ms) | deep page (ms) | rows seen |"
            )
            print("|---|--:|--:|--:|")
            for name, params in FILTERS.items():
                asked = dict(params)
                if "message" in asked:
                    asked["message"] = middle
                if "from" in asked:
                    answer = client.get(f"{client.url}/api/v1/messages/{middle}", timeout=60).json()
                    at = datetime.fromisoformat(answer["accepted_at"])
                    asked |= {
                        "from": at.isoformat(),
                        "to": (at + timedelta(seconds=1.5)).isoformat(),
                    }
                times, rows = [], 0
                for took_ms, found in pages(client, "/api/v1/deliveries", asked):
                    times.append(took_ms)
                    rows += found
                    if len(times) > DEEP:
                        break
                print(f"| {name} | {times[0]:.0f} | {times[-1]:.0f} | {rows:,} |", flush=True)
            times = [took for took, _ in pages(client, "/api/v1/messages", {})]
            print(f"| messages | {times[0]:.0f} | {times[-1]:.0f} | {len(ids)} |")
            _export(stage, client, deliveries)
        ours = service(stage)
        began_s = time.perf_counter()
        done = ours.cancel(ids[1], None)
        print(f"stopped {done.total:,} of one message in {time.perf_counter() - began_s:.2f} s")


def _export(stage: Stage, client: Client, deliveries: int) -> None:
    before, most, lines = stage.tree.memory_mb(), 0.0, 0
    began_s = time.perf_counter()
    headers = {"Accept": "application/x-ndjson"}
    url = f"{client.url}/api/v1/deliveries"
    with requests.get(url, headers=headers, auth=client.auth, stream=True, timeout=600) as answer:
        for n, part in enumerate(answer.iter_content(1 << 20)):
            lines += part.count(b"\n")
            if n % 20 == 0:
                most = max(most, stage.tree.memory_mb())
    took_s = time.perf_counter() - began_s
    print(
        f"export: {lines:,} of {deliveries:,} rows in {took_s:.0f} s; memory of the API {before:.0f} -> {most:.0f} MB"
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--deliveries", type=int, default=1_000_000)
    measure(parser.parse_args().deliveries)


if __name__ == "__main__":
    ends_on_signals()
    main()
