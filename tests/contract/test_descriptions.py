"""Answers that nobody recorded, as documents and clients know them: the simulator's hold all that.

What is known of an answer is a part of it: the platform's may hold more, and the simulator's too.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.contract.conftest import OURS, Place, Wire
from tests.contract.likeness import lacks

DESCRIBED: list[dict[str, Any]] = msgspec.json.decode((OURS / "described.json").read_bytes())


@pytest.fixture
async def known(simulated: Place) -> dict[str, str]:
    """An account with one of everything: what the names in a description stand for."""
    list_id = await simulated.mailing_list()
    ada = await simulated.add(
        list_id, "ada", language="DE", embedded_data={"tier": "gold"}, ref="r-1"
    )
    other = await simulated.mailing_list("another")
    await simulated.add(other, "grace")
    imported = await simulated.upstream.start_import(
        simulated.directory, other, [simulated.person("imported")]
    )
    return {
        "directory": simulated.directory,
        "survey": simulated.survey,
        "list": list_id,
        "other": other,
        "contact": ada.contact_id,
        "distribution": await simulated.distribution(list_id),
        "import": imported,
    }


@pytest.mark.parametrize("described", DESCRIBED, ids=[each["call"] for each in DESCRIBED])
async def test_an_answer_holds_what_is_known_of_it(
    described: dict[str, Any], known: dict[str, str], wire: Wire
) -> None:
    """Its keys and the form of their values."""
    text = msgspec.json.encode(described).decode()
    for name, meant in known.items():
        text = text.replace(f"{{{name}}}", meant)
    expected = msgspec.json.decode(text)
    method, _, path = expected["call"].partition(" ")
    answered = await wire.result(method, path, expected.get("body"))
    assert lacks(expected["result"], answered) == []
