"""The control API under `/control`: clock, journal, counts, sessions, switches, faults.

It is for whoever tests a client, asks for no token, and answers plain JSON; what it does not
understand it refuses with 400 and `{"error": …}`.
"""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, delete, get, post, put
from litestar.handlers import HTTPRouteHandler
from msgspec import UNSET, Meta, Struct, UnsetType

from milepost.simulator.account import Account
from milepost.simulator.api import check_fault
from milepost.simulator.config import check_class, check_limits, limits_of
from milepost.simulator.faults import Fault
from milepost.simulator.latency import Latency
from milepost.simulator.shapes import ClockSetting, FieldName, Nothing, WorldSettings
from milepost.simulator.things import Session
from milepost.simulator.traffic import LimitKind
from milepost.simulator.wire import Refusal, instant, moment, read

YEAR_MS = 365 * 86_400_000

CLOCK_RANGE = 100 * YEAR_MS
"""How far the account's clock may be from the real one."""

PAGE = 1000
"""Entries of the journal, or sessions, that one call gives, unless it asks for fewer."""


class ClockChange(Struct, forbid_unknown_fields=True):
    """`now` sets the clock (it runs on from there), `null` gives the real one back."""

    now: str | UnsetType | None = UNSET
    advance_seconds: float | UnsetType = UNSET


class Settings(Struct, forbid_unknown_fields=True):
    """The switches; what is not sent stays. `rate_per_minute: null` lifts the brand's limit."""

    latency_ms: int | str | UnsetType = UNSET
    limits: Literal["published", "none"] | dict[str, int] | UnsetType = UNSET
    limit_kind: LimitKind | UnsetType = UNSET
    rate_per_minute: Annotated[int, Meta(ge=1)] | UnsetType | None = UNSET
    retry_after: bool | UnsetType = UNSET
    notice: Annotated[str, Meta(min_length=1, max_length=1000)] | UnsetType | None = UNSET
    token_seconds: Annotated[int, Meta(ge=1, le=31_536_000)] | UnsetType = UNSET
    facts: dict[str, object] | UnsetType = UNSET
    deduplication_criteria: dict[str, bool] | UnsetType = UNSET
    survey_active: bool | UnsetType = UNSET
    invitation_only: bool | UnsetType = UNSET
    declared_fields: list[FieldName] | UnsetType = UNSET
    undeclared_fields: Literal["recorded", "dropped"] | UnsetType = UNSET


class Merge(Struct, forbid_unknown_fields=True):
    """Two contacts of which somebody makes one; the first is gone then."""

    contact: str
    into: str


_CLOCK = msgspec.json.Decoder(ClockChange)
_SETTINGS = msgspec.json.Decoder(Settings)
_FAULT = msgspec.json.Decoder(Fault)
_MERGE = msgspec.json.Decoder(Merge)


def _json(content: object, status: int = 200) -> Response[bytes]:
    return Response(msgspec.json.encode(content), status_code=status, media_type="application/json")


def refused(refusal: Refusal) -> Response[bytes]:
    """A refusal in the control API's own words."""
    return _json({"error": refusal.message}, refusal.status)


def _clock(account: Account) -> dict[str, object]:
    return {"now": instant(account.now()), "real": account.world.clock_offset_ms == 0}


async def set_clock(account: Account, change: ClockChange) -> None:
    """Set, advance or give back the account's clock."""
    offset = account.world.clock_offset_ms
    if isinstance(change.now, str):
        try:
            offset = moment(change.now) - account.real_now()
        except ValueError as error:
            raise Refusal(400, "now must be an ISO 8601 moment") from error
    elif change.now is None:
        offset = 0
    if isinstance(change.advance_seconds, float):
        offset += round(change.advance_seconds * 1000)
    if abs(offset) > CLOCK_RANGE:
        raise Refusal(400, "the clock can be at most 100 years off")
    await account.switch("account.clock", ClockSetting(offset_ms=offset))


def _settings(account: Account) -> dict[str, object]:
    world = account.world
    survey = world.surveys[account.survey_id]
    limits = account.traffic.limits()
    return {
        "latency_ms": account.latency.spelt(),
        "rate_per_minute": limits.pop("brand", None),
        "limits": limits,
        "limit_kind": account.traffic.kind,
        "retry_after": account.retry_after,
        "notice": account.notice,
        "token_seconds": account.tokens.seconds,
        "facts": world.facts,
        "deduplication_criteria": world.criteria,
        "survey_active": survey.active,
        "invitation_only": survey.invitation_only,
        "declared_fields": survey.declared_fields,
        "undeclared_fields": world.undeclared_fields,
    }


async def set_settings(account: Account, wanted: Settings) -> None:
    """Turn switches: all of those sent, or none."""
    limits: str | dict[str, int] = account.traffic.limits()
    rate = limits.pop("brand", None) if isinstance(limits, dict) else None
    latency = account.latency
    try:
        if wanted.limits is not UNSET:
            limits, rate = wanted.limits, None
            check_limits(limits)
        if wanted.latency_ms is not UNSET:
            latency = Latency.read(wanted.latency_ms)
    except ValueError as error:
        raise Refusal(400, str(error)) from error
    if wanted.rate_per_minute is not UNSET:
        rate = wanted.rate_per_minute
    shared = set(WorldSettings.__struct_fields__)
    sent = {name: getattr(wanted, name) for name in shared}
    of_world = {name: value for name, value in sent.items() if value is not UNSET}
    if of_world:
        await account.switch("account.settings", WorldSettings(**of_world))
    account.latency = latency
    about_limits = (wanted.limits, wanted.rate_per_minute, wanted.limit_kind)
    if any(one is not UNSET for one in about_limits):
        kind = account.traffic.kind if wanted.limit_kind is UNSET else wanted.limit_kind
        account.traffic.set_limits(*limits_of(limits, rate), kind)
    if wanted.retry_after is not UNSET:
        account.retry_after = wanted.retry_after
    if wanted.notice is not UNSET:
        account.notice = wanted.notice
    if wanted.token_seconds is not UNSET:
        account.tokens.seconds = wanted.token_seconds


