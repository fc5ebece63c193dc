"""A faithful stand-in for the survey platform, served over HTTP; it knows only the wire.

- `server`: the process or thread, and its socket
- `api`, `call`: the life of a call, and what an endpoint sees of it
- `tokens`: who may call what
- `endpoints/`: what each endpoint answers
- `survey_page`, `survey`, `templates/`: the survey behind a link
- `control`: clock, journal, counts, sessions, switches, faults
- `account`: one brand: the world and all that a write needs
- `world`, `things`, `operations`: contacts and lists, what there is, and every write by name
- `transactions`, `distributions`, `links`: batches, who has a link of what, and how it is written
- `visits`: who gets into the survey by a link, and what is captured then
- `facts`: what nobody knows of the platform, answered either way
- `shapes`, `wire`: what bodies may hold; envelopes, refusals, pages, moments
- `imports`, `subscriptions`: contacts brought in by many; wishes for calls about events
- `deliveries`: those calls
- `journal`: accepted writes, on disk before the answer leaves
- `traffic`, `latency`, `faults`: limits and counts; how long it takes; what goes wrong on demand
- `config`: what it can be started with
"""

from __future__ import annotations

from milepost.simulator.config import CALL_CLASSES, PUBLISHED_LIMITS, Config
from milepost.simulator.faults import Fault
from milepost.simulator.server import Ready, running, serve

__all__ = ["CALL_CLASSES", "PUBLISHED_LIMITS", "Config", "Fault", "Ready", "running", "serve"]
