"""What one job of a Python peer does: one POST with `requests`, over a session that lives as long as its process."""

import os

import requests
from requests.adapters import HTTPAdapter

URL = os.environ["BENCH_URL"]
TEXT = "x" * 200
HEADERS = {"Accept-Encoding": "identity", "User-Agent": "postrider"}
SESSION = requests.Session()
SESSION.trust_env = False
SESSION.mount("http://", HTTPAdapter(pool_connections=1, pool_maxsize=200))


def deliver(chat_id: int, text: str) -> None:
    message = {"chat_id": chat_id, "text": text}
    SESSION.post(URL, json=message, headers=HEADERS, timeout=(5, 10)).raise_for_status()
