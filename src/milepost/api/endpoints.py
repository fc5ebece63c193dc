"""Endpoints: where messages go, what they were sent, and a message to try one with."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import msgspec
from litestar import Router, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import Meta, Struct

from milepost.api.access import caller_of, needs
from milepost.api.problems import documented
from milepost.api.requests import MAX_BODY_BYTES, StrictRequest
from milepost.errors import InvalidRequest
from milepost.model import Attempt, Endpoint, Message, MessageId, MessageType, Scope
from milepost.store import Store
from milepost.webhooks import MOST_URL, Webhooks, body, name_of

TEST: Final = "endpoint.test"
"""The type of a test message, which every endpoint takes."""

EARLIEST: Final = 1970
LATEST: Final = 9000
"""Years that a moment can be of; the ends of the calendar cannot change their zone."""


class EndpointRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where messages are to go."""

    url: Annotated[str, Meta(min_length=1, max_length=MOST_URL)]
    """https; http only where the operator allows the network."""
    types: Annotated[tuple[MessageType, ...], Meta(min_length=1, max_length=20)] | None = None
    """Of which types it wants messages; null: of all, also of those that come to be later."""
    description: Annotated[str, Meta(max_length=200)] = ""


class NewEndpoint(Endpoint, frozen=True, kw_only=True):
    """An endpoint with its secret, which is shown this once."""

    secret: str
    """Signs its messages: `whsec_…`, as the libraries of Standard Webhooks take it."""


class NewSecret(Struct, frozen=True, kw_only=True):
    """Another secret of an endpoint, shown this once."""

    secret: str
    secret_before_until: datetime | None
    """Until then the one before signs as well."""


class Endpoints(Struct, frozen=True):
    """All endpoints, the oldest first."""

    endpoints: list[Endpoint]


class Tried(Struct, frozen=True, kw_only=True):
    """What came of a test message."""

    delivered: bool
    seconds: float
    code: int | None
    """The status of the answer; null: there was none."""
    error: str | None
    """Why there was none."""
    said: str | None
    """How the answer's body begins."""


class MessageView(Struct, frozen=True, kw_only=True):
    """What an endpoint was sent, or is to be."""

    id: MessageId
    type: MessageType
    state: Literal["waiting", "delivered", "parked"]
    """`parked`: all attempts were in vain; it can be replayed."""
    link_id: UUID | None
    """The link that it tells of, as it is when it is sent."""
    data: dict[str, Any] | None
    """What it tells where it is of no link."""
    created_at: datetime
    due_at: datetime | None
    """When the next attempt is due."""
    attempts: tuple[Attempt, ...]


class MessagePage(Struct, frozen=True, kw_only=True):
    """Messages of an endpoint, the newest first."""

    messages: list[MessageView]
    next_cursor: MessageId | None


class ReplayRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which messages are to be sent again; with neither, all that are parked."""

    message: MessageId | None = None
    """This one, whatever became of it."""
    since: Annotated[datetime, Meta(tz=True)] | None = None
    """All from this moment on; those that wait are sent now."""


class Replayed(Struct, frozen=True):
    """What is sent again."""

    messages: int


def router(store: Store, webhooks: Webhooks) -> Router:
    """The routes under `/v1/endpoints`."""
    handlers = [*_of_endpoints(store), *_of_messages(store, webhooks)]
    return Router("/v1/endpoints", route_handlers=handlers, tags=["endpoints"])


def _of_endpoints(store: Store) -> list[HTTPRouteHandler]:
    @get("/", opt=needs(Scope.READ), responses=documented())
    async def every(request: StrictRequest) -> Endpoints:
        """Look at all endpoints; what follows the host in their URLs is for admins."""
        in_full = caller_of(request).may(Scope.ADMIN)
        found = await store.messages.endpoints()
        return Endpoints(found if in_full else [masked(endpoint) for endpoint in found])

    @get("/{endpoint_id:uuid}", opt=needs(Scope.READ), responses=documented(404))
    async def read(request: StrictRequest, endpoint_id: FromPath[UUID]) -> Endpoint:
        """Look at one endpoint."""
        endpoint = await store.messages.endpoint(endpoint_id)
        return endpoint if caller_of(request).may(Scope.ADMIN) else masked(endpoint)

    @delete("/{endpoint_id:uuid}", opt=needs(Scope.ADMIN), responses=documented(404))
    async def remove(endpoint_id: FromPath[UUID]) -> None:
        """Remove an endpoint: what was still to be sent to it is not sent."""
        await store.messages.delete(endpoint_id)

    @post(
        "/{endpoint_id:uuid}/secret",
        opt=needs(Scope.ADMIN),
        status_code=HTTPStatus.OK,
        responses=documented(404),
    )
    async def rotate(endpoint_id: FromPath[UUID]) -> NewSecret:
        """Give an endpoint another secret, shown this once. For 24 h both sign."""
        secret = await store.messages.rotate(endpoint_id)
        endpoint = await store.messages.endpoint(endpoint_id)
        return NewSecret(secret=secret, secret_before_until=endpoint.secret_before_until)

    @post(
        "/{endpoint_id:uuid}/resume",
        opt=needs(Scope.ADMIN),
        status_code=HTTPStatus.OK,
        responses=documented(404),
    )
    async def resume(endpoint_id: FromPath[UUID]) -> Endpoint:
        """Send to an endpoint again that has answered 410, from what still waits on."""
        return await store.messages.resume(endpoint_id)

    return [every, read, remove, rotate, resume]


def _of_messages(store: Store, webhooks: Webhooks) -> list[HTTPRouteHandler]:
    @post(
        "/",
        opt=needs(Scope.ADMIN),
        request_max_body_size=MAX_BODY_BYTES,
        responses=documented(422, body=True),
        response_description="It is sent what happens from now on.",
    )
    async def create(data: JSONBody[EndpointRequest]) -> NewEndpoint:
        """Name an endpoint that messages go to. Its secret is shown this once."""
        await webhooks.check(data.url)
        endpoint, secret = await store.messages.create(data.url, data.types or (), data.description)
        return NewEndpoint(**msgspec.structs.asdict(endpoint), secret=secret)

    @post(
        "/{endpoint_id:uuid}/test",
        opt=needs(Scope.ADMIN),
        status_code=HTTPStatus.OK,
        responses=documented(404),
    )
    async def test(endpoint_id: FromPath[UUID]) -> Tried:
        """Send a message of type `endpoint.test` now, once, and say what came of it."""
        endpoint = await store.messages.endpoint(endpoint_id)
        secrets = await store.messages.secrets(endpoint_id)
        content = body(TEST, datetime.now(UTC), {"endpoint_id": endpoint_id})
        answer = await webhooks.send(endpoint.url, secrets, name_of(uuid4()), content)
        return Tried(
            delivered=answer.is_taken,
            seconds=answer.seconds,
            code=answer.code,
            error=answer.error,
            said=answer.said,
        )

    @get("/{endpoint_id:uuid}/messages", opt=needs(Scope.ADMIN), responses=documented(404))
    async def messages(
        endpoint_id: FromPath[UUID],
        *,
        message_state: Annotated[
            Literal["waiting", "delivered", "parked"] | None, QueryParameter(name="state")
        ] = None,
        cursor: FromQuery[str | None] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=1_000)] = 100,
    ) -> MessagePage:
        """Look through an endpoint's messages with their attempts, the newest first."""
        await store.messages.endpoint(endpoint_id)
        page = await store.messages.page(
            endpoint_id,
            state=message_state,
            before=None if cursor is None else _id_of(cursor, "cursor"),
            limit=limit,
        )
        return MessagePage(
            messages=[_view(message) for message in page],
            next_cursor=name_of(page[-1].id) if len(page) == limit else None,
        )

    @post(
        "/{endpoint_id:uuid}/replay",
        opt=needs(Scope.ADMIN),
        status_code=HTTPStatus.ACCEPTED,
        request_max_body_size=MAX_BODY_BYTES,
        responses=documented(404, body=True),
        response_description="They are sent in a moment.",
    )
    async def replay(endpoint_id: FromPath[UUID], data: JSONBody[ReplayRequest]) -> Replayed:
        """Send messages again, under the ids that they had: all that are parked, or those named."""
        await store.messages.endpoint(endpoint_id)
        message, since = _wanted(data)
        return Replayed(await store.messages.replay(endpoint_id, message=message, since=since))

    return [create, test, messages, replay]


def masked(endpoint: Endpoint) -> Endpoint:
    """An endpoint for eyes that may not use it: a path or a query may be a credential."""
    parts = urlsplit(endpoint.url)
    return msgspec.structs.replace(endpoint, url=f"{parts.scheme}://{parts.netloc}/…")


def _view(message: Message) -> MessageView:
    return MessageView(**msgspec.structs.asdict(message) | {"id": name_of(message.id)})


def _wanted(data: ReplayRequest) -> tuple[UUID | None, datetime | None]:
    if data.message is not None and data.since is not None:
        raise InvalidRequest(
            "Either one message is meant or all since a moment.",
            fix="Leave message or since out.",
            field="since",
        )
    if data.since is not None and not EARLIEST <= data.since.year <= LATEST:
        raise InvalidRequest(f"since is in the year {data.since.year}.", field="since")
    return None if data.message is None else _id_of(data.message, "message"), data.since


def _id_of(name: str, field: str) -> UUID:
    try:
        return UUID(msgspec.convert(name, MessageId).removeprefix("msg_"))
    except msgspec.ValidationError:
        raise InvalidRequest(
            "A message's id is msg_ and 32 hexadecimal digits.", field=field
        ) from None
