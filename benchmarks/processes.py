"""Processes with all their descendants: what they used, how to halt them, and how none of them stays. Linux only: /proc."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
GRACE_S = 10.0


@dataclass(frozen=True)
class Member:
    """One process: an id alone may be given to another one later, id and start time never."""

    pid: int
    born: int


class Tree:
    """Leaders, each in a session of its own, and whatever they have started."""

    def __init__(self) -> None:
        self.leaders: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        command: Sequence[str | Path],
        cwd: Path,
        log: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        with log.open("wb") as out:
            leader = subprocess.Popen(
                command, cwd=cwd, env=env, stdout=out, stderr=out, start_new_session=True
            )
        self.leaders.append(leader)

    def members(self) -> dict[Member, float]:
        """Everybody who lives, with the CPU seconds of it and of its children that have ended."""
        seen: dict[int, tuple[int, int, Member, float]] = {}
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                stat = Path(entry.path, "stat").read_bytes()
                # After the command's name, which may hold anything: state, ppid, pgrp, session, ... proc(5)
                fields = stat[stat.rindex(b")") + 2 :].split()
                used = sum(map(int, fields[11:15])) * TICK_S
                pid = int(entry.name)
                seen[pid] = (
                    int(fields[1]),
                    int(fields[3]),
                    Member(pid, int(fields[19])),
                    used,
                )
        ours = {leader.pid for leader in self.leaders}
        found: set[int] = set()
        fresh = {pid for pid, (_, sid, _, _) in seen.items() if pid in ours or sid in ours}
        while fresh:
            found |= fresh
            fresh = {pid for pid, (ppid, *_) in seen.items() if ppid in found} - found
        return {seen[pid][2]: seen[pid][3] for pid in found}

    def memory_mb(self) -> float:
        """Resident memory of everybody who lives."""
        kib = 0
        for member in self.members():
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{member.pid}/status").read_text()
                kib += int(status.partition("VmRSS:")[2].split()[0])
        return kib / 1024

    def cpu_s(self) -> float:
        """User and system time of everybody, also of those that have ended."""
        return sum(self.members().values())

    def dead(self) -> bool:
        """Whether a leader has ended."""
        return any(leader.poll() is not None for leader in self.leaders)

    def signal(self, number: int) -> None:
        for member in self.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(member.pid, number)

    def end(self) -> None:
        """Asks the leaders to end, and kills what is left."""
        known = set(self.members())
        self.signal(signal.SIGCONT)
        for leader in self.leaders:
            if leader.poll() is None:
                leader.terminate()
        give_up_at = time.monotonic() + GRACE_S
        for leader in self.leaders:
            with contextlib.suppress(subprocess.TimeoutExpired):
                leader.wait(max(0.0, give_up_at - time.monotonic()))
        for member in known | set(self.members()):
            with contextlib.suppress(ProcessLookupError, OSError, ValueError):
                stat = Path(f"/proc/{member.pid}/stat").read_bytes()
                if int(stat[stat.rindex(b")") + 2 :].split()[19]) == member.born:
                    os.kill(member.pid, signal.SIGKILL)
        for leader in self.leaders:
            leader.wait()
