"""Jobs: what is done by itself and when, what became of it, and a run of it now."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal

import msgspec
from litestar import Response, Router, get, post
from litestar.exceptions import HTTPException
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
)
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.response import Stream
from msgspec import Struct

from milepost.api.access import caller_of, needs
from milepost.api.problems import documented
from milepost.api.requests import MAX_BODY_BYTES, StrictRequest, header
from milepost.api.spreadsheets import CSV, lines
from milepost.errors import InvalidRequest, UnknownJob, UnknownRun
from milepost.model import Scope
from milepost.scheduler import CADENCES, Scheduler, Standing
from milepost.store import Store
from milepost.store.runs import NumberedFinding, RunRecord, RunState

FINDINGS_AT_ONCE: Final = 1_000
"""Findings that are read and sent together: whoever fetches them all holds nothing open between."""

LARGEST: Final = 2**63 - 1
"""That an id or a number can be."""


class RunView(Struct, frozen=True, kw_only=True):
    """One execution of a job."""

    id: int
    job: str
    state: RunState
    asked_by: str | None
    """Who asked for it; null: it was due."""
    options: Mapping[str, Any]
    due_at: datetime
    coalesced: int
    """Due times before it that passed while nobody was there; this run stands for them, too. Where
    it is 1000, at least so many."""
    attempt: int
    started_at: datetime | None
    ended_at: datetime | None
    paused_until: datetime | None
    """It was begun, met something that passes (`error`), and goes on then."""
    duration_seconds: float | None
    """From its start to its end, pauses included; null: it has not ended."""
    stage: str | None
    """What it is at, or was."""
    done: int
    total: int | None
    """Of this stage; null: how much there is, is not known."""
    counts: Mapping[str, Any]
    """What was done so far; `found` are its findings."""
    error: str | None
    """Why it ended as it did, or what it met last."""


class JobView(Struct, frozen=True, kw_only=True):
    """A job, and how it stands."""

    name: str
    does: str
    due: str
    """When, in words."""
    next_due_at: datetime | None
    """Null: it never ends, or comes only when somebody asks."""
    fresh: bool
    """What was due is done, or is not later than it may be."""
    late_seconds: int
    """How long ago the first due time was that is not done; of a job that never ends, when somebody
    was last at it."""
    running: bool
    """A run is under way now."""
    error: str | None
    """What a job that never ends met last; the others tell it with their runs."""
    error_at: datetime | None
    last_run: RunView | None
    """The one that was begun last."""


class Jobs(Struct, frozen=True):
    """All jobs."""

    jobs: list[JobView]


class JobHistory(JobView, frozen=True, kw_only=True):
    """A job with its runs, the newest first."""

    runs: list[RunView]
    next_cursor: int | None


class RunRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run is asked for with."""

    options: dict[str, bool] = {}
    """What it may do that a person must want: `accept_removals`, `accept_losses`; `dry_run`; or, of
    `reconcile`, `thorough`: every history is read."""


class Findings(Struct, frozen=True, kw_only=True):
    """What a run lists one by one."""

    findings: list[NumberedFinding]
    next_cursor: int | None


@dataclass
class _RunOperation(Operation):
    """Documents that the body may be left out."""

    def __post_init__(self) -> None:
        if isinstance(self.request_body, RequestBody):
            self.request_body.required = False


@dataclass
class _FindingsOperation(Operation):
    """Documents that the findings are to be had as CSV, too."""

    def __post_init__(self) -> None:
        answer = (self.responses or {})["200"]
        if isinstance(answer, OpenAPIResponse) and answer.content is not None:
            answer.content[CSV] = OpenAPIMediaType(Schema(type=OpenAPIType.STRING))


_PLAIN: Final = RunRequest()


