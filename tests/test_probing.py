"""Probing: for each fact, the simulator answers either way, and the doctor tells which."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest
from click.testing import CliRunner, Result

from milepost import doctor
from milepost.cli import main
from milepost.doctor import (
    Answer,
    CannotProbe,
    FormFiller,
    Outcome,
    Patience,
    Remains,
    Report,
    opening,
)
from milepost.doctor.belongings import Belongings
from milepost.doctor.opening import Page
from milepost.doctor.watching import Look
from milepost.model import Fact, MilestoneDefinition
from milepost.simulator import Config, Ready, running
from milepost.store import Store
from milepost.upstream import (
    ContactFields,
    CreatedTransactions,
    ItemRefusal,
    Token,
    TransactionFields,
    Upstream,
)

pytestmark = pytest.mark.usefixtures("grants_at_once")

SECRET = "a secret of at least sixteen bytes"
DECLARED = ("milepost_ref", "gate")

HASTE = Patience(search=1.5, links=1.5, attribution=0.3, opening=0.2, person=5, pause=0.05)

AS_HOPED = dict.fromkeys(Fact, "yes") | {Fact.THROTTLE: "not known"}
"""What is found in a world that is as one would have it; nobody provokes a 429."""


@dataclass
class Somebody:
    """Says the same of every link, and remembers which they were."""

    outcome: Outcome

    def __post_init__(self) -> None:
        """Nothing was asked yet."""
        self.asked: list[str] = []

    async def answer(self, url: str) -> Outcome:
        """Say it."""
        self.asked.append(url)
        return self.outcome


@dataclass
class World:
    """A simulator, and the settings of an installation on it."""

    ready: Ready
    environment: dict[str, str]

    async def probe(self, **wanted: Any) -> Report:
        """Probe, and have the survey answered, unless it is said otherwise."""
        given = {"survey_id": self.ready.survey_id, "answerer": FormFiller(), "patience": HASTE}
        return await doctor.probe(self.environment, **(given | wanted))

    async def control(self, path: str, method: str = "GET", **content: Any) -> Any:
        """Call the simulator's control API."""
        async with httpx.AsyncClient(base_url=self.ready.origin, trust_env=False) as web:
            answer = await web.request(method, f"/control/{path}", **content)
            return answer.raise_for_status().json()

    async def left(self) -> Counter[str]:
        """What was made and not removed, by kind."""
        entries = (await self.control("journal", params={"after": 0}))["entries"]
        kept: Counter[str] = Counter()
        ids: dict[str, str] = {}
        for entry in entries:
            kind, _, verb = entry["operation"].partition(".")
            if verb in {"create", "delete"} and kind != "response":
                kept[kind] += 1 if verb == "create" else -1
            if kind == "list_contact":
                ids[entry["ids"]["contact"]] = "there"
            if entry["operation"] == "directory_contact.delete":
                del ids[entry["ids"]["contact"]]
        kept["transaction"] = kept["directory_contact"] = 0  # one entry makes many of them
        return +(kept + Counter(contact=len(ids)))


@pytest.fixture
def world(database_url: str, request: pytest.FixtureRequest) -> Any:
    """Make worlds by their facts; a mark gives the configuration."""
    changes: dict[str, Any] = getattr(request, "param", {})
    config = Config(**({"limits": "none", "declared_fields": DECLARED} | changes))
    with running(config) as ready:
        yield World(
            ready,
            {
                "MILEPOST_DATABASE_URL": database_url,
                "MILEPOST_UPSTREAM_URL": ready.url,
                "MILEPOST_UPSTREAM_TOKEN": "simulator",
                "MILEPOST_SECRET": SECRET,
                "MILEPOST_LIMITS": "none",
                "MILEPOST_RATE_PER_MINUTE": "1000000",
            },
        )


@pytest.fixture(autouse=True)
def few_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is removed by a call of its own."""
    monkeypatch.setattr("milepost.doctor.probing.MOST_TRANSACTIONS", 8)


@pytest.fixture
def soon_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a 403 the next call of its class waits for a moment only."""
    monkeypatch.setattr("milepost.upstream.breaker.PROBE_SECONDS", 0.2)


def facts(**facts: object) -> dict[str, object]:
    """A world in which nobody's hopes are met in these points."""
    return {"facts": facts}


