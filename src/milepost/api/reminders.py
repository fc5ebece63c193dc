"""Reminders: the app asks of which links customers are to be reminded, and says that they were."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Final
from uuid import UUID

from litestar import Router, get, post
from litestar.params import FromPath, QueryParameter
from msgspec import Struct

from milepost import policy
from milepost.api.access import caller_of, needs
from milepost.api.problems import documented
from milepost.api.requests import StrictRequest
from milepost.model import Caller, Scope
from milepost.store import Store
from milepost.store.reminders import DueReminder, SentReminder

STATEMENTS: Final = 20
"""For one request, of each kind: more is for the next one."""


class DueReminders(Struct, frozen=True):
    """Reminders that are the caller's to send."""

    reminders: list[DueReminder]
    """None: ask again in some minutes."""


def router(store: Store) -> Router:
    """The routes under `/v1/reminders`."""

    @get("/due", opt=needs(Scope.ISSUE), responses=documented())
    async def due(
        request: StrictRequest, *, limit: Annotated[int, QueryParameter(ge=1, le=1_000)] = 100
    ) -> DueReminders:
        """Take reminders that are due: they are the caller's for ten minutes.

        Links that were given out for a milestone with `reminders`, and are neither finished nor
        expired after so many days, one reminder for each, outside the milestone's quiet hours. What
        is not said to be sent by then is handed out again. A key is handed those of links that a
        key of its name asked for, an admin all.
        """
        now = await store.runs.now()
        awake = {
            milestone.key: milestone.definition
            for milestone in await store.milestones.all()
            if milestone.state == "active"
            and milestone.stop is None
            and (reminders := milestone.definition.reminders) is not None
            and not policy.is_quiet(reminders, now)
        }
        after_days = {
            key: one.reminders.after_days for key, one in awake.items() if one.reminders is not None
        }
        for key, days in after_days.items():
            for _ in range(STATEMENTS):
                if not await store.reminders.gather(
                    key, after_days=days, link_days=awake[key].link_days
                ):
                    break
        found: list[DueReminder] = []
        for _ in range(STATEMENTS):
            wanted = limit - len(found)
            more, looked_at = await store.reminders.due(
                after_days, wanted, asked_by=_own(caller_of(request))
            )
            found += more
            if looked_at < wanted or len(found) == limit:
                break
        return DueReminders(found)

    @post(
        "/{link_id:uuid}/sent",
        opt=needs(Scope.ISSUE),
        status_code=HTTPStatus.OK,
        responses=documented(404),
    )
    async def sent(request: StrictRequest, link_id: FromPath[UUID]) -> SentReminder:
        """Say that a reminder was sent: it is not handed out again. Again changes nothing."""
        return await store.reminders.sent(link_id, asked_by=_own(caller_of(request)))

    return Router("/v1/reminders", route_handlers=[due, sent], tags=["reminders"])


def _own(caller: Caller) -> str | None:
    """Whose links a caller sees: its own, or all."""
    return None if caller.may(Scope.ADMIN) else caller.name