def router(store: Store, scheduler: Scheduler) -> Router:
    """The routes under `/v1/jobs` and `/v1/runs`."""

    @get("/jobs", opt=needs(Scope.READ), responses=documented())
    async def every() -> Jobs:
        """Look at all jobs: what each does, when it is due, and how it stands."""
        found = await scheduler.standings(scheduler.jobs)
        return Jobs([job_view(standing) for standing in found])

    @get("/jobs/{name:str}", opt=needs(Scope.READ), responses=documented(404))
    async def read(
        name: FromPath[str],
        *,
        cursor: Annotated[int | None, QueryParameter(ge=0, le=LARGEST)] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=1_000)] = 100,
    ) -> JobHistory:
        """Look at one job and its runs, the newest first."""
        _check(name, scheduler)
        (standing,) = await scheduler.standings([name])
        runs = await store.runs.page(name, before=cursor, limit=limit)
        return JobHistory(
            **msgspec.structs.asdict(job_view(standing)),
            runs=[view(run) for run in runs],
            next_cursor=runs[-1].id if len(runs) == limit else None,
        )

    @post(
        "/jobs/{name:str}/run",
        opt=needs(Scope.ADMIN),
        status_code=HTTPStatus.ACCEPTED,
        request_max_body_size=MAX_BODY_BYTES,
        operation_class=_RunOperation,
        responses=documented(404, body=True),
        response_description="It waits for the next worker.",
    )
    async def run(
        request: StrictRequest, name: FromPath[str], data: JSONBody[RunRequest] = _PLAIN
    ) -> RunView:
        """Ask for a run of a job, now. A worker begins it within a second or two.

        What is under way comes before it. Asked for twice before it begins, with the same options,
        it is the same run.
        """
        _check(name, scheduler)
        if by := CADENCES[name].by:
            raise InvalidRequest(f"Job {name} is not run by its name.", fix=f"{by}.", field="name")
        _check_options(name, data.options)
        wanted = {option: True for option, is_wanted in data.options.items() if is_wanted}
        asked_by = caller_of(request).name
        return view(await store.runs.ask(name, asked_by=asked_by, options=wanted))

    @get("/runs/{run_id:int}", opt=needs(Scope.READ, Scope.SYNC), responses=documented(404))
    async def look(run_id: FromPath[int]) -> RunView:
        """Look at one run."""
        return view(await _known(store, run_id))

    @get(
        "/runs/{run_id:int}/findings",
        opt=needs(Scope.SYNC),
        operation_class=_FindingsOperation,
        responses={
            200: ResponseSpec(
                Findings,
                description="A page of them; as CSV all of them.",
                generate_examples=False,
            ),
            **documented(404),
        },
    )
    async def findings(
        request: StrictRequest,
        run_id: FromPath[int],
        *,
        cursor: Annotated[int | None, QueryParameter(ge=0, le=LARGEST)] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=10_000)] = 1_000,
        form: Annotated[Literal["json", "csv"] | None, QueryParameter(name="format")] = None,
    ) -> Response[Any]:
        """Look at what a run lists one by one, such as rows of a source that were left out.

        With `?format=csv`, or `Accept: text/csv`, all of them as a CSV file. Those of job `canary`
        hold links, and are for admins.
        """
        run = await _known(store, run_id)
        if run.job == "canary" and not caller_of(request).may(Scope.ADMIN):
            raise HTTPException(
                status_code=HTTPStatus.FORBIDDEN,
                detail="What this run lists are links: they take a key with the scope admin.",
            )
        accepts = header(request.scope, b"accept")
        if form == "csv" or (form is None and CSV in accepts):
            name = f"run-{run_id}-findings.csv"
            return Stream(
                _as_csv(store, run_id),
                media_type=CSV,
                headers={"Content-Disposition": f'attachment; filename="{name}"'},
            )
        after = -1 if cursor is None else cursor
        page = await store.runs.findings(run_id, after=after, limit=limit)
        return Response(
            Findings(findings=page, next_cursor=page[-1].number if len(page) == limit else None)
        )

    return Router("/v1", route_handlers=[every, read, run, look, findings], tags=["jobs"])


def view(run: RunRecord) -> RunView:
    """A run as the API shows it: where a job stands in it is the job's own business."""
    seconds = None
    if run.started_at and run.ended_at:
        seconds = (run.ended_at - run.started_at).total_seconds()
    of_run = msgspec.structs.asdict(run) | {"duration_seconds": seconds}
    return RunView(**{name: of_run[name] for name in RunView.__struct_fields__})


def job_view(standing: Standing) -> JobView:
    """A job as the API shows it."""
    run = standing.run
    return JobView(
        name=standing.name,
        does=standing.does,
        due=standing.calendar,
        next_due_at=standing.next_due_at,
        fresh=standing.is_fresh,
        late_seconds=int(standing.late.total_seconds()),
        running=run is not None and run.state == "running",
        error=standing.error,
        error_at=standing.error_at,
        last_run=view(run) if run else None,
    )


async def _as_csv(store: Store, run_id: int) -> AsyncIterator[str]:
    yield lines([("number", "source", "line", "ref", "reason")])
    after = -1
    while page := await store.runs.findings(run_id, after=after, limit=FINDINGS_AT_ONCE):
        yield lines((f.number, f.source, f.line, f.ref, f.reason) for f in page)
        after = page[-1].number


def _check(name: str, scheduler: Scheduler) -> None:
    if name not in scheduler.jobs:
        raise UnknownJob(name, scheduler.jobs)


def _check_options(name: str, given: Mapping[str, bool]) -> None:
    known = CADENCES[name].options
    for option in given:
        if option not in known:
            raise InvalidRequest(
                f"Job {name} has no option {option!r}.",
                fix=f"Use one of: {', '.join(known)}." if known else "Leave it out.",
                field=f"options.{option}",
            )


async def _known(store: Store, run_id: int) -> RunRecord:
    run = await store.runs.get(run_id) if run_id <= LARGEST else None
    if run is None:
        raise UnknownRun
    return run
