"""The composition root: settings go in, a running Milepost comes out."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import FrameType

import uvicorn
from msgspec import Struct
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from milepost import admin, api
from milepost.budget import Budget, for_purpose
from milepost.embedded import EmbeddedPostgres
from milepost.errors import ConfigurationError, DatabaseError, UnknownJob
from milepost.issuing import Issuing
from milepost.jobs.canary import Canary
from milepost.jobs.deliver import Deliver
from milepost.jobs.directory import bind
from milepost.jobs.drain import Drain
from milepost.jobs.flow import Flow
from milepost.jobs.funnel import Funnel
from milepost.jobs.intake import Import, Intake, stage_files
from milepost.jobs.late_data import LateDataFlow
from milepost.jobs.provisioning import Provisioning
from milepost.jobs.reconcile import Reconcile
from milepost.jobs.recover import Recover, Recovery
from milepost.jobs.replenish import Replenish
from milepost.jobs.responses import Responses
from milepost.jobs.rotate import Rotate
from milepost.jobs.rows import Form
from milepost.jobs.run import Job, Progress, Whole
from milepost.jobs.sources import FileSource, configured
from milepost.jobs.sweep import Sweep
from milepost.jobs.sync import Sync
from milepost.matching import Matching
from milepost.model import Deployment, Route
from milepost.routes import (
    Joining,
    MailingListMaker,
    Maker,
    StepwiseMaker,
    TransactionMaker,
)
from milepost.scheduler import TICK_SECONDS, Scheduler, timetable
from milepost.settings import Settings
from milepost.store import LOCAL_URL, Store, migrate
from milepost.store.runs import RunRecord
from milepost.upstream import ClientCredentials, Credentials, Token, Upstream
from milepost.webhooks import Webhooks
from milepost.worker import Endless, Worker, told_to_stop

log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 65
"""Longer than callers keep their pooled connections (60 s is usual): it is they who close first,
and no request meets a connection that is just going away."""

GRACE_SECONDS = 15
"""How long requests may take to end once the process was told to stop: the longest deadline that a
caller may set is 8 s."""

NOTICE_SECONDS = 1
"""From being told to stop, which `/health/ready` shows at once, until no more connections are
taken."""

SUCCESSOR_SECONDS = 10
"""The same, at the most, for one of several processes, which waits for its successor."""

LINGER_SECONDS = 2
"""How long the connections that there are then are answered, each for the last time, before those
that are idle are closed. A request on its way over a connection that is closed would be lost, and
its caller could not know whether it arrived."""

LOOK_SECONDS = 1.0
"""Between looks for links and for responses that are due; a look that finds none is one cheap
statement."""

LATE_DATA_LOOK_SECONDS = 0.25
"""Between looks for data that are due: the link is out, and its customer may open it."""

TIDY_SECONDS = 600.0
"""Between looks for messages that are to be forgotten."""

FORGET_SECONDS = 60.0
"""Between looks whether the ledger says that it is recovered although nobody recovers: a backup
that is taken in between would say so, too."""

HEAD_SECONDS = 10
"""How long a caller may take to send the head of a request: who connects and says nothing, or a
letter now and then, holds a connection for no longer."""

BACKLOG = 2048
"""Connections that wait to be taken; what Linux allows itself is the smaller number."""


class Milepost(Struct, frozen=True, kw_only=True):
    """Everything that a process of ours works with."""

    store: Store
    upstream: Upstream
    budget: Budget
    deployment: Deployment
    issuing: Issuing
    sync: Sync
    replenish: Replenish
    drain: Drain
    sweep: Sweep
    funnel: Funnel
    scheduler: Scheduler
    matching: Matching
    responses: Responses
    webhooks: Webhooks
    deliver: Deliver
    recovery: Recovery
    worker: Worker

    async def run(
        self,
        job: str,
        *,
        asked_by: str,
        options: Mapping[str, object] | None = None,
        progress: Callable[[Progress], None] = lambda _: None,
        following: Callable[[RunRecord], None] = lambda _: None,
        stopping: asyncio.Event | None = None,
    ) -> RunRecord:
        """Ask for a run of a job, and wait for its end.

        It is run in this process, or by another one that takes it first. What is under way, or was
        begun and left, comes before it.

        Args:
            job: its name.
            asked_by: who wants it.
            options: of the run.
            progress: is told how far the run in this process is.
            following: is told, each second, how far the one in another process is.
            stopping: once it is set, the run is left, and somebody else goes on with it.

        Returns:
            The run, as it ended, or as it was left.

        Raises:
            UnknownJob: there is no such job.
            DatabaseError: Postgres is away; the run stays asked for.
        """
        if job not in self.scheduler.jobs:
            raise UnknownJob(job, self.scheduler.jobs)
        runs, stopping = self.store.runs, stopping or asyncio.Event()
        asked = await runs.ask(job, asked_by=asked_by, options=options)
        while asked.ended_at is None and not stopping.is_set():
            ran = await self.scheduler.run_due(job, stopping, run_id=asked.id, progress=progress)
            if ran is None:
                if (record := (await runs.records([job]))[job].run) and record.ended_at is None:
                    following(record)
                with suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), TICK_SECONDS)
            asked = await runs.get(asked.id) or asked
        return asked

    async def import_file(
        self,
        path: Path,
        form: Form | None = None,
        *,
        asked_by: str,
        dry_run: bool = False,
        progress: Callable[[Progress], None] = lambda _: None,
        following: Callable[[RunRecord], None] = lambda _: None,
    ) -> RunRecord:
        """Take in the registrants of a file of this machine.

        Args:
            path: of the file, or of a folder of files.
            form: what is said of it.
            asked_by: who hands it over.
            dry_run: only tell what would change.
            progress: is told how far it is: in bytes while it is read, then in rows.
            following: as `run`.

        Returns:
            The run of job `import` that has done it.

        Raises:
            Unreadable: the file is not there, or holds something else.
        """
        intake = await stage_files(self.store, FileSource(path, form or Form()), progress)
        options = {"intake": intake, "dry_run": dry_run}
        return await self.run(
            "import", asked_by=asked_by, options=options, progress=progress, following=following
        )


@contextmanager
def database(settings: Settings) -> Iterator[str]:
    """The URL of a database that is there and migrated, while the block runs.

    Raises:
        DatabaseError: it cannot be had, or it is one that was given to us and is behind.
    """
    if settings.database_url is None:
        with EmbeddedPostgres(settings.home) as url:
            migrate.upgrade(url)
            yield url
        return
    if migrate.pending(settings.database_url):
        raise DatabaseError(
            "the database is behind this version of Milepost; run: milepost migrate"
        )
    yield settings.database_url


def credentials(settings: Settings) -> Credentials:
    """How this installation shows the platform whose its calls are."""
    if settings.upstream_client is not None:
        return ClientCredentials(*settings.upstream_client)
    return Token(settings.upstream_token or "")


@asynccontextmanager
async def opened(settings: Settings, database_url: str) -> AsyncIterator[Milepost]:
    """Milepost on its database and its platform, while the block runs.

    The platform is asked for its directory once in the life of a deployment; afterwards Milepost
    starts while the platform is down.

    Raises:
        ConfigurationError: the directory is not there, a job is due at no time that there is, or
            the source of registrants cannot be one.
        DatabaseError: Postgres cannot be reached.
        UpstreamError: the platform cannot be asked for the directory, the first time.
    """
    when = timetable(settings.schedule, settings.time_zone)
    source = configured(settings.registrants_source)
    async with (
        await Store.open(
            database_url,
            settings.public_url or LOCAL_URL,
            secret=settings.secret,
            secret_before=settings.secret_before,
            recovers=settings.recover,
        ) as store,
        Budget(
            store.budget, rate_per_minute=settings.rate_per_minute, limits=settings.limits
        ) as budget,
        Upstream(settings.upstream_url, credentials(settings), gate=budget) as upstream,
        Webhooks(settings.webhooks_allow) as webhooks,
    ):
        deployment = await store.deployment.load()
        if deployment.directory_id is None:
            deployment = await bind(store, upstream, settings.directory_id)
        maker = MailingListMaker(
            upstream,
            directory_id=deployment.directory_id or "",
            deployment=store.deployment.load,
            capabilities=store.capabilities.current,
            secret=settings.secret,
        )
        joining = Joining(upstream, store.contacts, directory_id=deployment.directory_id or "")
        transactions = TransactionMaker(
            upstream,
            directory_id=deployment.directory_id or "",
            deployment=store.deployment.load,
            capabilities=store.capabilities.current,
            joining=joining,
            note=store.links.note,
            for_purpose=for_purpose,
            secrets=settings.secrets,
        )
        stepwise = StepwiseMaker(
            upstream,
            joining,
            directory_id=deployment.directory_id or "",
            deployment_id=deployment.id,
            deployment=store.deployment.load,
            capabilities=store.capabilities.current,
            note=store.links.note,
            secrets=settings.secrets,
            limits=settings.limits,
        )
        makers: dict[Route, Maker] = {
            Route.LIST: maker,
            Route.TRANSACTION: transactions,
            Route.STEPWISE: stepwise,
        }
        recovery = Recovery(store, is_wanted=settings.recover)
        issuing = Issuing(store, makers, maker, budget, recovering=recovery.is_under_way)
        flow = Flow(store.links, issuing)
        late_data = LateDataFlow(store.links, issuing, budget, call_class=maker.call_class)
        drain, sweep = Drain(flow, late_data), Sweep(flow)
        provisioning = Provisioning(store, upstream, deployment)
        replenish = Replenish(store, provisioning, deployment)
        rotate = Rotate(store, provisioning, deployment)
        funnel = Funnel(store.funnel)
        intake = None if source is None else Intake(store, source)
        sync = Sync(store, upstream, settings.directory_id, intake)
        matching = Matching(store, upstream, settings.secrets)
        responses = Responses(store, upstream, matching)
        deliver = Deliver(store, webhooks)
        jobs: dict[str, Job] = {
            "replenish": Whole(lambda stopping, told: replenish.run_once(stopping, progress=told)),
            "rotate": Whole(lambda stopping, told: rotate.run_once(stopping, progress=told)),
            "canary": Canary(store, upstream, provisioning),
            "sync": sync,
            "reconcile": Reconcile(store, upstream, responses),
            "drain": Whole(lambda stopping, _: drain.run_once(stopping)),
            "sweep": Whole(lambda stopping, _: sweep.run_once(stopping)),
            "deliver": Whole(lambda stopping, _: deliver.run_once(stopping)),
            "funnel": Whole(lambda stopping, told: funnel.run_once(stopping, progress=told)),
            "import": Import(store),
        }
        if settings.recover:
            jobs["recover"] = Recover(store, upstream, provisioning, deployment, settings.secrets)
        scheduler = Scheduler(store.runs, jobs, when, holds=recovery.holds)
        note = store.runs.note_round
        after = recovery.after
        try:
            async with recovery.watched():
                yield Milepost(
                    store=store,
                    upstream=upstream,
                    budget=budget,
                    deployment=deployment,
                    issuing=issuing,
                    sync=sync,
                    replenish=replenish,
                    drain=drain,
                    sweep=sweep,
                    funnel=funnel,
                    scheduler=scheduler,
                    matching=matching,
                    responses=responses,
                    webhooks=webhooks,
                    deliver=deliver,
                    recovery=recovery,
                    worker=Worker(
                        Endless(job="drain", run=after(drain.make), every=LOOK_SECONDS, note=note),
                        Endless(
                            job="drain",
                            run=after(drain.tell),
                            every=LATE_DATA_LOOK_SECONDS,
                            note=note,
                        ),
                        Endless(
                            job="sweep", run=after(sweep.run_once), every=LOOK_SECONDS, note=note
                        ),
                        Endless(job="reconcile", run=after(responses.run_once), every=LOOK_SECONDS),
                        Endless(
                            job="deliver",
                            run=after(deliver.run_once),
                            every=LOOK_SECONDS,
                            note=note,
                        ),
                        Endless(job="deliver", run=deliver.tidy, every=TIDY_SECONDS),
                        Endless(job="recover", run=recovery.forget, every=FORGET_SECONDS),
                        Endless(job="scheduler", run=scheduler.tick, every=TICK_SECONDS),
                    ),
                )
        finally:
            await scheduler.finish()
            await issuing.finish()


@contextmanager
def listening(host: str, port: int, processes: int = 1) -> Iterator[list[socket.socket]]:
    """Sockets that take connections on one port, one for each process; port 0 picks a free one.

    Of several, each has a queue of its own, and the kernel deals connections out to them evenly:
    200 kept-alive connections to two processes came to lie between 90 : 110 and 100 : 100, where
    processes that shared one queue had up to 34 : 166 (whoever wakes first takes all that wait).
    The price is that a queue stands still while its process is away. Whoever calls this keeps the
    sockets open all the while, so that what waits in a queue is not lost, but answered by the next
    process that is given its socket.

    Raises:
        ConfigurationError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as sockets:
        try:
            first = socket.create_server((host, port), family=family, backlog=BACKLOG)
            if processes == 1:
                yield [sockets.enter_context(first)]
                return
            # Nobody had the port. It is taken again for sharing, which alone would not have told:
            # anybody who shares a port may join.
            with first:
                port = first.getsockname()[1]
            listeners = [
                sockets.enter_context(
                    socket.create_server(
                        (host, port), family=family, backlog=BACKLOG, reuse_port=True
                    )
                )
                for _ in range(processes)
            ]
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConfigurationError(
                    f"another program has port {port}: end it, or choose another port with --port"
                ) from error
            raise ConfigurationError(
                f"cannot listen on {host}, port {port}: {error.strerror}"
            ) from error
        # Only Linux deals out; elsewhere the last of the sockets would get everything.
        yield listeners if sys.platform == "linux" else listeners[-1:] * processes


