"""Names every address that is not ours to call as an attachment, straight and behind a redirect: python tests/inward_files.py REDIS

As `inward.py`, to be run in a network namespace of its own: somebody listens behind each address there is.
"""

import itertools
import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from postrider.errors import InvalidRequest
from postrider.fetching import Fetching
from postrider.files import Files
from postrider.guard import Guard
from postrider.link import connect
from postrider.outward import Outward
from tests.inward import LITERALS, NAMED, PUBLIC, WHOLE, Listener, resolved

HERE = "93.184.215.14"


def main() -> int:
    listener = Listener()
    files = Files(connect(sys.argv[1]), Path(tempfile.mkdtemp()))
    tried, connected, reached = 0, [], []

    def fetched(url: str, outward: Outward) -> str:
        """What came of it: `kept`, or why not."""
        fetching = Fetching(files, Guard(), 10, outward)
        try:
            fetching.fetch("url", url, "", lambda: datetime.now(UTC), time.monotonic() + 10)
        except InvalidRequest as error:
            return str(error)
        return "kept"

    public = Outward(Guard(), resolve=lambda *_: [HERE])
    urls = [f"http://{host}:{listener.port}/" for host in LITERALS]
    urls += [url.replace("{port}", str(listener.port)) for url in WHOLE]
    for url, redirected in itertools.product(urls, (False, True)):
        # What a URL reader takes for a path leads to where it came from, and that may be called.
        if redirected and not url.partition(":")[2].startswith("//"):
            continue
        if redirected and url.startswith("http:///"):
            continue
        listener.came.clear()
        listener.to = url if redirected else ""
        said = fetched(f"http://{HERE}:{listener.port}/" if redirected else url, public)
        tried += 1
        if said == "kept" or listener.came != (["::ffff:" + HERE] if redirected else []):
            connected.append((url, redirected, said, list(listener.came)))
    for addresses, redirected in itertools.product(NAMED, (False, True)):
        listener.came.clear()
        inward = f"http://innocent.example:{listener.port}/"
        listener.to = inward if redirected else ""
        outward = Outward(Guard(), resolve=lambda *_: resolved(addresses))  # noqa: B023
        said = fetched(f"http://{HERE}:{listener.port}/" if redirected else inward, outward)
        tried += 1
        if said == "kept" or listener.came != (["::ffff:" + HERE] if redirected else []):
            connected.append((addresses, redirected, said, list(listener.came)))
    listener.to = ""
    reached = [h for h in PUBLIC if fetched(f"http://{h}:{listener.port}/a", public) == "kept"]
    # The first answer is public and checked, each later one is not: nobody may ask a second time.
    answers = iter([[HERE]] + [["127.0.0.1"]] * 9)
    listener.came.clear()
    rebinding = Outward(Guard(), resolve=lambda *_: next(answers))
    fetched(f"http://rebinds.example:{listener.port}/", rebinding)
    told = {
        "tried": tried,
        "connected": connected,
        "reached": reached,
        "rebound": listener.came,
    }
    sys.stdout.write(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
