"""The empty endpoint: what framework and server cost before any work is done.

`python -m benchmarks.empty PORT`. It has the path of our own, takes a body, and answers as many
bytes as a link has.
"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
import uvloop
from litestar import Litestar, Request, Response, get, post

from milepost import app

ANSWER = b'{"url":"http://127.0.0.1:8700/l/' + b"-" * 540 + b'"}'


@post("/v1/links")
async def links(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Take a body, do nothing with it, answer."""
    await request.body()
    return Response(ANSWER, media_type="application/json", status_code=201)


@get("/health/ready")
async def ready() -> None:
    """Answer whoever waits for the process."""


async def _serve(port: int) -> None:
    config = uvicorn.Config(  # as `app.serve` has it
        Litestar([links, ready], openapi_config=None, logging_config=None),
        loop="uvloop",
        http="httptools",
        timeout_keep_alive=app.KEEP_ALIVE_SECONDS,
        access_log=False,
        log_config=None,
        server_header=False,
        backlog=app.BACKLOG,
    )
    with app.listening("127.0.0.1", port) as listeners:
        await uvicorn.Server(config).serve(listeners)


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
