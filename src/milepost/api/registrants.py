"""Registrants: the app tells who they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

import msgspec
from litestar import Response, Router, get, post, put
from litestar.exceptions import HTTPException
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
)
from litestar.params import FromPath, FromQuery, JSONBody
from msgspec import Struct

from milepost.api.access import caller_of, needs
from milepost.api.jobs import RunView, view
from milepost.api.problems import documented
from milepost.api.requests import MAX_BODY_BYTES, StrictRequest, checked, header
from milepost.errors import InvalidRequest, UnknownRegistrant
from milepost.jobs.intake import check_size, stage_body
from milepost.jobs.reading import Kind
from milepost.jobs.rows import Form, Unreadable, WrongForm
from milepost.model import Ref, Registrant, RegistrantDetails, Scope
from milepost.store import Store

_PATH: Final = "/v1/registrants"
_KINDS: Final[Mapping[str, Kind]] = {"text/csv": "csv", "application/x-ndjson": "ndjson"}
_CREATED = ResponseSpec(Registrant, description="They were not known.", generate_examples=False)


class Accepted(Struct, frozen=True):
    """What was sent is written down; a run takes it in."""

    run: RunView


@dataclass
class _ImportOperation(Operation):
    """Documents a body that is read piece by piece."""

    def __post_init__(self) -> None:
        text = OpenAPIMediaType(Schema(type=OpenAPIType.STRING))
        self.request_body = RequestBody(dict.fromkeys(_KINDS, text), required=True)


def router(store: Store) -> Router:
    """The routes under `/v1/registrants`."""

    async def told(request: StrictRequest, details: RegistrantDetails) -> Response[Registrant]:
        ref = _ref(request)
        counts = await store.registrants.put({ref: details})
        registrant = await _known(store, ref)
        status = HTTPStatus.CREATED if counts.created else HTTPStatus.OK
        return Response(registrant, status_code=status)

    async def seen(request: StrictRequest) -> Registrant:
        registrant = await _known(store, _ref(request))
        return registrant if caller_of(request).may(Scope.SYNC) else masked(registrant)

    @put(
        "/{ref:path}",
        opt=needs(Scope.SYNC),
        request_max_body_size=MAX_BODY_BYTES,
        responses={201: _CREATED, **documented(body=True)},
    )
    async def upsert(
        request: StrictRequest,
        ref: FromPath[str],  # noqa: ARG001  (for the schema; see `_ref`)
        data: JSONBody[RegistrantDetails],
    ) -> Response[Registrant]:
        """Tell of a registrant; what is left out is forgotten. Job `sync` makes the contact."""
        return await told(request, data)

    @get("/{ref:path}", opt=needs(Scope.SYNC, Scope.READ), responses=documented(404))
    async def read(
        request: StrictRequest,
        ref: FromPath[str],  # noqa: ARG001  (for the schema; see `_ref`)
    ) -> Registrant:
        """Look at one registrant."""
        return await seen(request)

    @post(
        "/import",
        opt=needs(Scope.SYNC),
        status_code=HTTPStatus.ACCEPTED,
        request_max_body_size=None,
        operation_class=_ImportOperation,
        responses=documented(429, body=True),
        response_description="All has arrived; a worker begins the run within a second or two.",
    )
    async def take_in(
        request: StrictRequest,
        *,
        dry_run: FromQuery[bool] = False,
        column: FromQuery[list[str] | None] = None,
        encoding: FromQuery[str | None] = None,
        delimiter: FromQuery[str | None] = None,
    ) -> Accepted:
        """Send registrants as CSV or NDJSON; bad rows are listed by the run.

        `column=ref=CustomerId` says what one of our columns is called there, `column=notes=` passes
        one over; both may be repeated. Encoding and delimiter are detected unless they are given.
        Nobody is removed. A body that breaks off is not taken. At most 1 GiB and 5,000,000 rows.
        """
        announced = header(request.scope, b"content-length")
        check_size(size=int(announced) if announced.isdecimal() else 0)
        kind, said = _kind(request)
        form = _form(column or [], encoding or said, delimiter)
        try:
            intake = await stage_body(store, request.pieces(), kind, form)
        except Unreadable as error:
            raise InvalidRequest(f"{error}.") from error
        options = {"intake": intake, "dry_run": dry_run}
        asked_by = caller_of(request).name
        asked = await store.runs.ask("import", asked_by=asked_by, options=options)
        return Accepted(view(asked))

    # Who is called `import` is nobody else's: the address of an import would hide them.

    @put(
        "/import",
        opt=needs(Scope.SYNC),
        request_max_body_size=MAX_BODY_BYTES,
        include_in_schema=False,
    )
    async def upsert_import(
        request: StrictRequest, data: JSONBody[RegistrantDetails]
    ) -> Response[Registrant]:
        """Tell of the registrant `import`."""
        return await told(request, data)

    @get("/import", opt=needs(Scope.SYNC, Scope.READ), include_in_schema=False)
    async def read_import(request: StrictRequest) -> Registrant:
        """Look at the registrant `import`."""
        return await seen(request)

    handlers = [upsert, read, take_in, upsert_import, read_import]
    return Router(_PATH, route_handlers=handlers, tags=["registrants"])


def _kind(request: StrictRequest) -> tuple[Kind, str | None]:
    """What the body is, and in which encoding it says that it is."""
    content_type, parameters = request.content_type
    kind = _KINDS.get(content_type.strip().lower())
    if kind is None:
        raise HTTPException(
            status_code=HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            detail=f"The content type is {content_type or 'missing'}; send CSV as text/csv, or "
            "NDJSON as application/x-ndjson.",
        )
    return kind, parameters.get("charset")


def _form(columns: list[str], encoding: str | None, delimiter: str | None) -> Form:
    """What the address says of the form of the body.

    Raises:
        InvalidRequest: it cannot be.
    """
    names: dict[str, str | None] = {}
    for one in columns:
        ours, equals, theirs = one.partition("=")
        if not equals or not ours:
            raise InvalidRequest("It must be OURS=THEIRS, such as ref=CustomerId.", field="column")
        names[ours] = theirs or None
    try:
        return Form.of(columns=names, encoding=encoding, delimiter=delimiter, said_by="address")
    except WrongForm as error:
        field = "column" if error.field == "columns" else error.field
        raise InvalidRequest(f"{error.detail}.", field=field) from error


def masked(registrant: Registrant) -> Registrant:
    """A registrant for eyes that may not see personal data."""
    details = registrant.details
    return msgspec.structs.replace(
        registrant,
        details=RegistrantDetails(
            email=_veil(details.email),
            first_name=_veil(details.first_name),
            last_name=_veil(details.last_name),
            phone=_veil(details.phone),
            language=details.language,
            attributes=dict.fromkeys(details.attributes, "…"),
        ),
    )


def _veil(text: str | None) -> str | None:
    return f"{text[:1]}…" if text else text


def _ref(request: StrictRequest) -> str:
    """The ref in the address as it was sent: the router's has lost `/` at its end, and of `//` one.

    Raises:
        InvalidRequest: it is none.
    """
    sent = request.scope["raw_path"].decode("ascii", "replace").partition(f"{_PATH}/")[2]
    return checked(unquote(sent.removesuffix("/")), Ref, "ref")


async def _known(store: Store, ref: str) -> Registrant:
    registrant = await store.registrants.get(ref)
    if registrant is None:
        raise UnknownRegistrant(ref)
    return registrant