def found(report: Report) -> dict[Fact, str]:
    """The verdicts."""
    return {answer.fact: answer.answer for answer in report.answers}


def answers(report: Report) -> dict[Fact, Answer]:
    """The answers, by fact."""
    return {answer.fact: answer for answer in report.answers}


async def stored(world: World) -> dict[Fact, tuple[bool, int | None]]:
    """What the database says by now."""
    async with await Store.open(world.environment["MILEPOST_DATABASE_URL"]) as store:
        known = (await store.capabilities.all()).known
    return {fact: (capability.holds, capability.figure) for fact, capability in known.items()}


@pytest.mark.parametrize(
    ("world", "differs"),
    [
        ({}, {}),
        (facts(empty_distribution=False), {}),
        (
            facts(probe_only_distribution=False, empty_distribution=False),
            {Fact.PROBE_ONLY_DISTRIBUTION: "no"},
        ),
        (facts(late_link=False), {Fact.LATE_LINK: "no", Fact.HISTORY_LINKS: "not known"}),
        (facts(merges=False), {Fact.ONE_CONTACT: "no", Fact.SAME_LOOKUP: "no"}),
        (facts(same_lookup=False), {Fact.SAME_LOOKUP: "no"}),
        (facts(search_lag_seconds=0.4), {Fact.PROMPT_SEARCH: "no"}),
        (facts(private_data=False), {Fact.PRIVATE_DATA: "no"}),
        (facts(transaction_batch=False), {Fact.TRANSACTION_BATCH: "no"}),
        (facts(late_transaction=False), {Fact.TRANSACTION_BATCH: "no"}),
        (facts(links_lag_seconds=0.4), {Fact.COMPLETE_LINKS: "no"}),
        (
            facts(links_lag_seconds=600),
            {Fact.COMPLETE_LINKS: "no"}
            | dict.fromkeys(
                (
                    Fact.LATE_LINK,
                    Fact.HISTORY_LINKS,
                    Fact.PRIVATE_DATA,
                    Fact.URL_WINS,
                    Fact.TRANSACTION_BATCH,
                    Fact.LONGEST_EXPIRY,
                ),
                "not known",
            ),
        ),
        (facts(history_links=False), {Fact.HISTORY_LINKS: "no"}),
        (facts(url_wins=False), {Fact.URL_WINS: "no"}),
        (facts(transactions_per_call=1), {Fact.TRANSACTIONS_PER_CALL: "no"}),
        (facts(longest_expiry_days=59), {Fact.LONGEST_EXPIRY: "no"}),
        ({"dedup": False}, {Fact.ONE_CONTACT: "no", Fact.SAME_LOOKUP: "no"}),
        (facts(link_format="2019"), {}),
        (
            facts(link_format="unknown"),
            dict.fromkeys(
                (
                    Fact.LATE_LINK,
                    Fact.HISTORY_LINKS,
                    Fact.PRIVATE_DATA,
                    Fact.URL_WINS,
                    Fact.TRANSACTION_BATCH,
                ),
                "not known",
            ),
        ),
    ],
    indirect=["world"],
    ids=str,
)
async def test_each_fact_is_told_either_way(world: World, differs: dict[Fact, str]) -> None:
    """What is shown is stored, what is not is left open, and nothing stays behind."""
    report = await world.probe()
    assert AS_HOPED | differs == found(report), "\n".join(map(str, report.answers))
    known = {fact: verdict == "yes" for fact, verdict in found(report).items()}
    certain = {fact for fact, verdict in found(report).items() if verdict != "not known"}
    assert {fact: known[fact] for fact in certain} == {
        fact: holds for fact, (holds, _) in (await stored(world)).items()
    }
    assert () == report.remains
    assert Counter() == await world.left()


@pytest.mark.parametrize(
    ("world", "fact", "figure"),
    [
        (facts(transactions_per_call=5), Fact.TRANSACTIONS_PER_CALL, {4}),
        (facts(longest_expiry_days=100), Fact.LONGEST_EXPIRY, {90}),
        (facts(search_lag_seconds=1.2), Fact.PROMPT_SEARCH, {2, 3, 4}),
        (facts(search_lag_seconds=600), Fact.PROMPT_SEARCH, {4, 5}),
        (facts(links_lag_seconds=1.2), Fact.COMPLETE_LINKS, {2, 3, 4}),
    ],
    indirect=["world"],
    ids=str,
)
async def test_a_figure_is_found(world: World, fact: Fact, figure: set[int]) -> None:
    """How many at once, how long, how late; it is stored with the answer."""
    patience = msgspec.structs.replace(HASTE, search=4, links=4)
    answer = answers(await world.probe(patience=patience))[fact]
    assert answer.figure in figure, answer.evidence
    assert answer.figure == (await stored(world))[fact][1]


