"""The simulator beside real answers; collected only where the recordings are at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Customer = Any

KEYS = {"httpStatus", "requestId"}


def test_envelopes_have_the_recorded_form(shared: Customer, recorded: Path) -> None:
    """Success, failure and every observed error that a call here can meet."""
    meta = shared.api.get("/whoami").json()["meta"]
    assert meta.keys() == KEYS
    assert meta["httpStatus"] == "200 - OK"
    observed = json.loads((recorded / "errors_observed.json").read_bytes())
    errors = [one["meta"]["error"] for one in observed if "meta" in one]
    errors.append(json.loads(observed[6]["verbatim"])["meta"]["error"])
    sv = shared.ready.survey_id
    distribution = {
        "surveyId": sv,
        "linkType": "Individual",
        "description": "d",
        "action": "CreateDistribution",
        "mailingListId": "CG_000000000000000",
    }
    for answer in (
        shared.error("GET", f"/distributions/EMD_000000000000000/links?surveyId={sv}"),
        shared.error("GET", f"{shared.lists}/CG_000000000000000"),
        shared.error("POST", "/distributions", distribution),
        shared.error("GET", "/doesnotexist"),
    ):
        assert answer[1] in errors
    lost = shared.error("GET", f"{shared.lists}/CG_000000000000000/contacts/CID_000000000000000")
    assert lost[1]["errorCode"] in [one.get("errorCode") for one in errors]


def test_answers_have_the_recorded_keys(own: Customer, recorded: Path) -> None:
    """Elements of links and history have every recorded key and no other."""
    path = own.mailing_list()
    own.add(path)
    distribution = own.distribute(path)
    survey = own.ready.survey_id
    for name, call in (
        ("list_links_2021.json", f"links?surveyId={survey}"),
        ("history_2023_pending.json", "history"),
    ):
        wanted = json.loads((recorded / name).read_bytes())["result"]
        found = own.result("GET", f"/distributions/{distribution}/{call}")
        assert found.keys() == wanted.keys()
        assert found["elements"][0].keys() == wanted["elements"][0].keys()
    pending = own.result("GET", f"/distributions/{distribution}/history")["elements"][0]
    nulls = {name for name, value in pending.items() if value is None}
    wanted = json.loads((recorded / "history_2023_pending.json").read_bytes())
    assert nulls == {
        name for name, value in wanted["result"]["elements"][0].items() if value is None
    }
