"""The page of jobs: when each is due, and what became of its last run."""

from __future__ import annotations

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from milepost.admin.frame import Frame
from milepost.api.access import needs
from milepost.api.jobs import job_view
from milepost.api.requests import StrictRequest
from milepost.model import Scope
from milepost.scheduler import Scheduler


def handlers(scheduler: Scheduler, frame: Frame) -> list[HTTPRouteHandler]:
    """The page of jobs."""

    @get("/jobs", opt=needs(Scope.READ))
    async def jobs(request: StrictRequest) -> Response[bytes]:
        """Look at all jobs."""
        found = await scheduler.standings(scheduler.jobs)
        views = [job_view(standing) for standing in found]
        return frame.show(request, "jobs.html", jobs=views)

    return [jobs]
