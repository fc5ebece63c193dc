"""A faithful stand-in for the survey platform, served over HTTP; it knows only the wire.

- `server`: the process or thread, and its socket
- `api`, `call`: the life of a call, and what an endpoint sees of it
- `endpoints/`: what each endpoint answers
- `survey_page`, `survey`, `templates/`: the survey behind a link
- `control`: clock, journal, counts, switches, faults
- `account`: one brand: the world and all that a write needs
- `world`, `things`, `operations`: the rules, what there is, and every write by name
- `shapes`, `wire`: what bodies may hold; envelopes, refusals, pages, moments
- `journal`: accepted writes, on disk before the answer leaves
- `traffic`, `faults`: limits and counts; what goes wrong on demand
- `config`: what it can be started with
"""

from __future__ import annotations

from milepost.simulator.config import CALL_CLASSES, PUBLISHED_LIMITS, Config
from milepost.simulator.server import Ready, running, serve

__all__ = ["CALL_CLASSES", "PUBLISHED_LIMITS", "Config", "Ready", "running", "serve"]
