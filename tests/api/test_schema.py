"""The API's own description: it is complete, it is the one agreed on, and people can read it.

After a deliberate change, write the agreed one down again and look at the difference::

    MILEPOST_WRITE_SCHEMA=1 .venv/bin/pytest tests/api/test_schema.py
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

SNAPSHOT = Path(__file__).with_name("schema.json")


@pytest.fixture
async def schema(anybody: httpx.AsyncClient) -> dict[str, Any]:
    """The OpenAPI document, as anybody gets it."""
    answer = await anybody.get("/schema")
    assert 200 == answer.status_code
    document: dict[str, Any] = answer.json()
    return document


def operations(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every operation, by its name."""
    return [
        (f"{method.upper()} {path}", operation)
        for path, item in schema["paths"].items()
        for method, operation in item.items()
    ]


async def test_the_schema_is_the_agreed_one(schema: dict[str, Any]) -> None:
    """Programs of others are made from it: no change happens by accident."""
    text = json.dumps(schema, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if os.environ.get("MILEPOST_WRITE_SCHEMA"):
        SNAPSHOT.write_text(text, encoding="utf-8")
    assert json.loads(SNAPSHOT.read_text(encoding="utf-8")) == schema


async def test_every_operation_tells_its_problems(schema: dict[str, Any]) -> None:
    """Each 4xx and 5xx is a problem document, and none that each may have is left out."""
    for name, operation in operations(schema):
        responses = operation["responses"]
        is_signed = "/upstream/" in name  # by its HMAC, whatever type it says it has
        if "/health/" not in name:
            usual = {"400", "401", "403", "503"} - ({"401"} if is_signed else set())
            assert (name, True) == (name, usual <= responses.keys())
        if "requestBody" in operation and not is_signed:
            assert (name, True) == (name, {"408", "413", "415"} <= responses.keys())
        for status, response in responses.items():
            if status >= "400":
                assert (name, status, {"application/problem+json"}) == (
                    name,
                    status,
                    response["content"].keys(),
                )
                shape = response["content"]["application/problem+json"]["schema"]
                assert {"$ref": "#/components/schemas/Problem"} == shape
            else:
                assert (name, True) == (name, bool(response["description"]))
        assert operation["description"]


async def test_the_link_of_the_schema_has_the_keys_of_the_contract(schema: dict[str, Any]) -> None:
    """What the documentation shows is what is answered, for all three answers."""
    assert 15 == len(schema["components"]["schemas"]["Link"]["properties"])
    responses = schema["paths"]["/v1/links"]["post"]["responses"]
    for status in ("200", "201", "202"):
        (content,) = responses[status]["content"].values()
        assert {"$ref": "#/components/schemas/Link"} == content["schema"]


async def test_the_documentation_is_a_page_of_its_own(
    anybody: httpx.AsyncClient, schema: dict[str, Any]
) -> None:
    """Without scripts and without another host, and with every operation in it."""
    page = await anybody.get("/schema/docs")
    assert (200, "text/html; charset=utf-8") == (page.status_code, page.headers["Content-Type"])
    assert None is re.search(r"<script|javascript:|\son\w+=|//[\w.-]+\.\w+", page.text)
    for name, _ in operations(schema):
        assert name.split(" ")[1] in page.text
