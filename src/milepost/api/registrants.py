"""Registrants: the app tells who they are."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

import msgspec
from litestar import Response, Router, get, put
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, JSONBody

from milepost.api.access import caller_of, needs
from milepost.api.problems import documented
from milepost.api.requests import MAX_BODY_BYTES, StrictRequest, checked
from milepost.errors import UnknownRegistrant
from milepost.model import Ref, Registrant, RegistrantDetails, Scope
from milepost.store import Store

_PATH: Final = "/v1/registrants"
_CREATED = ResponseSpec(Registrant, description="They were not known.", generate_examples=False)


def router(store: Store) -> Router:
    """The routes under `/v1/registrants`."""

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
        known_as = _ref(request)
        counts = await store.registrants.put({known_as: data})
        registrant = await _known(store, known_as)
        status = HTTPStatus.CREATED if counts.created else HTTPStatus.OK
        return Response(registrant, status_code=status)

    @get("/{ref:path}", opt=needs(Scope.SYNC, Scope.READ), responses=documented(404))
    async def read(
        request: StrictRequest,
        ref: FromPath[str],  # noqa: ARG001  (for the schema; see `_ref`)
    ) -> Registrant:
        """Look at one registrant."""
        registrant = await _known(store, _ref(request))
        return registrant if caller_of(request).may(Scope.SYNC) else masked(registrant)

    return Router(_PATH, route_handlers=[upsert, read], tags=["registrants"])


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