async def serve(
    settings: Settings,
    database_url: str,
    listener: socket.socket,
    *,
    with_worker: bool,
    ready: Callable[[], None],
    ending: Callable[[], bool] = lambda: False,
) -> None:
    """Answer requests until SIGTERM or SIGINT; then finish what is in flight, and return.

    Told to stop, the process says at `/health/ready` that it is not, answers each connection for
    the last time, finishes requests and the calls behind them, and has its worker end. Should the
    worker end by an error of its own, the process ends in the same way.

    Args:
        settings: of this installation.
        database_url: the database, migrated.
        listener: takes the connections.
        with_worker: run the jobs, too.
        ready: is called once, when requests are answered.
        ending: is called once, when it was told to stop, and says whether a successor is on its
            way; the process then goes on until a second signal says that it is there. After SIGINT
            it waits for nobody.

    Raises:
        WorkerEnded: the worker did, by an error of its own.
        And as `opened`.
    """
    stopping = asyncio.Event()
    async with opened(settings, database_url) as milepost:
        await _forget_recovery(settings, milepost)
        config = uvicorn.Config(
            api.create(
                milepost.store,
                milepost.issuing,
                milepost.budget,
                milepost.scheduler,
                milepost.matching,
                events_key=settings.events_key,
                upstream=milepost.upstream,
                webhooks=milepost.webhooks,
                besides=[
                    admin.router(
                        milepost.store,
                        milepost.scheduler,
                        secret=settings.secret,
                        secure=(settings.public_url or "").startswith("https:"),
                    )
                ],
                stopping=stopping.is_set,
            ),
            loop="uvloop",
            http=Connection,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            access_log=False,  # it would write refs and ids of people
            log_config=None,
            server_header=False,
            proxy_headers=False,  # nobody's address decides anything here
            backlog=BACKLOG,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        # What a process is made of by now stays: the collector need not look through it again, nor
        # run for every few hundred objects that a batch of events makes (a third of its time).
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 20, 50)
        server = _Server(config, stopping, ready, ending)

        def end() -> None:
            server.handle_exit(signal.SIGTERM, None)

        async with _working(milepost, stopping, end, wanted=with_worker):
            await server.serve([listener])


