"""How long whoever carries something to a messenger waits, whatever the way."""

CONNECT_S = 5.0
READ_S = 10.0
WHOLE_S = 30.0
"""Seconds for one attempt without files; `within_s` has the others."""
BYTES_A_S = 256 * 1024


def within_s(size: int = 0) -> float:
    """Seconds for one attempt with so many bytes of files, whatever the other side does."""
    return WHOLE_S + size / BYTES_A_S
