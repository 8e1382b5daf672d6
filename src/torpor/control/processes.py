"""The processes that a server starts beside itself, and their end: also when the server is gone."""

from __future__ import annotations

import logging

from torpor.core.errors import Missing, TorporError
from torpor.core.home import Home
from torpor.egress.launch import stop_broker
from torpor.pager.client import PagerClient

log = logging.getLogger(__name__)


async def stop_processes(home: Home) -> None:
    """End the pager and the broker of `home`, should they run, also those that a server which
    was killed has left."""
    pager = PagerClient(home.socket("pager"))
    try:
        await pager.shutdown()
    except Missing:  # none runs
        pass
    except TorporError as error:
        log.warning("pager: %s", error.message)
    finally:
        await pager.close()
    await stop_broker(home)
