"""gunicorn's settings that never change; those that do are flags, made in `postrider.cli`."""

import gc
import signal
from pathlib import Path
from typing import Any

from postrider import logs, sentry
from postrider.embedded import die_with_parent
from postrider.patience import THREADS
from postrider.settings import Settings

proc_name = "postrider-api"
worker_class = "postrider.patience.PatientWorker"
threads = THREADS
graceful_timeout = 30
keepalive = 5
limit_request_line = 8190  # the most there is: an older interface has whole texts in it
loglevel = "warning"
# The heartbeat file must lie in memory: on a busy disk a healthy process looks hung.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
control_socket_disable = True  # nobody uses it, and it would stand in the home directory


def on_starting(server: Any) -> None:
    """The arbiter logs as we do, and so does every process that it forks."""
    del server
    logs.configure(Settings.from_env())


def post_fork(server: Any, worker: Any) -> None:
    """No process outlives a killed arbiter: it would keep the port from the next one."""
    del server, worker
    die_with_parent(signal.SIGKILL)
    sentry.start(Settings.from_env())


def worker_exit(server: Any, worker: Any) -> None:
    """What this process has counted in its last second is not lost with it."""
    del server
    if (app := getattr(worker, "wsgi", None)) is not None:
        app.extensions["postrider.counts"].flush()


def post_worker_init(worker: Any) -> None:
    """What is loaded once and stays is not looked through again and again for what can be freed."""
    del worker
    gc.collect()
    gc.freeze()
