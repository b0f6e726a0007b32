"""The command line that fills a Python peer's queue: SCRIPT fill FIRST COUNT DUE [FORM], where DUE 0 means now."""

import json
import sys
import time
from collections.abc import Callable


def main(fill: Callable[[range, float, str], None]) -> None:
    """Runs `fill` on the recipients, and prints how long that took."""
    _, _, first, count, due, *form = sys.argv
    numbers = range(int(first), int(first) + int(count))
    began = time.perf_counter()
    fill(numbers, float(due), "".join(form))
    print(json.dumps({"seconds": time.perf_counter() - began}))
