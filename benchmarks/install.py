"""Installs the peers into a cache of their own: virtualenvs for Python's, a node_modules for BullMQ."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from stage import CACHE, HERE, Failed

PEERS = CACHE / "python" / "bin"
WITH_ARQ = CACHE / "arq" / "bin"
"""arq wants an older redis-py than the others."""
NODE = CACHE / "node"
WITHIN_S = 600


def ready(what: str, say: Callable[[str], None]) -> None:
    """Makes it usable, once. Raises Failed with the reason."""
    wanted = HERE / "peers" / ("package.json" if what == "node" else f"{what}.txt")
    folder = CACHE / what
    stamp = folder / "installed"
    text = wanted.read_text()
    if what == "node":
        for program in ("node", "npm"):
            if not shutil.which(program):
                raise Failed(f"no {program} on PATH")
    if not (stamp.exists() and stamp.read_text() == text):
        say(f"installing the peers of {wanted.name}")
        shutil.rmtree(folder, ignore_errors=True)
        if what == "node":
            _node(folder)
        else:
            _python(folder, wanted)
        stamp.write_text(text)
    if what == "node":  # Node looks for its modules beside the script
        shutil.copy(HERE / "peers" / "bullmq.mjs", folder)


def _python(folder: Path, wanted: Path) -> None:
    _run([sys.executable, "-m", "venv", folder])
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
    _run([*pip, "--disable-pip-version-check", "--requirement", wanted])


def _node(folder: Path) -> None:
    folder.mkdir(parents=True)
    shutil.copy(HERE / "peers" / "package.json", folder)
    # No lock file: it would name the packages of other platforms, which not every registry has.
    flags = ["--no-audit", "--no-fund", "--no-package-lock"]
    _run(["npm", "install", *flags, "--prefix", folder])


def _run(command: list[str | Path]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=WITHIN_S)
    except subprocess.TimeoutExpired:
        raise Failed(f"{command[0]} did not end within {WITHIN_S} s") from None
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.strip()]
        raise Failed(f"cannot be installed: {lines[-1] if lines else error}"[:200]) from None
