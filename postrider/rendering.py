"""Markdown made into HTML.

markdown-it-py: it follows CommonMark to the letter, is kept well, and escapes raw HTML, so that a text can show nothing but
what Markdown can say; links to `javascript:` and the like stay text.
"""

import functools
import threading

from markdown_it import MarkdownIt

KEPT = 16
"""Texts whose HTML is kept: a message to many is made once."""

_reader = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(
    ["table", "strikethrough"]
)
_one_at_a_time = threading.Lock()


def html_of(text: str) -> str:
    """The HTML of this Markdown."""
    with _one_at_a_time:  # so that many who ask for the same have it made once
        return _html_of(text)


@functools.lru_cache(KEPT)
def _html_of(text: str) -> str:
    return str(_reader.render(text))