def _session(session: Session) -> dict[str, object]:
    """By which link somebody came, what was captured then, and what came of it."""
    ended = session.completed_at
    return {
        "id": session.id,
        "survey": session.survey_id,
        "distribution": session.distribution_id,
        "recipient": session.recipient_id,
        "data": session.data,
        "started_at": instant(session.started_at),
        "completed_at": None if ended is None else instant(ended),
        "response": session.response_id,
    }


def _number(request: Request[Any, Any, Any], name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(2**63))):
        raise Refusal(400, f"{name} must be a number")
    return int(text)


def routes(account: Account) -> list[HTTPRouteHandler]:  # noqa: C901 - a table of handlers
    """The handlers of the control API, for one account."""

    @get("/control/clock")
    async def read_clock() -> Response[bytes]:
        return _json(_clock(account))

    @put("/control/clock")
    async def write_clock(request: Request[Any, Any, Any]) -> Response[bytes]:
        await set_clock(account, read(_CLOCK, await request.body()))
        return _json(_clock(account))

    @get("/control/journal")
    async def read_journal(request: Request[Any, Any, Any]) -> Response[bytes]:
        after = _number(request, "after", 0)
        limit = min(_number(request, "limit", PAGE), PAGE)
        oldest = account.journal.recent[0][0] if account.journal.recent else None
        lines = list(account.entries_after(after))[:limit]
        head = msgspec.json.encode({"last": account.last_seq, "oldest": oldest})
        entries = b",".join(line.rstrip(b"\n") for line in lines)
        return Response(
            head[:-1] + b',"entries":[' + entries + b"]}", media_type="application/json"
        )

    @get("/control/stats")
    async def read_stats() -> Response[bytes]:
        counts = dict(account.traffic.calls)
        total = counts.pop("brand", None)
        world = account.world
        return _json(
            {
                "brand": total,
                "classes": counts,
                "held": {
                    "contacts": len(world.contacts.in_order),
                    "list_contacts": len(world.memberships),
                    "mailing_lists": len(world.lists.in_order),
                    "distributions": len(world.distributions.in_order),
                    "sessions": len(world.sessions),
                    "responses": len(world.responses),
                    "transactions": len(world.transactions),
                    "transaction_batches": len(world.batches.in_order),
                    "imports": len(world.imports),
                    "subscriptions": len(world.subscriptions.in_order),
                },
                "accepted_writes": account.last_seq,
            }
        )

    @get("/control/sessions")
    async def read_sessions(request: Request[Any, Any, Any]) -> Response[bytes]:
        sessions = account.world.sessions
        after = min(_number(request, "after", 0), len(sessions))
        limit = min(_number(request, "limit", PAGE), PAGE)
        found = islice(sessions.values(), after, after + limit)
        return _json({"last": len(sessions), "sessions": [_session(one) for one in found]})

    @delete("/control/stats", status_code=200)
    async def forget_stats() -> Response[bytes]:
        account.traffic.forget()
        return _json({})

    @get("/control/settings")
    async def read_settings() -> Response[bytes]:
        return _json(_settings(account))

    @put("/control/settings")
    async def write_settings(request: Request[Any, Any, Any]) -> Response[bytes]:
        await set_settings(account, read(_SETTINGS, await request.body()))
        return _json(_settings(account))

    @get("/control/faults")
    async def read_faults() -> Response[bytes]:
        return _json(account.faults.waiting)

    @post("/control/faults", status_code=201)
    async def add_fault(request: Request[Any, Any, Any]) -> Response[bytes]:
        fault = read(_FAULT, await request.body())
        try:
            check_class(fault.call_class)
            check_fault(fault)
        except ValueError as error:
            raise Refusal(400, str(error)) from error
        account.faults.waiting.append(fault)
        return _json(account.faults.waiting, 201)

    @delete("/control/faults", status_code=200)
    async def delete_faults() -> Response[bytes]:
        account.faults.waiting.clear()
        return _json(account.faults.waiting)

    @post("/control/merges", status_code=200)
    async def merge(request: Request[Any, Any, Any]) -> Response[bytes]:
        wanted = read(_MERGE, await request.body())
        ids = {"directory": account.directory_id, **msgspec.structs.asdict(wanted)}
        await account.write(
            "directory_contact.merge", ids, Nothing(), method="POST", path="/control/merges"
        )
        return _json({})

    @get("/control/deliveries")
    async def read_deliveries() -> Response[bytes]:
        deliveries = account.deliveries
        return _json({"waiting": deliveries.waiting, "attempts": list(deliveries.attempts)})

    return [
        read_clock,
        write_clock,
        read_journal,
        read_stats,
        read_sessions,
        forget_stats,
        read_settings,
        write_settings,
        read_faults,
        add_fault,
        delete_faults,
        merge,
        read_deliveries,
    ]
