"""The simulator that Milepost starts for itself, and the one that it finds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import httpx
import pytest

from milepost import local
from milepost.errors import ConfigurationError
from milepost.simulator import Config, running


def _settings(port: int) -> dict[str, object]:
    web = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False)
    with web:
        settings: dict[str, object] = web.get("/control/settings").json()
        return settings


def test_its_survey_is_as_milepost_wants_one(tmp_path: Path) -> None:
    """By invitation only, with the reference declared; it is named when it answers."""
    port = local.free_port(0)
    with local.local_simulator(tmp_path / "simulator.state", port) as which:
        assert "its survey is SV_" in which()
        settings = _settings(port)
    assert ["milepost_ref"] == settings["declared_fields"]
    assert settings["invitation_only"] is True


def test_a_state_keeps_its_own_survey(tmp_path: Path) -> None:
    """Whatever the one that is started on it would begin with."""
    state = tmp_path / "simulator.state"
    with running(Config(state=state, declared_fields=("order",))) as before:
        pass
    port = local.free_port(0)
    with local.local_simulator(state, port) as which:
        assert before.survey_id in which()
        settings = _settings(port)
    assert (["order"], False) == (settings["declared_fields"], settings["invitation_only"])


def test_a_state_of_former_accounts_opens(tmp_path: Path) -> None:
    """One whose founding does not say whether the survey is by invitation only."""
    state = tmp_path / "simulator.state"
    with running(Config(state=state)) as before:
        pass
    founding = json.loads(state.read_text().splitlines()[0])["body"]
    assert {"dedup": True, "declaredFields": []} == founding
    with running(Config(state=state, invitation_only=True)) as after:
        assert before.survey_id == after.survey_id
        assert _settings(urlsplit(after.url).port or 0)["invitation_only"] is False


def test_one_that_listens_already_has_its_survey_named(tmp_path: Path) -> None:
    """And nothing is started beside it."""
    with running(Config()) as found:
        port = urlsplit(found.url).port or 0
        with local.local_simulator(tmp_path / "simulator.state", port) as which:
            assert which().endswith(f"its survey is {found.survey_id}")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"result": {"elements": []}}', b"<html>"])
def test_another_program_on_the_port_is_no_simulator(tmp_path: Path, body: bytes) -> None:
    """One line says so before anything starts."""
    with _program(body) as port:
        wrong = f"another program has port {port}"
        with (
            pytest.raises(ConfigurationError, match=wrong),
            local.local_simulator(tmp_path / "simulator.state", port),
        ):
            pass


@contextmanager
def _program(body: bytes) -> Iterator[int]:
    """A program that answers every GET with the same; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