@pytest.mark.parametrize("world", [facts(longest_expiry_days=100)], indirect=True)
async def test_what_milestones_say_decides_whether_a_distribution_lives_long_enough(
    world: World,
) -> None:
    """100 days are less than the 365 that one asks for; the survey is the milestone's."""
    async with await Store.open(world.environment["MILEPOST_DATABASE_URL"]) as store:
        definition = MilestoneDefinition(survey_id=world.ready.survey_id, link_days=365)
        await store.milestones.put("landed", definition)
    answer = answers(await world.probe(survey_id=None))[Fact.LONGEST_EXPIRY]
    assert ("no", 90) == (answer.answer, answer.figure)
    assert "the milestones ask for 365" in answer.evidence


def test_a_first_look_that_comes_late_tells_nothing() -> None:
    """It waited for room in the budget: what it has found may have come meanwhile."""
    assert [True, None, False, False] == [
        look.at_once for look in (Look(1, 1, 0.2), Look(1, 1, 60), Look(1, 2, 1), Look(None, 9, 60))
    ]


def test_where_a_program_is_not_let_in_it_tells_nothing() -> None:
    """The good link is shut, too, or only to this program."""
    survey, wall, bad = Page(200, "How was it?"), Page(403, "Robot?"), Page(200, "Incorrect URL")
    assert [None, None] == [opening.is_open(survey, wall, bad), opening.is_open(wall, wall, bad)]
    assert [True, False] == [opening.is_open(each, survey, bad) for each in (survey, bad)]


