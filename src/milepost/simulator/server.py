"""The simulator as a process, or as a thread of a test: a real socket, uvicorn, one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
import uvloop
from litestar import Litestar, Request, Response
from litestar.exceptions import HTTPException
from msgspec import Struct
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from milepost.simulator import api, control, survey_page
from milepost.simulator.account import Account
from milepost.simulator.config import Config
from milepost.simulator.endpoints import oauth
from milepost.simulator.faults import TRANSPORT
from milepost.simulator.wire import API_ROOT, Refusal

logger = logging.getLogger(__name__)

GRACE_SECONDS = 5
"""How long calls in flight may take to end, once the simulator was asked to stop."""

LEAVE_SECONDS = 0.005
"""Until connections on which nothing is in flight have closed. Uvicorn itself waits for 0.1 s,
which a test would wait for as well that starts a simulator of its own: most do."""

BACKLOG = 2048

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - compared with, not bound to


class Ready(Struct, frozen=True):
    """What a client needs to know. `url` is the base of the API, `origin` that of survey links."""

    url: str
    origin: str
    directory_id: str
    survey_id: str


class _Protocol(HttpToolsProtocol):
    """Hands the transport to the application: some faults cut the connection itself."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {TRANSPORT: self.transport}  # type: ignore[dict-item]


class _Server(uvicorn.Server):
    """A server that says when it serves, and waits for its end instead of looking out for it."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start
        self._end = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self._end.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await asyncio.sleep(LEAVE_SECONDS)
        if self.server_state.connections or self.server_state.tasks:
            await super().shutdown(sockets)

    def stop(self) -> None:
        """Take no more calls, finish those in flight, return."""
        self.should_exit = True
        self._end.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End on SIGTERM and SIGINT, and return from it: what comes after us must still happen."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)


def application(account: Account) -> Litestar:
    """The ASGI application of one account; its server must hand over the transport."""

    def refused(request: Request[Any, Any, Any], refusal: Refusal) -> Response[bytes]:
        if request.scope["path"].startswith("/control"):
            return control.refused(refusal)
        return api.refused(account, refusal)

    def http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
        if error.status_code in (404, 405):
            # The platform does not tell a path that is unknown from a method that is (inferred).
            method, path = request.scope["method"], request.scope["path"]
            return refused(request, Refusal(404, f"API call does not exist: {method} {path}"))
        return refused(request, Refusal(error.status_code, error.detail))

    def unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        logger.error("A call failed: %s", request.scope["path"], exc_info=error)
        return refused(request, Refusal(500, "Internal Server Error"))

    return Litestar(
        route_handlers=[
            *api.routes(account),
            *oauth.routes(account),
            *survey_page.routes(account),
            *control.routes(account),
        ],
        exception_handlers={
            Refusal: refused,
            HTTPException: http_error,
            Exception: unexpected,
        },
        openapi_config=None,
        logging_config=None,
    )


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def _origin(host: str, port: int) -> str:
    named = _WILDCARDS.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{named}:{port}"


async def _serve(
    config: Config, host: str, port: int, on_start: Callable[[_Server, Ready], None]
) -> None:
    for fault in config.faults:
        api.check_fault(fault)
    account = Account(config)
    try:
        await account.open()
        with contextlib.closing(_bind(host, port)) as listener:
            account.origin = _origin(host, listener.getsockname()[1])
            ready = Ready(
                url=f"{account.origin}{API_ROOT}",
                origin=account.origin,
                directory_id=account.directory_id,
                survey_id=account.survey_id,
            )
            settings = uvicorn.Config(
                application(account),
                http=_Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,  # survey links are credentials
                server_header=False,
                date_header=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
                timeout_keep_alive=60,
            )
            server = _Server(settings, lambda: on_start(server, ready))
            await server.serve([listener])
    finally:
        await account.close()


async def serve(
    config: Config,
    *,
    host: str = "127.0.0.1",
    port: int = 8790,
    ready: Callable[[Ready], None],
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight and return.

    Args:
        config: How to start.
        host: The address to listen on, and the host of survey links.
        port: 0 picks a free one.
        ready: Called once, when connections are accepted.

    Raises:
        OSError: The port is taken, or a file cannot be opened; `BlockingIOError` if another
            simulator holds it.
        ValueError: The state file is not one of ours, or a fault names no endpoint.
    """
    await _serve(config, host, port, lambda _server, answer: ready(answer))


@contextlib.contextmanager
def running(config: Config, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[Ready]:
    """A simulator in a thread of its own, for tests: serves inside the `with`, is gone after it.

    Raises:
        OSError: As `serve`.
        ValueError: As `serve`.
    """
    started = threading.Event()
    found: list[Ready] = []
    failed: list[BaseException] = []
    stops: list[Callable[[], object]] = []

    def on_start(server: _Server, ready: Ready) -> None:
        loop = asyncio.get_running_loop()
        stops.append(lambda: loop.call_soon_threadsafe(server.stop))
        found.append(ready)
        started.set()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_serve(config, host, port, on_start))
        except BaseException as error:  # noqa: BLE001 - carried over to the thread that waits
            failed.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run, name="simulator", daemon=True)
    thread.start()
    started.wait()
    try:
        if found:
            yield found[0]
    finally:
        for stop in stops:
            if thread.is_alive():
                stop()
        thread.join()
        if failed:
            raise failed[0]
