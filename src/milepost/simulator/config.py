"""What a simulator can be started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from milepost.simulator.facts import Facts
from milepost.simulator.faults import Fault
from milepost.simulator.latency import Latency
from milepost.simulator.shapes import FieldName
from milepost.simulator.traffic import LimitKind

PUBLISHED_LIMITS: Mapping[str, int] = {
    "list_contacts": 500,
    "directory_contacts": 500,
    "links": 500,
    "history": 300,
    "distributions": 3_000,
    "responses": 240,
    "transactions": 500,
    "transaction_batches": 500,
    "batch_transactions": 3_000,
    "imports": 100,
    "subscriptions": 120,
}
"""Calls a minute of each call class that has a limit of its own (one second-hand list)."""

PUBLISHED_BRAND_LIMIT = 3_000
"""Calls a minute of the whole brand (documented)."""

CALL_CLASSES = (
    "account",
    "batch_transactions",
    "directories",
    "directory_contacts",
    "distributions",
    "history",
    "imports",
    "links",
    "list_contacts",
    "mailing_lists",
    "responses",
    "subscriptions",
    "surveys",
    "transaction_batches",
    "transactions",
)
"""Every call class: the endpoints that share one limit, and can be given one fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How a simulator starts. All but the two files and the seed can be changed while it runs.

    Attributes:
        journal: Where to append a line for each accepted write.
        state: Where to keep the account across restarts; `None` keeps it in memory.
        latency_ms: Waited before each API answer, after the call was accepted: milliseconds,
            `uniform:LEAST:MOST`, or `lognormal:MEDIAN:P99`.
        rate_per_minute: Calls a minute of the whole brand; `None` is 3,000 with published limits,
            and no limit otherwise.
        limits: `published`, `none`, or calls a minute for each call class named.
        limit_kind: How calls are counted against a limit: `window`, no more in any 60 s, or
            `bucket`, a minute's calls at once and what leaks out evenly.
        dedup: Whether the directory starts with the deduplication criterion `email`. A state that
            exists keeps its own.
        seed: Makes ids, latencies and faults predictable; `None` draws them from the system.
        declared_fields: The embedded data that the survey's flow starts with. A state that exists
            keeps its own.
        invitation_only: Whether the survey starts without its anonymous link. A state that exists
            keeps its own.
        facts: How what nobody knows of the platform is answered, by name; the rest is as usual,
            or as the state has it.
        faults: What goes wrong from the start.

    Raises:
        ValueError: A number is negative, a call class, a latency or a fact is unknown, or what is
            declared has no name or one of more than 200 characters.
    """

    journal: Path | None = None
    state: Path | None = None
    latency_ms: int | str = 0
    rate_per_minute: int | None = None
    limits: Literal["published", "none"] | Mapping[str, int] = "published"
    limit_kind: LimitKind = "window"
    dedup: bool = True
    seed: int | None = None
    declared_fields: tuple[str, ...] = ()
    invitation_only: bool = False
    facts: Mapping[str, object] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what could not work, by name."""
        Latency.read(self.latency_ms)
        if self.rate_per_minute is not None and self.rate_per_minute < 1:
            raise ValueError("rate_per_minute must be at least 1")
        check_limits(self.limits)
        Facts().but(self.facts)
        try:
            msgspec.convert(self.declared_fields, list[FieldName])
        except msgspec.ValidationError as error:
            raise ValueError(f"wrong name of a declared field: {error}") from error
        for fault in self.faults:
            check_class(fault.call_class)


def check_limits(limits: str | Mapping[str, int]) -> None:
    """Refuse limits that name an unknown call class, or allow less than one call.

    Raises:
        ValueError: With the name.
    """
    if isinstance(limits, str):
        if limits not in ("published", "none"):
            raise ValueError(f"limits must be published, none or by call class, not {limits!r}")
        return
    for call_class, per_minute in limits.items():
        check_class(call_class)
        if per_minute < 1:
            raise ValueError(f"the limit of {call_class} must be at least 1")


def check_class(call_class: str | None) -> None:
    """Refuse a call class that does not exist; `None` is all of them.

    Raises:
        ValueError: With the name, and those that there are.
    """
    if call_class not in (None, *CALL_CLASSES):
        known = ", ".join(CALL_CLASSES)
        raise ValueError(f"unknown call class {call_class!r}; there are {known}")


def limits_of(
    limits: str | Mapping[str, int], rate_per_minute: int | None
) -> tuple[int | None, Mapping[str, int]]:
    """The brand's limit and those of the call classes, in calls a minute; `None` is no limit."""
    if isinstance(limits, str):
        if limits == "none":
            return rate_per_minute, {}
        return rate_per_minute or PUBLISHED_BRAND_LIMIT, PUBLISHED_LIMITS
    return rate_per_minute, limits