async def work(settings: Settings, database_url: str, ready: Callable[[], None]) -> None:
    """Run the jobs, and answer nobody, until SIGTERM or SIGINT.

    Raises:
        WorkerEnded: the worker did, by an error of its own.
        And as `opened`.
    """
    stopping = asyncio.Event()
    with told_to_stop(lambda _: stopping.set()):
        async with (
            opened(settings, database_url) as milepost,
            _working(milepost, stopping, stopping.set),
        ):
            await _forget_recovery(settings, milepost)
            ready()
            await stopping.wait()


async def _forget_recovery(settings: Settings, milepost: Milepost) -> None:
    """Where nobody recovers any more, let the next restore be recovered anew."""
    if settings.recover:
        return
    await milepost.recovery.forget()
    if left := await milepost.store.recovered.lost():
        log.warning("%d links wait for events that have not come again since a restore", left)


@asynccontextmanager
async def _working(
    milepost: Milepost, stopping: asyncio.Event, end: Callable[[], None], *, wanted: bool = True
) -> AsyncIterator[None]:
    """A worker beside the block; at the block's end it ends as well, without breaking off.

    Args:
        milepost: whose worker.
        stopping: is set when the process is told to stop.
        end: ends the block; is called when the worker has ended by an error of its own, which is
            raised when the block is over.
        wanted: whether there is to be a worker at all.
    """
    work = asyncio.create_task(milepost.worker.run(stopping)) if wanted else None
    if work is not None:
        work.add_done_callback(
            lambda ended: None if ended.cancelled() or ended.exception() is None else end()
        )
    try:
        yield
    finally:
        stopping.set()
        if work is not None:
            await work


