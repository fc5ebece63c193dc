"""Delivers messages, as the worker of a process does, in a process of its own that may be killed.

``python -m tests.battery.delivering DATABASE_URL SECONDS`` runs job `deliver` until it is killed.
An attempt may take so many seconds, a lease is three times as long, and the pauses between attempts
are a hundredth of a second each, so that what takes hours passes in a minute. It ends with its
standard input, so that it outlives no test.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from datetime import timedelta
from ipaddress import ip_network

import uvloop

from milepost.app import LOOK_SECONDS
from milepost.jobs.deliver import Deliver
from milepost.store import Store, messages
from milepost.webhooks import Webhooks
from milepost.worker import Endless, Worker

SCHEDULE = (timedelta(seconds=0.01),) * 60
"""So many attempts that no message is parked by bad luck."""


async def deliver(database_url: str, seconds: float) -> None:
    """Run the job."""
    messages.LEASE_SECONDS = 3 * seconds  # type: ignore[misc]
    async with (
        await Store.open(database_url) as store,
        Webhooks([ip_network("127.0.0.0/8")], seconds=seconds) as webhooks,
    ):
        job = Deliver(store, webhooks, SCHEDULE)
        await Worker(Endless(job="deliver", run=job.run_once, every=LOOK_SECONDS)).run(
            asyncio.Event()
        )


def end_with_input() -> None:
    """End the process when nobody holds its standard input any more."""
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_input, daemon=True).start()
    uvloop.run(deliver(sys.argv[1], float(sys.argv[2])))
