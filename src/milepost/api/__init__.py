"""REST: each handler parses, calls one verb, and shapes the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version

from litestar import Litestar, Router
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from milepost.api import (
    capabilities,
    capacity,
    drift,
    endpoints,
    exports,
    funnel,
    health,
    jobs,
    links,
    milestones,
    problems,
    registrants,
    reminders,
    responses,
    short_links,
    upstream_events,
)
from milepost.api.access import PUBLIC, Doorkeeper, refuse_unguarded
from milepost.api.requests import StrictRequest
from milepost.api.schema import Reader
from milepost.budget import Budget
from milepost.errors import DatabaseBusy, Refusal, UpstreamError
from milepost.issuing import Issuing
from milepost.matching import Matching
from milepost.scheduler import Scheduler
from milepost.store import Store
from milepost.upstream import Upstream
from milepost.webhooks import Webhooks

__all__ = ["create"]


def create(
    store: Store,
    issuing: Issuing,
    budget: Budget,
    scheduler: Scheduler,
    matching: Matching,
    *,
    events_key: str | None = None,
    upstream: Upstream | None = None,
    webhooks: Webhooks,
    besides: Sequence[Router] = (),
    stopping: Callable[[], bool] = lambda: False,
) -> Litestar:
    """The web application, on an open store.

    Args:
        store: what is asked.
        issuing: the path of an event.
        budget: what this process may call.
        scheduler: knows the jobs, and when they are due.
        matching: says whose a response is.
        events_key: signs the platform's event calls; None: none is taken.
        upstream: is asked for the survey of a milestone that is registered; None: nobody is.
        webhooks: sends test messages.
        besides: further routes, behind the same doorkeeper.
        stopping: whether the process was told to end: it is not ready any more then.
    """
    application = Litestar(
        [
            links.router(issuing, store),
            milestones.router(store, upstream),
            registrants.router(store),
            funnel.router(store),
            exports.router(store),
            reminders.router(store),
            short_links.router(issuing),
            capabilities.router(store),
            capacity.router(store, budget, issuing.makers),
            jobs.router(store, scheduler),
            responses.router(matching),
            drift.router(store),
            upstream_events.router(store, events_key),
            endpoints.router(store, webhooks),
            health.router(store, stopping),
            *besides,
        ],
        before_request=Doorkeeper(store.keys),
        request_class=StrictRequest,
        request_max_body_size=0,  # a handler that takes a body says how large it may be
        exception_handlers={
            Refusal: problems.refused,
            DatabaseBusy: problems.busy,
            UpstreamError: problems.away,
            HTTPException: problems.framework,
            Exception: problems.unexpected,
        },
        openapi_config=OpenAPIConfig(
            title="Milepost",
            version=version("milepost"),
            description="Personal survey links at the moment a customer passes a milestone.",
            use_handler_docstrings=True,
            security=[{"key": []}],
            components=Components(
                security_schemes={
                    "key": SecurityScheme(
                        type="http", scheme="bearer", description="An API key, mp_…"
                    )
                }
            ),
            render_plugins=[JsonRenderPlugin(path=["/", "/openapi.json"]), Reader()],
            openapi_router=Router(
                "/schema",
                route_handlers=[],
                opt=PUBLIC,
                include_in_schema=False,
                after_request=problems.instead_of_a_page,
            ),
        ),
        logging_config=None,
    )
    refuse_unguarded(application)
    return application
