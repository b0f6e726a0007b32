"""RQ face: the names that stand in Redis, so a public format. A stock `rq worker` imports them; ours never does."""

import functools

from postrider import link
from postrider.service import Service, open_accounts
from postrider.settings import Settings
from postrider.store import Store
from postrider.transport import Blocking


@functools.cache
def _service() -> tuple[Service, Blocking]:
    settings = Settings.from_env()
    service = Service(
        Store(link.connect(settings.redis_address)), settings, open_accounts(settings)
    )
    return service, Blocking(service.keep_note, tls_verify=settings.tls_verify)


def deliver(job_id: str) -> None:
    """Sends what `job_id` names, once. Unknown, ended or claimed elsewhere: returns quietly.

    Raises DeliveryFailed, so that RQ lists as failed what is.
    """
    service, transport = _service()
    service.phones.sync()
    service.sender.deliver(job_id, transport)
