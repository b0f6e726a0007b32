"""How long whoever carries something to a messenger waits, whatever the way."""

CONNECT_S = 5.0
READ_S = 10.0
WHOLE_S = 30.0
"""Seconds for one attempt, whatever the other side does; and one more for each `BYTES_A_S` of files."""
BYTES_A_S = 256 * 1024
