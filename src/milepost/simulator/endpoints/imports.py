"""Bringing many contacts into a list (paths and answers as seen in clients)."""

from __future__ import annotations

from milepost.simulator import imports
from milepost.simulator.call import Call, Endpoint
from milepost.simulator.things import Import

_LIST = "/directories/{directory:str}/mailinglists/{mailing_list:str}"
_IMPORTS = f"{_LIST}/transactioncontacts"


def _progress(call: Call, found: Import) -> dict[str, object]:
    lists = f"/API/v3/directories/{call.ids['directory']}/mailinglists"
    return {
        "tracking": {
            "url": f"{call.account.origin}{lists}/{found.list_id}/transactioncontacts/{found.id}"
        },
        "status": "inProgress" if found.waiting else "complete",
    }


async def start_import(call: Call) -> object:
    """Begin an import; where imports take no time, it is done with the answer."""
    started = await call.write("import.start")
    assert isinstance(started, Import)  # noqa: S101 - what that operation makes
    await call.account.bring_in(started)
    return {"id": started.id} | _progress(call, started)


async def import_progress(call: Call) -> object:
    """How far an import is."""
    found = imports.of(call.account.world, call.ids)
    return {
        "percentComplete": 100 * found.done // found.total,
        "contacts": {
            "count": {"added": found.added, "updated": found.updated, "failed": found.failed}
        },
        "transactions": {"count": {"created": found.transactions}},
    } | _progress(call, found)


ENDPOINTS = (
    Endpoint("POST", _IMPORTS, "imports", start_import),
    Endpoint("GET", f"{_IMPORTS}/{{import:str}}", "imports", import_progress),
)