class Connection(HttpToolsProtocol):
    """A caller's connection, which has to say what it wants within `HEAD_SECONDS`."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn's own
        """Wait for the first request."""
        super().connection_made(transport)
        self._await_head()

    def on_message_begin(self) -> None:
        """Wait for the rest of its head."""
        super().on_message_begin()
        if self._head is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        """Wait no more: bodies have a deadline of their own."""
        self._forget_head()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._forget_head()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)

    def _forget_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


class _Server(uvicorn.Server):
    """Says when it serves, takes leave of its callers, and returns after a signal.

    Uvicorn would close idle connections at once, under requests that are on their way, and then die
    of the signal; what stands behind it (calls in flight, the simulator, Postgres) is ended in
    order.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        stopping: asyncio.Event,
        ready: Callable[[], None],
        ending: Callable[[], bool],
    ) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._ready = ready
        self._ending = ending
        self._released = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit or sig == signal.SIGINT:
            self._released.set()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping.set()
        if self._ending():
            await self._wait_for_release(SUCCESSOR_SECONDS)
        elif self.server_state.connections:
            await self._wait_for_release(NOTICE_SECONDS)
        await self._take_no_more(sockets or [])
        self._answer_for_the_last_time()
        until = time.monotonic() + LINGER_SECONDS
        while self.server_state.connections and time.monotonic() < until:  # noqa: ASYNC110  (uvicorn has no event for it, and looks as well)
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)

    async def _wait_for_release(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._released.wait(), seconds)

    async def _take_no_more(self, sockets: Sequence[socket.socket]) -> None:
        """Close the listeners, but not under callers who have connected already."""
        kept = [listener.dup() for listener in sockets]
        for server in self.servers:
            server.close()
        for listener in kept:
            with listener, suppress(BlockingIOError):
                while True:
                    connection, _ = listener.accept()
                    await asyncio.get_running_loop().connect_accepted_socket(
                        lambda: Connection(self.config, self.server_state, self.lifespan.state),
                        connection,
                    )

    def _answer_for_the_last_time(self) -> None:
        """Let each connection end with its next answer."""
        self.server_state.default_headers = [
            *self.server_state.default_headers,
            (b"connection", b"close"),
        ]
        for connection in self.server_state.connections:
            if (cycle := getattr(connection, "cycle", None)) is not None:
                cycle.keep_alive = False  # its headers were chosen when the request came

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with told_to_stop(lambda number: self.handle_exit(number, None)):
            yield