@pytest.mark.parametrize(
    ("refused", "verdict"), [({"0": ItemRefusal(code="NO")}, "no"), ({}, "not known")]
)
async def test_a_late_transaction_that_is_not_made_ends_nothing_else(
    world: World, refused: dict[str, ItemRefusal], verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is refused is a no; of one that the answer does not name, nothing is known."""
    make, calls = Belongings.transactions, []

    async def transactions(
        self: Belongings, wanted: TransactionFields, n: int
    ) -> CreatedTransactions:
        """Make all but the second."""
        calls.append(n)
        if len(calls) == 2:
            untold = frozenset({"0"} - refused.keys())
            return CreatedTransactions(created={}, refused=refused, untold=untold)
        return await make(self, wanted, n)

    monkeypatch.setattr(Belongings, "transactions", transactions)
    assert AS_HOPED | {Fact.TRANSACTION_BATCH: verdict} == found(await world.probe())


# --- with and without somebody who answers --------------------------------------------------------


async def test_without_anybody_what_hangs_on_an_answer_stays_open(world: World) -> None:
    """That a link opens is half of what is assumed of it; history is told without an answer."""
    report = await world.probe(answerer=None)
    left_open = dict.fromkeys((Fact.LATE_LINK, Fact.PRIVATE_DATA, Fact.URL_WINS), "not known")
    assert AS_HOPED | left_open == found(report)
    late = answers(report)[Fact.LATE_LINK]
    assert late.evidence.startswith("it opens as a listed one does; nobody answered")
    assert "It is taken for granted, as before." == late.consequence


async def test_an_earlier_answer_stays_where_nothing_is_found(world: World) -> None:
    """The next probe, which nobody answers, neither changes nor forgets it."""
    await world.probe()
    report = await world.probe(answerer=None)
    assert "not known" == found(report)[Fact.LATE_LINK]
    assert (
        f'of {datetime.now(UTC):%Y-%m-%d}, "yes", stays'
        in answers(report)[Fact.LATE_LINK].consequence
    )
    assert (True, None) == (await stored(world))[Fact.LATE_LINK]


async def same_page(_url: str) -> Page:
    """A survey that only scripts fill: good and bad links look alike."""
    return Page(200, "This survey needs JavaScript.")


@pytest.mark.parametrize(("outcome", "verdict"), [("shut", "no"), ("nobody", "not known")])
async def test_where_pages_tell_nothing_a_person_does(
    world: World, outcome: Outcome, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are asked about the late contact's link, and about the late transaction's."""
    monkeypatch.setattr(opening, "page", same_page)
    somebody = Somebody(outcome)
    told = found(await world.probe(answerer=somebody))
    assert (verdict, verdict) == (told[Fact.LATE_LINK], told[Fact.TRANSACTION_BATCH])
    assert ["CTR_", "CGC_"] == [
        next(kind for kind in ("CTR_", "CGC_") if kind in link) for link in somebody.asked
    ]


async def test_where_pages_tell_nothing_an_answer_proves_the_link(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The response is counted, which no shut link brings about."""
    monkeypatch.setattr(opening, "page", same_page)
    assert AS_HOPED == found(await world.probe())


@pytest.mark.parametrize("world", [{"declared_fields": ()}], indirect=True)
async def test_a_survey_that_declares_nothing_shows_no_data(world: World) -> None:
    """That is no proof that private data are not seen."""
    told = answers(await world.probe())
    assert {"not known"} == {told[fact].answer for fact in (Fact.PRIVATE_DATA, Fact.URL_WINS)}
    assert "milepost_ref" in told[Fact.PRIVATE_DATA].evidence


# --- the 429 --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("world", "verdict"),
    [
        ({"limits": {"history": 30}}, "yes"),
        ({"limits": {"history": 30}, **facts(throttle="empty")}, "no"),
        ({"limits": {"history": 30}, **facts(throttle="html")}, "no"),
    ],
    indirect=["world"],
    ids=str,
)
async def test_a_429_is_provoked_where_that_is_wanted(world: World, verdict: str) -> None:
    """Past our own budget, by an endpoint that takes few calls."""
    told = answers(await world.probe(throttle=True))[Fact.THROTTLE]
    assert verdict == told.answer, told.evidence


async def test_a_429_on_the_way_is_waited_for_and_noted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is made again when it may be, and nothing is lost."""
    monkeypatch.setattr("milepost.doctor.belongings.PAUSE_SECONDS", 0.05)
    endpoint = "POST /directories/{directory}/mailinglists"
    fault = {"kind": "status", "status": 429, "times": 1, "endpoint": endpoint}
    await world.control("faults", "POST", json=fault)
    report = await world.probe()
    assert AS_HOPED | {Fact.THROTTLE: "no"} == found(report)
    assert "the 429 has no Retry-After" == answers(report)[Fact.THROTTLE].evidence


# --- cleaning up ----------------------------------------------------------------------------------

LISTS = "POST /directories/{directory}/mailinglists"
MEMBERS = "POST /directories/{directory}/mailinglists/{list}/contacts"


@pytest.mark.parametrize(
    "endpoint",
    [
        LISTS,
        MEMBERS,
        "POST /distributions",
        "POST /directories/{directory}/transactions",
    ],
)
async def test_what_a_call_without_an_outcome_has_made_is_found_and_removed(
    world: World, endpoint: str
) -> None:
    """The trial breaks off, the others go on, nothing stays."""
    fault = {"kind": "html", "times": 1, "endpoint": endpoint}
    await world.control("faults", "POST", json=fault)
    report = await world.probe()
    assert "not known" in found(report).values()
    assert () == report.remains
    assert Counter() == await world.left()


@pytest.mark.usefixtures("soon_trusted")
async def test_what_cannot_be_removed_is_told(world: World) -> None:
    """With its id, the probe's name and the reason."""
    endpoint = "DELETE /directories/{directory}/mailinglists/{list}"
    fault = {"kind": "status", "status": 403, "times": 1, "endpoint": endpoint}
    await world.control("faults", "POST", json=fault)
    (remains,) = (await world.probe()).remains
    assert "mailing list" == remains.kind
    assert str(remains.id).startswith("CG_")
    assert remains.name.startswith("milepost probe ")
    assert "may not" in remains.because


async def test_a_probe_that_is_ended_takes_everything_away_first(world: World) -> None:
    """Ctrl-C while somebody is asked for an answer."""
    asked = asyncio.Event()

    class Thinker:
        """Never comes to an end."""

        async def answer(self, _url: str) -> Outcome:
            """Think."""
            asked.set()
            return await asyncio.Future[Outcome]()

    probing = asyncio.create_task(world.probe(answerer=Thinker()))
    await asked.wait()
    probing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probing
    assert Counter() == await world.left()


async def test_what_a_killed_probe_left_is_removed_by_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hours later; what another deployment has made, and what is young, stays."""

    async def killed(_self: Belongings) -> list[Remains]:
        """Nothing is taken away."""
        return []

    with monkeypatch.context() as patched:
        patched.setattr(Belongings, "take_away", killed)
        await world.probe(answerer=None)
    before = await world.left()
    assert {"mailing_list": 2, "contact": 4} == {
        kind: before[kind] for kind in ("mailing_list", "contact")
    }
    await world.probe(answerer=None)
    assert before == await world.left()
    monkeypatch.setattr("milepost.doctor.belongings.FORGOTTEN", timedelta(seconds=-60))
    await world.probe(answerer=None)
    left = await world.left()
    assert Counter({"transaction_batch": 1, "distribution": 1}) == left, "of a batch: on no list"


async def test_a_contact_that_others_use_is_left_alone(world: World) -> None:
    """A probe's contact that somebody has put into a list of theirs is not deleted."""

    class Collector(FormFiller):
        """Puts everybody whom it finds into a list of its own, and answers."""

        async def answer(self, url: str) -> Outcome:
            """Do so."""
            directory = world.ready.directory_id
            token = Token("simulator")
            async with Upstream(world.ready.url, token) as upstream:
                lists = [known.list_id async for known in upstream.mailing_lists(directory)]
                members = upstream.list_contacts(directory, lists[0])
                member = await anext(members)
                own = await upstream.create_mailing_list(directory, "somebody's")
                await upstream.add_list_contact(directory, own, ContactFields(email=member.email))
            return await super().answer(url)

    (remains,) = (await world.probe(answerer=Collector())).remains
    assert ("contact", "it is in lists that are not the probe's") == (
        remains.kind,
        remains.because,
    )


# --- what it needs --------------------------------------------------------------------------------


async def test_without_a_survey_it_says_what_to_name(world: World) -> None:
    """Nothing is made before there is one that takes distributions."""
    with pytest.raises(CannotProbe, match="--survey SV_"):
        await world.probe(survey_id=None)
    with pytest.raises(CannotProbe, match="sees no survey"):
        await world.probe(survey_id=f"SV_{'0' * 15}")
    await world.control("settings", "PUT", json={"survey_active": False})
    with pytest.raises(CannotProbe, match="is not active"):
        await world.probe()
    entries = (await world.control("journal", params={"after": 0}))["entries"]
    assert [] == [each for each in entries if not each["operation"].startswith("account.")]


# --- on a terminal --------------------------------------------------------------------------------


class Terminal:
    """A command on a terminal of its own, and who sits at it."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        self._main, side = pty.openpty()
        own = {name: value for name, value in os.environ.items() if "MILEPOST" not in name}
        self.process = subprocess.Popen(  # noqa: S603  (our own command)
            [sys.executable, "-m", "milepost", *arguments],
            env=own | environment | {"COLUMNS": "100", "TERM": "xterm"},
            stdin=side,
            stdout=side,
            stderr=side,
            start_new_session=True,
        )
        os.close(side)
        self.shown = ""

    def read_until(self, pattern: str) -> str:
        """Read on until something is shown; to the end for an empty pattern."""
        while not (pattern and (hit := re.search(pattern, self.shown))):
            try:
                piece = os.read(self._main, 4096)
            except OSError:  # how Linux says that nobody writes any more
                piece = b""
            if not piece:
                assert not pattern, self.shown
                return self.shown
            self.shown += piece.decode(errors="replace").replace("\r", "")
        return hit[0]

    def type(self, keys: str) -> None:
        """Press these keys."""
        os.write(self._main, keys.encode())

    def close(self) -> int:
        """Hang up, once the command has ended; returns its exit code."""
        code = self.process.wait(30)
        os.close(self._main)
        return code

    def hang_up(self) -> int:
        """Close the terminal under the command; returns its exit code, once it has ended."""
        os.close(self._main)
        return self.process.wait(60)


@pytest.mark.parametrize("keys", ["n\n", "\n", ""], ids=["shut", "answered", "seen-by-itself"])
async def test_whoever_sits_at_the_terminal_is_asked(
    world: World, keys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are shown the link; Enter, or the response itself, lets it go on."""
    monkeypatch.delenv("MILEPOST_UPSTREAM_URL", raising=False)
    arguments = ("doctor", "--probe", "--survey", world.ready.survey_id)
    terminal = Terminal(world.environment, *arguments)
    link = await asyncio.to_thread(terminal.read_until, r"http://\S+/jfe/form/\S+gate=link")
    await asyncio.to_thread(terminal.read_until, r"press Enter: ")
    if keys != "n\n":
        assert "answered" == await FormFiller().answer(link)
    terminal.type(keys)
    shown = await asyncio.to_thread(terminal.read_until, "")
    terminal.close()
    late = re.search(r"(yes|no)\W[^\n]*  A link that is built for a contact added later", shown)
    assert late is not None, shown
    assert ("no" if keys == "n\n" else "yes") == late[1], shown


@pytest.mark.parametrize("how", ["SIGTERM", "hung-up"])
async def test_a_probe_that_loses_its_terminal_takes_everything_away_first(
    world: World, how: str
) -> None:
    """As after Ctrl-C, and whatever it still wants to print."""
    terminal = Terminal(world.environment, "doctor", "--probe", "--survey", world.ready.survey_id)
    await asyncio.to_thread(terminal.read_until, r"press Enter: ")
    assert Counter() != await world.left()
    if how == "SIGTERM":
        terminal.process.terminate()
        await asyncio.to_thread(terminal.read_until, "")
        assert 130 == await asyncio.to_thread(terminal.close)
    else:
        assert await asyncio.to_thread(terminal.hang_up)
    assert Counter() == await world.left()


def test_a_survey_that_is_none_is_refused_at_once(world: World) -> None:
    """With one that could be; nothing was looked at."""
    result = run(world, "--probe", "--survey", "SV_…")
    assert 2 == result.exit_code
    assert result.stderr.startswith(
        "milepost: --survey: 'SV_…' is not the id of a survey, such as SV_0123456789abcde"
    )
    assert "" == result.stdout


def run(world: World, *arguments: str) -> Result:
    """`milepost doctor` with these arguments, in this process."""
    unset = {name: None for name in os.environ if name.startswith("MILEPOST_")}
    return CliRunner().invoke(main, ["doctor", *arguments], env=unset | world.environment)


def test_programs_get_one_object(world: World) -> None:
    """Findings, and what the probe has found; without a terminal nobody is asked."""
    result = run(world, "--probe", "--json", "--survey", world.ready.survey_id)
    told = json.loads(result.stdout)
    assert ["findings", "probe"] == list(told)
    probe = told["probe"]
    assert [fact.value for fact in Fact] == [answer["fact"] for answer in probe["answers"]]
    assert {"yes", "not known"} == {answer["answer"] for answer in probe["answers"]}
    assert ([], []) == (probe["responses"], probe["remains"])


@pytest.mark.usefixtures("soon_trusted")
def test_what_stays_behind_is_printed_and_fails(world: World) -> None:
    """Below the answers, with its id."""
    endpoint = "DELETE /directories/{directory}/mailinglists/{list}"
    fault = {"kind": "status", "status": 403, "times": 1, "endpoint": endpoint}
    asyncio.run(world.control("faults", "POST", json=fault))
    result = run(world, "--probe", "--survey", world.ready.survey_id)
    assert 1 == result.exit_code
    told = result.stdout.partition("should be removed by hand:")[2]
    assert re.search(r"warn  mailing list CG_\w{15}, named milepost probe ", told), result.stdout


def test_what_goes_with_a_probe_is_refused_without_one(world: World) -> None:
    """Instead of being left out in silence."""
    for arguments in (("--survey", world.ready.survey_id), ("--throttle",)):
        result = run(world, *arguments)
        assert 2 == result.exit_code
        assert f"{arguments[0]} goes with --probe" in result.stderr


def test_a_probe_without_a_survey_says_what_to_do(world: World) -> None:
    """On one line, after the findings."""
    result = run(world, "--probe")
    assert 1 == result.exit_code
    assert "milepost doctor --probe --survey SV_" in result.stderr
