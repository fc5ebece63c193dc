"""One call as an endpoint sees it, and what an endpoint is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from milepost.simulator import shapes
from milepost.simulator.account import BRAND_ID, Account
from milepost.simulator.operations import OPERATIONS
from milepost.simulator.tokens import scopes_for
from milepost.simulator.wire import Item, Refusal, page, read

__all__ = ["BRAND_ID", "Answer", "Call", "Endpoint", "writes"]

_DECODERS = {
    name: msgspec.json.Decoder(operation.shape)
    for name, operation in OPERATIONS.items()
    if operation.shape is not shapes.Nothing
}


class Call(Struct):
    """One call: whose account, which path, and what was sent with it."""

    account: Account
    method: str
    path: str
    ids: dict[str, str]
    query: dict[str, str]
    body: bytes

    async def write(self, operation: str) -> object | None:
        """Do the write that this call asks for; its result."""
        decoder = _DECODERS.get(operation)
        body = read(decoder, self.body) if decoder else shapes.Nothing()
        outcome = await self.account.write(
            operation, self.ids, body, method=self.method, path=self.path
        )
        return outcome.result

    def paged(
        self,
        items: Sequence[Item],
        shape: Callable[[Item], dict[str, object]],
        *,
        size: int | None = None,
    ) -> dict[str, object]:
        """A page of elements, and the URL of the next one on our own address."""
        found, token = page(items, self.query, size=size)
        following = None
        if token is not None:
            query = urlencode(self.query | {"skipToken": token})
            following = f"{self.account.origin}{self.path}?{query}"
        return {"elements": [shape(item) for item in found], "nextPage": following}

    def required(self, name: str) -> str:
        """A query parameter that must be there."""
        if not self.query.get(name):
            raise Refusal(400, f"Missing required parameter: {name}")
        return self.query[name]


Answer = Callable[[Call], Awaitable[object | None]]


class Endpoint(Struct, frozen=True):
    """A method and a path, the call class they count as, and what answers them.

    `reads` says whether a call changes nothing; unless given, whether it is a GET.
    """

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    call_class: str
    answer: Answer
    reads: bool | None = None

    @property
    def name(self) -> str:
        """Method and path, such as `GET /surveys/{survey}`."""
        return f"{self.method} {self.path.replace(':str}', '}')}"

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes of which an access token must have one."""
        reads = self.method == "GET" if self.reads is None else self.reads
        return scopes_for(self.call_class, reads=reads)


def writes(operation: str) -> Answer:
    """An endpoint that does one write."""

    async def answer(call: Call) -> object | None:
        return await call.write(operation)

    return answer
