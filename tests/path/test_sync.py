"""Registrants to contacts: one by one or in bulk, and what others did at the platform meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import pytest

from milepost.app import Milepost
from milepost.errors import DatabaseBusy, MilepostError
from milepost.jobs import filling, home_list
from milepost.jobs.filling import Counts, calls_in_bulk, is_bulk
from milepost.jobs.intake import Arrival
from milepost.jobs.run import NeedsAPerson, Run
from milepost.jobs.sync import Sync
from milepost.model import Fact, RegistrantDetails
from milepost.simulator import Config
from milepost.store import connections
from milepost.store.contacts import ContactStore
from milepost.store.runs import Finding
from milepost.store.sources import StagedRow
from milepost.upstream import ContactFields, Throttled, Unauthorized, UnknownOutcome

Landed = Callable[..., Awaitable[None]]
Elapse = Callable[[float], Awaitable[None]]
Execute = Callable[..., Awaitable[list[tuple[Any, ...]]]]

MANY: Final = 230
"""People whom an import brings in, and three pages of them."""

A_DAY: Final = 86_400

MEMBERS = "GET /directories/{POOL}/mailinglists/{CG}/contacts"
CONTACT = "GET /directories/{POOL}/contacts/{CID}"
IMPORTS = "POST /directories/{POOL}/mailinglists/{CG}/transactioncontacts"


@pytest.fixture
def dedup(request: pytest.FixtureRequest) -> bool:
    """Whether the directory knows a person again."""
    return bool(request.param)


@pytest.fixture
def simulator_config(request: pytest.FixtureRequest) -> Config:
    """A simulator without limits, with deduplication unless the test says otherwise."""
    with_dedup = "dedup" not in request.fixturenames or request.getfixturevalue("dedup")
    return Config(limits="none", dedup=bool(with_dedup))


class Died(BaseException):
    """The process is gone."""


class Mortal(Run):
    """A run whose process dies when it would write down for the n-th time where it stands."""

    left: int | None = None

    async def commit(self, *position: Any, **particulars: Any) -> None:
        """Write it down, or die."""
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Died
        await super().commit(*position, **particulars)


@dataclass
class Syncing:
    """Job `sync`, run by run."""

    milepost: Milepost
    execute: Execute
    run_id: int = 0

    async def __call__(self, *, job: Sync | None = None, **options: Any) -> Counts:
        """Run it to its end, or to the error that breaks it off; its counts."""
        runs = self.milepost.store.runs
        self.run_id = (await runs.ask("sync", asked_by="test", options=options)).id
        return await self.attempt(job=job)

    async def attempt(self, *, dies_at: int | None = None, job: Sync | None = None) -> Counts:
        """Go on with the last run, by a process that may die on the way."""
        runs = self.milepost.store.runs
        await self.execute(
            "UPDATE runs SET state = 'running', attempt = attempt + 1, started_at = now(),"
            " lease_until = now() + interval '1 hour' WHERE id = %s",
            self.run_id,
        )
        record = await runs.get(self.run_id)
        assert record is not None
        run = Mortal(runs, record, asyncio.Event())
        run.left = dies_at
        try:
            counts = await (job or self.milepost.sync).run_once(run)
        except MilepostError as error:
            state = "stopped" if isinstance(error, NeedsAPerson) else "failed"
            await runs.end(record, state, counts=run.counts, error=str(error))
            raise
        await runs.end(record, "done", counts={})
        return counts

    async def to_the_end(self, *, dies_at: int) -> tuple[Counts, int]:
        """One run by processes that die at each n-th commit; its counts, and how many died."""
        runs = self.milepost.store.runs
        self.run_id = (await runs.ask("sync", asked_by="test")).id
        deaths = 0
        while True:
            try:
                return await self.attempt(dies_at=dies_at), deaths
            except Died:
                deaths += 1
                assert deaths < 200

    async def findings(self) -> list[Finding]:
        """What the last run lists one by one."""
        found = await self.milepost.store.runs.findings(self.run_id)
        return [Finding(reason=f.reason, source=f.source, line=f.line, ref=f.ref) for f in found]


@pytest.fixture
def sync(milepost: Milepost, execute: Execute) -> Syncing:
    """Job `sync`, to be run once by calling it."""
    return Syncing(milepost, execute)


async def put(milepost: Milepost, ref: str, **details: str) -> None:
    """Write a registrant down."""
    await milepost.store.registrants.put({ref: RegistrantDetails(**details)})


async def crowd(milepost: Milepost, people: Iterable[int]) -> None:
    """Write registrants down, by number."""
    await milepost.store.registrants.put(
        {f"p{n}": RegistrantDetails(email=f"p{n}@example.com") for n in people}
    )


async def contact_of(milepost: Milepost, ref: str) -> str:
    """The contact that a registrant has."""
    registrant = await milepost.store.registrants.get(ref)
    assert registrant is not None
    return registrant.contact_id or ""


def made_at(entries: list[dict[str, Any]], kind: str) -> int:
    """How many things of a kind the platform has made."""
    return sum(made.startswith(f"{kind}_") for each in entries for made in each.get("minted", ()))


# --- one by one -----------------------------------------------------------------------------------


async def test_everybody_gets_one_contact(milepost: Milepost, platform: Any, sync: Syncing) -> None:
    """The home list and one add each; a second run does nothing; a newcomer is one more add."""
    await platform.forget()
    assert 3 == (await sync()).made
    assert Counter({"mailing_list.create": 1, "list_contact.add": 3}) == Counter(
        await platform.writes()
    )
    assert await contact_of(milepost, "ann")
    await platform.forget()
    assert 0 == (await sync()).made
    await put(milepost, "dora", email="dora@example.com")
    assert 1 == (await sync()).made
    assert ["list_contact.add"] == await platform.writes()


async def test_whoever_has_no_contact_of_their_own_is_left_out(
    milepost: Milepost, platform: Any, sync: Syncing, execute: Execute
) -> None:
    """A shared and an incomplete one, and one who was removed: no add, in this run and the next."""
    await put(milepost, "twin", email="Ann@example.com")
    await put(milepost, "nobody", first_name="Nobody")
    await put(milepost, "gone", email="gone@example.com")
    await execute("UPDATE registrants SET removed_at = now() WHERE ref = 'gone'")
    assert 3 == (await sync()).made
    assert 0 == (await sync()).made
    emails = [entry["body"].get("email") for entry in await platform.entries()]
    assert ["ann@example.com", "ben@example.com", "cleo@example.com"] == sorted(
        filter(None, emails)
    )


@pytest.mark.parametrize("dedup", [True, False], indirect=["dedup"])
@pytest.mark.parametrize("call_class", ["mailing_lists", "list_contacts"])
async def test_nothing_is_made_twice_after_a_lost_answer(
    *, platform: Any, elapse: Elapse, sync: Syncing, dedup: bool, call_class: str
) -> None:
    """Neither a second home list nor a second contact."""
    await platform.forget()
    await platform.fault("reset", call_class=call_class)
    if call_class == "mailing_lists":
        with pytest.raises(UnknownOutcome):
            await sync()
    else:
        assert (2, 1) == ((counts := await sync()).made, counts.failed)
    await elapse(61)
    assert 0 == (await sync()).failed
    writes = await platform.entries()
    made = [entry for entry in writes if entry.get("effect") != "list_contact_modified"]
    assert Counter({"mailing_list.create": 1, "list_contact.add": 3}) == Counter(
        entry["operation"] for entry in made
    )
    assert len(made) == len(writes) or dedup


@pytest.mark.parametrize("dedup", [False], indirect=["dedup"])
async def test_without_deduplication_somebody_is_added_again_after_three_empty_looks(
    *, platform: Any, elapse: Elapse, sync: Syncing, dedup: bool
) -> None:
    """Over a minute, one look in a run; a look that was not answered does not count."""
    assert not dedup
    await platform.fault("reset", moment="before", call_class="list_contacts")
    assert (2, 1) == ((counts := await sync()).made, counts.failed)
    await platform.forget()
    await elapse(61)
    search = "POST /directories/{POOL}/contacts/search"
    await platform.fault("status", status=400, endpoint=search)
    for _ in range(4):
        calls = await platform.calls()
        counts = await sync()
        assert (0, 1) == (counts.made, counts.failed)
        assert calls + 3 == await platform.calls()  # the directory, opt-outs, and one look
        await elapse(61)
    assert [] == await platform.writes()
    assert 1 == (await sync()).made
    assert ["list_contact.add"] == await platform.writes()


@pytest.mark.usefixtures("probes_at_once")
@pytest.mark.parametrize("status", [400, 403])
@pytest.mark.parametrize("dedup", [False], indirect=["dedup"])
async def test_an_add_that_was_refused_is_no_doubt(
    *, platform: Any, elapse: Elapse, sync: Syncing, dedup: bool, status: int
) -> None:
    """It made nothing: the next run adds, without a look."""
    assert not dedup
    await platform.fault("status", status=status, call_class="list_contacts")
    if status == 400:
        assert (2, 1) == ((counts := await sync()).made, counts.failed)
    else:
        with pytest.raises(MilepostError):
            await sync()
    await elapse(61)
    calls = await platform.calls()
    assert 1 == (await sync()).made
    assert calls + 3 == await platform.calls()  # the directory, opt-outs, and the add


async def test_an_add_that_is_throttled_is_waited_for(
    platform: Any, sync: Syncing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where that takes too long, the run is left where it stands."""
    monkeypatch.setattr(filling, "THROTTLED_SECONDS", 0.01)
    await platform.fault("status", status=429, call_class="list_contacts")
    assert (3, 0) == ((counts := await sync()).made, counts.failed)
    monkeypatch.setattr(filling, "PATIENCE_SECONDS", 0)
    await platform.fault("status", status=429, call_class="directory_contacts")
    with pytest.raises(Throttled):
        await sync()


async def test_outcomes_are_settled_past_a_restart_of_the_database(
    platform: Any, sync: Syncing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made is written down when Postgres is back; nobody is called for again."""
    settle = ContactStore.settle
    restarts = ["ann", "ben", "cleo"]

    async def late(self: ContactStore, claimed: Any, *given: Any) -> bool:
        """Find Postgres away, the first time."""
        if claimed.ref in restarts:
            restarts.remove(claimed.ref)
            raise DatabaseBusy("restarting")
        return await settle(self, claimed, *given)

    monkeypatch.setattr(ContactStore, "settle", late)
    monkeypatch.setattr(connections, "WRITE_AGAIN_SECONDS", 0)
    await platform.forget()
    assert (3, 0) == ((counts := await sync()).made, counts.failed)
    assert 0 == (await sync()).made
    assert 3 == Counter(await platform.writes())["list_contact.add"]


async def test_one_outcome_that_is_lost_cuts_off_no_other_call(
    milepost: Milepost, sync: Syncing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run breaks off with it, and those whose calls were still out have their contacts."""
    settle = ContactStore.settle
    lost = asyncio.Event()

    async def away(self: ContactStore, claimed: Any, *given: Any) -> bool:
        """Find Postgres away for one of them, who is the first."""
        if claimed.ref == "ann":
            lost.set()
            raise DatabaseBusy("away")
        await lost.wait()
        return await settle(self, claimed, *given)

    monkeypatch.setattr(ContactStore, "settle", away)
    monkeypatch.setattr(home_list, "SETTLE_SECONDS", -1)
    with pytest.raises(DatabaseBusy):
        await sync()
    found = [await contact_of(milepost, ref) for ref in ("ann", "ben", "cleo")]
    assert [False, True, True] == [bool(contact) for contact in found]


async def test_a_contact_that_came_too_late_is_not_counted(
    milepost: Milepost, sync: Syncing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ann has other values by the time that her add is answered: that contact is not hers.

    Ben's is his, under the name that he had: the platform is to be told the other one.
    """
    settle = ContactStore.settle

    async def overtaken(self: ContactStore, claimed: Any, *given: Any) -> bool:
        """Let them change first."""
        if claimed.ref == "ann":
            await put(milepost, "ann", email="other@example.com")
        if claimed.ref == "ben":
            await put(milepost, "ben", email="ben@example.com", first_name="Benjamin")
        return await settle(self, claimed, *given)

    with monkeypatch.context() as patch:
        patch.setattr(ContactStore, "settle", overtaken)
        assert (2, 1, 0) == ((counts := await sync()).made, counts.updated, counts.failed)
    ben = await milepost.upstream.get_contact(
        milepost.deployment.directory_id or "", await contact_of(milepost, "ben")
    )
    assert "Benjamin" == ben.first_name
    assert (1, 0) == ((counts := await sync()).made, counts.updated)


@pytest.mark.usefixtures("probes_at_once")
async def test_a_run_breaks_off_where_more_calls_would_end_the_same(
    milepost: Milepost, platform: Any, sync: Syncing
) -> None:
    """A revoked token costs one page of calls; one person's bad data stop nobody else."""
    await sync()
    await crowd(milepost, range(40))
    await platform.fault("status", status=400, call_class="list_contacts")
    counts = await sync()
    assert (39, 1) == (counts.made, counts.failed)
    (finding,) = await sync.findings()
    assert (finding.ref or "").startswith("p")
    assert "status 400" in finding.reason
    assert "example.com" not in finding.reason
    await crowd(milepost, range(40, 80))
    before = await platform.calls()
    await platform.fault("status", status=401, call_class="list_contacts", times=None)
    with pytest.raises(Unauthorized):
        await sync()
    assert before + 2 < await platform.calls() <= before + 2 + filling.PAGE


async def test_a_process_that_died_amid_a_page_is_taken_over(
    milepost: Milepost, platform: Any, sync: Syncing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the next one at once: those whom it had claimed are not left for a minute."""
    settle = ContactStore.settle

    async def die(self: ContactStore, claimed: Any, *given: Any) -> bool:
        """Die before it is written down, once."""
        if claimed.ref == "p5":
            monkeypatch.setattr(ContactStore, "settle", settle)
            raise Died
        return await settle(self, claimed, *given)

    await crowd(milepost, range(40))
    await platform.forget()
    monkeypatch.setattr(ContactStore, "settle", die)
    with pytest.raises(Died):
        await sync()
    assert 43 > await registered(milepost)
    await sync.attempt()
    assert (43, 43) == (await registered(milepost), made_at(await platform.entries(), "CID"))


async def registered(milepost: Milepost) -> int:
    """How many are known to be in the home list."""
    return (await milepost.store.contacts.outlook(merges=True)).listed


async def test_changed_criteria_compute_all_keys_anew(
    milepost: Milepost, platform: Any, sync: Syncing
) -> None:
    """Who shared a contact under the old ones may own one under the others, and the other way."""
    await put(milepost, "twin", email="ann@example.com", first_name="Twin")
    await put(milepost, "phone", phone="+1")
    await platform.switch(deduplication_criteria={"email": True, "firstName": True})
    await sync()

    async def contact(ref: str) -> str:
        """Whose contact a registrant has."""
        registrant = await milepost.store.registrants.get(ref)
        return registrant.contact if registrant else "none"

    assert ("own", "own", "incomplete") == (
        await contact("ann"),
        await contact("twin"),
        await contact("phone"),
    )
    await platform.switch(deduplication_criteria={"phone": True})
    await sync()
    assert ("incomplete", "own") == (await contact("ann"), await contact("phone"))


async def test_keys_half_computed_are_computed_again(
    milepost: Milepost, platform: Any, sync: Syncing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between the keys and the criteria leaves the change to be seen by the next run."""
    await put(milepost, "twin", email="ann@example.com", first_name="Twin")
    await platform.switch(deduplication_criteria={"email": True, "firstName": True})

    async def die(*_: object) -> None:
        """End before it is written down."""
        raise DatabaseBusy("the process is gone")

    with monkeypatch.context() as patch:
        patch.setattr(type(milepost.store.registrants), "rekey", die)
        with pytest.raises(DatabaseBusy):
            await sync()
    await sync()
    twin = await milepost.store.registrants.get("twin")
    assert "own" == (twin and twin.contact)


# --- in bulk --------------------------------------------------------------------------------------


def test_the_cheaper_way_is_taken() -> None:
    """A list that is long to read back makes an import dear; a few go one by one in any case."""
    assert 100 + 100 + 1_000 == calls_in_bulk(100_000, 0)
    assert [False, True] == [is_bulk(people, 0) for people in (50, 51)]
    assert [False, True] == [is_bulk(people, 100_000) for people in (1_000, 1_017)]


async def test_many_are_imported_and_read_back(
    milepost: Milepost, platform: Any, sync: Syncing
) -> None:
    """With a call for each thousand and each hundred; the same again is no write at all."""
    await crowd(milepost, range(MANY))
    await sync.milepost.store.deployment.load()
    before = await platform.calls()
    assert MANY + 3 == (await sync()).made
    # The directory, opt-outs, the home list, an import, its progress, three pages.
    assert before + 8 == await platform.calls()
    assert MANY + 3 == await registered(milepost)
    listed = milepost.upstream.list_contacts(
        milepost.deployment.directory_id or "",
        (await milepost.store.deployment.load()).home_list_id or "",
    )
    assert {one.ref: one.contact_id async for one in listed} == {
        ref: await contact_of(milepost, ref)
        for ref in ("ann", "ben", "cleo", *(f"p{n}" for n in range(MANY)))
    }
    await platform.forget()
    before = await platform.calls()
    assert Counts() == await sync()
    assert ([], before + 2) == (await platform.writes(), await platform.calls())


@pytest.mark.parametrize("dedup", [True, False], indirect=["dedup"])
async def test_a_process_may_die_anywhere(
    *, milepost: Milepost, platform: Any, elapse: Elapse, sync: Syncing, dedup: bool
) -> None:
    """What it had done and not written down is not done twice at the platform, in either mode."""
    await crowd(milepost, range(MANY))
    await platform.forget()
    _, deaths = await sync.to_the_end(dies_at=1)
    assert deaths >= 8
    if not dedup:  # whose import may never have arrived is looked for first
        for seconds in (61, 61, A_DAY):
            await elapse(seconds)
            await sync()
    assert MANY + 3 == await registered(milepost)
    entries = await platform.entries()
    assert MANY + 3 == made_at(entries, "CID") == made_at(entries, "CGC")
    imported = Counter(
        contact["extRef"]
        for entry in entries
        if entry["operation"] == "import.start"
        for contact in entry["body"]["contacts"]
    )
    assert {1} == set(imported.values())


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("dedup", [True, False], indirect=["dedup"])
async def test_an_import_whose_answer_is_lost_is_asked_for(
    *,
    milepost: Milepost,
    platform: Any,
    elapse: Elapse,
    sync: Syncing,
    execute: Execute,
    dedup: bool,
    moment: str,
) -> None:
    """Before it is begun again; where nobody is recognised, after three looks and a day."""
    await crowd(milepost, range(MANY))
    await platform.fault("reset", moment=moment, endpoint=IMPORTS)
    await platform.forget()
    counts = await sync()
    if moment == "before" and not dedup:
        assert (0, 0) == (counts.made, (await platform.writes()).count("import.start"))
        for _ in range(3):
            await elapse(61)
            assert 0 == (await sync()).made
        await elapse(A_DAY)
        counts = await sync()
    assert MANY + 3 == counts.made
    assert MANY + 3 == made_at(await platform.entries(), "CID")
    assert 1 == (await platform.writes()).count("import.start")
    assert [] == await execute("SELECT * FROM listed_members")


@pytest.mark.parametrize("endpoint", [IMPORTS, f"{IMPORTS.replace('POST', 'GET')}/{{PGRS}}"])
async def test_an_import_that_is_not_found_is_asked_for_and_at_last_made_one_by_one(
    milepost: Milepost, platform: Any, sync: Syncing, endpoint: str
) -> None:
    """The list is there, and the platform knows nothing of imports, or of this one."""
    await crowd(milepost, range(80))
    await platform.fault("status", status=404, endpoint=endpoint, times=None)
    await platform.forget()
    assert (83, 0) == ((counts := await sync()).made, counts.failed)
    assert 83 == made_at(await platform.entries(), "CID")


async def test_an_import_is_waited_for_and_so_is_anothers(
    milepost: Milepost, platform: Any, sync: Syncing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list has one at a time, and one may take its time: an hour by the platform's clock."""
    monkeypatch.setattr(filling, "FIRST_POLL_SECONDS", 0.01)
    monkeypatch.setattr(filling, "LONGEST_POLL_SECONDS", 0.01)
    await sync()
    deployment = await milepost.store.deployment.load()
    await platform.switch(facts={"import_seconds": 3_600})
    await milepost.upstream.start_import(
        deployment.directory_id or "",
        deployment.home_list_id or "",
        [ContactFields(email="other@example.com", ref="other")],
    )
    await crowd(milepost, range(MANY))
    await platform.web.delete("/control/stats")
    running = asyncio.create_task(sync())
    for kind in ("refused", "accepted"):  # first it may not begin, and then it is not done
        imports = {kind: 0}
        while imports[kind] < 2:
            stats = (await platform.web.get("/control/stats")).json()
            imports = stats["classes"].get("imports") or {kind: 0}
        assert not running.done()
        await platform.web.put("/control/clock", json={"advance_seconds": 3_601})
    assert MANY == (await running).made


async def test_whom_an_import_leaves_out_is_tried_alone_and_told(
    milepost: Milepost, platform: Any, sync: Syncing
) -> None:
    """With the platform's reason, and nothing of the person but the ref."""
    await crowd(milepost, range(MANY))
    for ref in ("x1", "x2"):
        await put(milepost, ref, email=f"no address of {ref}")
    await platform.switch(facts={"any_email": False})
    counts = await sync()
    assert (MANY + 3, 2, 0) == (counts.made, counts.failed, counts.unpaired)
    found = await sync.findings()
    assert {"x1", "x2"} == {finding.ref for finding in found}
    assert all("add_list_contact: refused" in finding.reason for finding in found), found
    assert not any("address of" in finding.reason for finding in found)


async def test_who_is_left_out_beyond_all_patience_is_reported(
    milepost: Milepost, platform: Any, sync: Syncing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some are tried alone, to learn why; the others are listed."""
    monkeypatch.setattr(filling, "MOST_SINGLY", 2)
    monkeypatch.setattr(filling, "FEW", 5)
    for number in range(60):
        await put(milepost, f"x{number:02}", email=f"no address {number}")
    await platform.switch(facts={"any_email": False})
    counts = await sync()
    assert (3, 2, 58) == (counts.made, counts.failed, counts.unpaired)
    assert Counter({filling.UNPAIRED: 58}) == Counter(
        finding.reason for finding in await sync.findings() if "refused" not in finding.reason
    )


@pytest.mark.parametrize("dedup", [False], indirect=["dedup"])
async def test_an_import_whose_answer_is_lost_may_go_on_for_long(
    *,
    milepost: Milepost,
    platform: Any,
    elapse: Elapse,
    sync: Syncing,
    dedup: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Looks that find nothing of it do not have its people made again, not even after a day."""
    assert not dedup
    monkeypatch.setattr(filling, "IMPORT_SECONDS", 0)
    await platform.switch(facts={"import_seconds": 360_000})
    await crowd(milepost, range(60))
    await platform.fault("reset", moment="after", endpoint=IMPORTS)
    await platform.forget()
    for seconds in (61, 61, A_DAY, 61, 61):
        assert 0 == (await sync()).made
        await elapse(seconds)
    await platform.web.put("/control/clock", json={"advance_seconds": 360_001})
    assert 63 == (await sync()).made
    entries = await platform.entries()
    assert 63 == made_at(entries, "CID")
    assert 1 == [entry["operation"] for entry in entries].count("import.start")


@pytest.mark.parametrize("dedup", [False], indirect=["dedup"])
async def test_an_import_that_was_throttled_is_no_doubt(
    *,
    milepost: Milepost,
    platform: Any,
    sync: Syncing,
    dedup: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing was made: the next run imports, without a look."""
    assert not dedup
    await crowd(milepost, range(60))
    await platform.fault("status", status=429, endpoint=IMPORTS)
    with monkeypatch.context() as patch:
        patch.setattr(filling, "PATIENCE_SECONDS", 0)
        with pytest.raises(Throttled):
            await sync()
    assert 63 == (await sync()).made


@pytest.mark.parametrize("dedup", [True, False], indirect=["dedup"])
async def test_an_import_that_is_refused_is_made_one_by_one(
    *, milepost: Milepost, platform: Any, sync: Syncing, dedup: bool
) -> None:
    """An account that takes none, or one that one contact spoils; a refusal leaves no doubt."""
    del dedup
    await crowd(milepost, range(80))
    await platform.fault("status", status=400, endpoint=IMPORTS, times=None)
    await platform.forget()
    counts = await sync()
    assert (83, 0) == (counts.made, counts.failed)
    assert 83 == (await platform.writes()).count("list_contact.add")


async def test_a_listing_begins_anew_where_its_page_is_not_known_any_more(
    milepost: Milepost, platform: Any, sync: Syncing
) -> None:
    """A process died amid it, and the platform has forgotten the cursor."""
    await crowd(milepost, range(MANY))
    sync.run_id = (await milepost.store.runs.ask("sync", asked_by="test")).id
    with pytest.raises(Died):
        await sync.attempt(dies_at=6)
    record = await milepost.store.runs.get(sync.run_id)
    assert record is not None
    assert ("contacts: listing", 100) == (record.stage, record.done)
    await platform.fault("status", status=400, endpoint=MEMBERS)
    assert MANY + 3 == (await sync.attempt()).made


async def test_who_changes_while_they_are_imported_is_told_again(
    milepost: Milepost, sync: Syncing, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed name is told afterwards; under another e-mail they are somebody else there."""
    begin = filling.Imports.begin

    async def meanwhile(*given: Any) -> str:
        """Let two change once the import is on its way."""
        import_id = await begin(*given)
        await put(milepost, "p0", email="p0@example.com", first_name="Other")
        await put(milepost, "p1", email="elsewhere@example.com")
        return import_id

    await crowd(milepost, range(MANY))
    with monkeypatch.context() as patch:
        patch.setattr(filling.Imports, "begin", meanwhile)
        counts = await sync()
    # p1 was imported under values that they do not have any more, and is added under the others.
    assert (MANY + 3, 1) == (counts.made, counts.updated)
    (told,) = await execute("SELECT count(*) FROM registrants WHERE contact_stale")
    contact = await milepost.upstream.get_contact(
        milepost.deployment.directory_id or "", await contact_of(milepost, "p1")
    )
    assert ((0,), "elsewhere@example.com") == (told, contact.email)


# --- what has changed -----------------------------------------------------------------------------


@pytest.mark.parametrize("dedup", [True, False], indirect=["dedup"])
@pytest.mark.parametrize("people", [2, 60])
async def test_only_whoever_has_changed_is_told(
    *,
    milepost: Milepost,
    platform: Any,
    sync: Syncing,
    execute: Execute,
    dedup: bool,
    people: int,
) -> None:
    """By one import of exactly them, without reading the list; one by one where they are few."""
    await crowd(milepost, range(MANY))
    await sync()
    await execute(
        "UPDATE registrants SET contact_stale = true, first_name = 'Changed' WHERE ref = ANY (%s)",
        [f"p{n}" for n in range(people)],
    )
    await platform.forget()
    before = await platform.calls()
    assert people == (await sync()).updated
    entries = await platform.entries()
    told = [
        contact["firstName"]
        for entry in entries
        if entry["operation"] != "import.advance"
        for contact in entry["body"].get("contacts", [entry["body"]])
    ]
    assert people * ["Changed"] == told
    is_bulk_now = dedup and people > filling.FEW
    assert before + 2 + (2 if is_bulk_now else people) == await platform.calls()
    assert 0 == made_at(entries, "CID")
    assert 0 == (await sync()).updated


async def test_an_update_that_meets_nobody_is_noticed(
    milepost: Milepost, platform: Any, sync: Syncing, execute: Execute
) -> None:
    """Somebody was deleted at the platform: the import makes them anew, and they are found."""
    await crowd(milepost, range(MANY))
    await sync()
    gone = await contact_of(milepost, "p7")
    await milepost.upstream.delete_contact(milepost.deployment.directory_id or "", gone)
    await execute("UPDATE registrants SET contact_stale = true WHERE ref < 'p3'")
    await platform.forget()
    counts = await sync()
    assert (0, 0, 0) == (counts.moved, counts.lost, counts.failed)
    await execute("UPDATE registrants SET contact_stale = true")
    counts = await sync()
    assert (1, 0, 0) == (counts.moved, counts.lost, counts.failed)
    assert gone != await contact_of(milepost, "p7") != ""
    assert Counts(updated=1) == await sync()
    assert Counts() == await sync()


# --- what others did at the platform --------------------------------------------------------------


async def compared(execute: Execute) -> None:
    """Let the home list have been compared long ago."""
    await execute("UPDATE deployment SET home_listed_at = home_listed_at - interval '8 days'")


async def test_a_merged_contact_is_found_under_the_other_one(
    milepost: Milepost, platform: Any, sync: Syncing, landed: Landed, execute: Execute
) -> None:
    """Its id and its place are taken over, and memberships of the former one are forgotten."""
    await sync()
    await landed()
    directory = milepost.deployment.directory_id or ""
    other = await milepost.upstream.create_contact(directory, ContactFields(email="a@example.org"))
    former = await contact_of(milepost, "ann")
    await execute(
        "INSERT INTO memberships SELECT r.id, s.id, r.dedup_key, r.contact_id, 'CGC_1'"
        " FROM registrants AS r, slots AS s WHERE r.ref = 'ann' AND s.number = 1"
    )
    merged = {"contact": former, "into": other}
    (await platform.web.post("/control/merges", json=merged)).raise_for_status()
    assert 0 == (await sync()).moved
    await compared(execute)
    counts = await sync()
    assert (1, 0, 1) == (counts.moved, counts.lost, counts.updated)
    assert other == await contact_of(milepost, "ann")
    assert [] == await execute("SELECT * FROM memberships")
    calls = await platform.calls()
    assert Counts() == await sync()
    assert calls + 2 == await platform.calls()


async def test_a_deleted_contact_is_made_anew_in_the_same_run(
    milepost: Milepost, sync: Syncing, execute: Execute
) -> None:
    """But not a tenth of all, before a person has said that it is so."""
    await crowd(milepost, range(MANY))
    await sync()
    directory = milepost.deployment.directory_id or ""

    async def delete(people: Iterable[int]) -> None:
        """Delete contacts."""
        for number in people:
            contact_id = await contact_of(milepost, f"p{number}")
            await milepost.upstream.delete_contact(directory, contact_id)

    await delete([0])
    await compared(execute)
    counts = await sync()
    assert (1, 1) == (counts.lost, counts.made)
    await delete(range(24))
    await compared(execute)
    await put(milepost, "dora", email="dora@example.com")
    for _ in range(2):
        with pytest.raises(NeedsAPerson, match=r"lacks 24 of the 23[34] .* --accept-losses"):
            await sync()
    assert await contact_of(milepost, "p1")
    assert await contact_of(milepost, "dora")
    counts = await sync(accept_losses=True)
    assert (24, 24) == (counts.lost, counts.made)
    await compared(execute)
    assert Counts() == await sync()


@pytest.fixture
def listed_without(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Whom the platform's listings leave out, as a test puts them in here."""
    hidden: set[str] = set()
    write = ContactStore.write_page

    async def without(self: ContactStore, list_id: str, members: Any) -> None:
        """Leave them out."""
        await write(self, list_id, [one for one in members if one.ref not in hidden])

    monkeypatch.setattr(ContactStore, "write_page", without)
    return hidden


@pytest.mark.parametrize("dedup", [False], indirect=["dedup"])
async def test_whom_a_listing_leaves_out_is_asked_for(
    *,
    milepost: Milepost,
    platform: Any,
    sync: Syncing,
    execute: Execute,
    listed_without: set[str],
    dedup: bool,
) -> None:
    """Where nobody is recognised only who is not in the list is made anew, not who is not shown."""
    assert not dedup
    await sync()
    known = await contact_of(milepost, "ben")
    deleted = await contact_of(milepost, "ann")
    await milepost.upstream.delete_contact(milepost.deployment.directory_id or "", deleted)
    listed_without.add("ben")
    for made in (1, 0):
        await compared(execute)
        await platform.forget()
        assert (made, made) == ((counts := await sync()).lost, counts.made)
        assert made == made_at(await platform.entries(), "CID")
    assert known == await contact_of(milepost, "ben")


@pytest.mark.parametrize("dedup", [False], indirect=["dedup"])
async def test_one_listing_is_one_look(
    *,
    milepost: Milepost,
    platform: Any,
    sync: Syncing,
    execute: Execute,
    elapse: Elapse,
    listed_without: set[str],
    dedup: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However often its comparison breaks off: else it would have people added a second time."""
    assert not dedup
    await platform.fault("reset", moment="before", call_class="list_contacts")
    assert (2, 1) == ((counts := await sync()).made, counts.failed)
    ((doubtful,),) = await execute("SELECT ref FROM registrants WHERE home_lookup_id IS NULL")
    listed_without |= {"ann", "ben", "cleo"}

    async def die(*_: object) -> Any:
        """The process is gone before it has asked for a contact."""
        raise Died

    await elapse(61)
    await compared(execute)
    with monkeypatch.context() as patch:
        patch.setattr(milepost.upstream, "get_contact", die)
        for attempt in range(3):
            with pytest.raises(Died):
                await (sync.attempt() if attempt else sync())
    assert (0, 0) == ((counts := await sync.attempt()).made, counts.lost)
    looks = "SELECT contact_looks FROM registrants WHERE ref = %s"
    assert [(2,)] == await execute(looks, doubtful)  # the listing, and a search


@pytest.mark.parametrize("dedup", [False], indirect=["dedup"])
async def test_a_comparison_goes_on_where_it_broke_off(
    *,
    milepost: Milepost,
    platform: Any,
    sync: Syncing,
    execute: Execute,
    listed_without: set[str],
    dedup: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A contact that is refused stays and is told of; who was asked for is not asked for again."""
    assert not dedup
    monkeypatch.setattr(home_list, "AT_ONCE", 1)
    await sync()
    listed_without |= {"ann", "ben", "cleo"}
    ann = await contact_of(milepost, "ann")
    await milepost.upstream.delete_contact(milepost.deployment.directory_id or "", ann)
    await compared(execute)
    await platform.fault("status", status=400, endpoint=CONTACT)
    asked: list[str] = []
    get = milepost.upstream.get_contact

    async def get_contact(directory_id: str, contact_id: str) -> Any:
        """The process dies of the third asking."""
        asked.append(contact_id)
        if len(asked) == 3:
            raise Died
        return await get(directory_id, contact_id)

    monkeypatch.setattr(milepost.upstream, "get_contact", get_contact)
    with pytest.raises(Died):
        await sync()
    assert (0, 0) == ((counts := await sync.attempt()).lost, counts.made)
    known = [await contact_of(milepost, ref) for ref in ("ann", "ben", "cleo")]
    assert [*known, known[-1]] == asked
    (finding,) = await sync.findings()
    assert "ann" == finding.ref
    assert finding.reason.startswith(home_list.UNTOLD)
    await compared(execute)
    assert (1, 1) == ((counts := await sync()).lost, counts.made)


async def test_a_deleted_home_list_needs_a_person(
    milepost: Milepost, platform: Any, elapse: Elapse, sync: Syncing
) -> None:
    """Who says so has another one made, with everybody in it."""
    await sync()
    deployment = await milepost.store.deployment.load()
    await milepost.upstream.delete_mailing_list(
        deployment.directory_id or "", deployment.home_list_id or ""
    )
    await put(milepost, "dora", email="dora@example.com")
    for _ in range(2):
        with pytest.raises(NeedsAPerson, match="--accept-losses"):
            await sync()
    await platform.forget()
    await elapse(61)
    counts = await sync(accept_losses=True)
    assert (3, 4) == (counts.lost, counts.made)
    assert Counter({"mailing_list.create": 1, "list_contact.add": 4}) == Counter(
        await platform.writes()
    )


async def test_two_contacts_with_one_ref_are_told(
    milepost: Milepost, platform: Any, sync: Syncing, execute: Execute
) -> None:
    """The one that is known stays; where none is, the first is taken."""
    await platform.switch(deduplication_criteria={"email": False})
    await sync()
    home = (await milepost.store.deployment.load()).home_list_id or ""
    directory = milepost.deployment.directory_id or ""
    first = {}
    for ref in ("ann", "dora", "dora"):
        fields = ContactFields(ref=ref, email=f"{ref}@example.com")
        added = await milepost.upstream.add_list_contact(directory, home, fields)
        first.setdefault(ref, added.contact_id)
    known = await contact_of(milepost, "ann")
    await put(milepost, "dora", email="dora@example.com")
    await execute("UPDATE registrants SET contact_in_doubt = true WHERE ref = 'dora'")
    await compared(execute)
    await sync()
    assert [(filling.DOUBLE, "ann"), (filling.DOUBLE, "dora")] == [
        (finding.reason, finding.ref) for finding in await sync.findings()
    ]
    assert (known, first["dora"]) == (
        await contact_of(milepost, "ann"),
        await contact_of(milepost, "dora"),
    )


async def test_opt_outs_are_pulled_and_never_undone(
    milepost: Milepost, platform: Any, sync: Syncing, execute: Execute
) -> None:
    """By the contact, whatever its ref is now, and by the ref; nothing sent could opt them in."""
    await sync()
    directory = f"/API/v3/directories/{milepost.deployment.directory_id}"
    token = {"X-API-TOKEN": "simulator"}

    async def change(contact_id: str, **fields: object) -> None:
        """Change a contact as somebody at the platform does."""
        path = f"{directory}/contacts/{contact_id}"
        (await platform.web.put(path, json=fields, headers=token)).raise_for_status()

    async def gone() -> list[tuple[Any, ...]]:
        """Who has opted out."""
        query = "SELECT ref FROM registrants WHERE opted_out_at IS NOT NULL ORDER BY ref"
        return await execute(query)

    ann, ben = await contact_of(milepost, "ann"), await contact_of(milepost, "ben")
    await change(ann, unsubscribed=True, extRef="renamed")
    added = {"email": "dora@example.org", "extRef": "dora", "unsubscribed": True}
    made = await platform.web.post(f"{directory}/contacts", json=added, headers=token)
    made.raise_for_status()
    await put(milepost, "dora", email="dora@example.com")
    await platform.forget()
    assert (2, 0) == ((counts := await sync()).opted_out, counts.made)
    await change(ann, unsubscribed=False)
    await execute("UPDATE registrants SET contact_stale = true WHERE ref = 'ann'")
    assert Counts() == await sync()
    assert [("ann",), ("dora",)] == await gone()
    # A listing shows it as well.
    await platform.fault(
        "status", status=403, endpoint="GET /directories/{POOL}/contacts/optedOutContacts"
    )
    await change(ben, unsubscribed=True)
    await compared(execute)
    with pytest.raises(NeedsAPerson, match="opt-outs cannot be pulled"):
        await sync()
    assert [("ann",), ("ben",), ("dora",)] == await gone()
    mine = [e for e in await platform.entries() if e["operation"] != "directory_contact.update"]
    assert [] == mine


# --- where registrants come in from ---------------------------------------------------------------


async def test_an_intake_that_needs_a_person_holds_up_nothing_else(
    milepost: Milepost, platform: Any, sync: Syncing
) -> None:
    """The run makes contacts and stops at its end, also where a process died in between."""

    class Asking:
        """Brings in two, one at a time, and then asks."""

        seen: list[Any]

        def __init__(self) -> None:
            self.seen = []

        async def run(self, run: Run) -> None:
            """Bring them in from where it stood."""
            self.seen.append(run.position)
            for number in range(run.position or 0, 2):
                await crowd(milepost, [number])
                await run.commit(number + 1, stage="intake", done=number + 1, counts=Came(came=1))
            raise NeedsAPerson("the file is half as long as yesterday")

    intake = Asking()
    job = Sync(milepost.store, milepost.upstream, None, intake)
    sync.run_id = (await milepost.store.runs.ask("sync", asked_by="test")).id
    for dies_at in (1, 2, 1):
        with pytest.raises(Died):
            await sync.attempt(dies_at=dies_at, job=job)
    with pytest.raises(NeedsAPerson, match="half as long"):
        await sync.attempt(job=job)
    assert [None, 1] == intake.seen
    record = await milepost.store.runs.get(sync.run_id)
    assert record is not None
    assert ("stopped", 1) == (record.state, record.counts["came"])
    assert 5 == await registered(milepost)
    assert 5 == (await platform.writes()).count("list_contact.add")


async def test_what_earlier_ones_left_behind_goes(
    milepost: Milepost, sync: Syncing, execute: Execute
) -> None:
    """A listing whose run ended amid it, and what was sent of an import that broke off long ago."""
    await execute("INSERT INTO listed_members VALUES ('CG_1', 'CID_1', 'CGC_1', 1, 'ann', 'k')")
    arrival = await Arrival.begin(milepost.store)
    await milepost.store.sources.stage(
        await arrival.end(), [StagedRow("ann", attributes="{}")], after=0
    )
    await execute("UPDATE intakes SET touched_at = now() - interval '2 days'")
    await sync()
    assert [(0, 0, 0)] == await execute(
        "SELECT (SELECT count(*) FROM listed_members), (SELECT count(*) FROM staged),"
        " (SELECT count(*) FROM intakes)"
    )


class Came(Counts, kw_only=True):
    """What another part counts."""

    came: int


# --- memberships ahead of events ------------------------------------------------------------------


async def memberships(execute: Execute) -> dict[str, str]:
    """The lookup id of each registrant in the slot's list, where it is valid."""
    rows = await execute(
        "SELECT r.ref, m.lookup_id FROM memberships AS m JOIN registrants AS r"
        " ON r.id = m.registrant_id AND r.dedup_key = m.contact_key"
    )
    return dict(rows)


async def ahead(milepost: Milepost, landed: Landed) -> tuple[str, str]:
    """Register a milestone that wants everybody ahead; the directory, and its first slot's list."""
    await landed(membership="ahead", late_data=True, slots=2)
    (slot,) = await milepost.store.memberships.slots()
    return milepost.deployment.directory_id or "", slot.list_id


async def test_the_list_of_the_first_slot_is_filled_ahead(
    milepost: Milepost, platform: Any, sync: Syncing, landed: Landed, execute: Execute
) -> None:
    """In bulk, then only who is missing, one by one; who has another contact is put in anew."""
    directory, list_id = await ahead(milepost, landed)
    await crowd(milepost, range(MANY))
    counts = await sync()
    assert (MANY + 3, MANY + 3) == (counts.made, counts.memberships)
    listed = [one async for one in milepost.upstream.list_contacts(directory, list_id)]
    probe = {one.ref: one.lookup_id for one in listed if (one.ref or "").startswith("milepost-")}
    assert {one.ref: one.lookup_id for one in listed} == await memberships(execute) | probe
    before = await platform.calls()
    await platform.forget()
    assert Counts() == await sync()
    assert ([], before + 2) == (await platform.writes(), await platform.calls())
    await put(milepost, "dora", email="dora@example.com")
    await put(milepost, "ann", email="elsewhere@example.com")
    counts = await sync()
    assert (2, 2) == (counts.made, counts.memberships)
    assert Counter({"list_contact.add": 4}) == Counter(await platform.writes())
    assert MANY + 4 == len(await memberships(execute))


async def test_who_is_in_the_list_by_a_link_is_not_put_into_it(
    *,
    client: Any,
    milepost: Milepost,
    platform: Any,
    sync: Syncing,
    landed: Landed,
    execute: Execute,
) -> None:
    """Its data are the link's; where it stands is known from the link."""
    await landed(slots=1, lanes=["direct", "queued"])
    body = {"event_id": "e1", "milestone": "landed", "registrant": "ann", "data": {"flight": 1}}
    link = (await client.post("/v1/links", json=body)).json()
    await milepost.issuing.finish()
    await ahead(milepost, landed)
    assert (3, 3) == ((counts := await sync()).made, counts.memberships + 1)
    assert (await memberships(execute))["ann"].removeprefix("CGC_") in link["url"]
    adds = [e for e in await platform.entries() if e["operation"] == "list_contact.add"]
    assert 5 == len(adds)  # three into the home list, two into the slot's


@pytest.mark.parametrize("dedup", [False], indirect=["dedup"])
async def test_where_nobody_is_recognised_no_list_is_filled_ahead(
    *,
    milepost: Milepost,
    platform: Any,
    sync: Syncing,
    landed: Landed,
    execute: Execute,
    dedup: bool,
) -> None:
    """An add in doubt could only be made again, and would double a person."""
    assert not dedup
    await sync()
    await ahead(milepost, landed)
    await platform.forget()
    assert (0, 0) == ((counts := await sync()).memberships, counts.failed)
    assert [] == await platform.writes()
    assert {} == await memberships(execute)


async def test_a_slots_list_that_is_gone_holds_up_nothing_else(
    milepost: Milepost, sync: Syncing, landed: Landed
) -> None:
    """It is told; the pool is somebody else's to mend."""
    directory, list_id = await ahead(milepost, landed)
    await milepost.upstream.delete_mailing_list(directory, list_id)
    counts = await sync()
    assert (3, 0) == (counts.made, counts.memberships)
    (finding,) = await sync.findings()
    assert ("milestone landed", True) == (finding.source, list_id in finding.reason)


async def test_a_capability_that_is_missing_makes_the_list_be_read_first(
    milepost: Milepost, platform: Any, sync: Syncing
) -> None:
    """An account whose directory has criteria, and was proved to merge nobody."""
    await milepost.store.capabilities.note(Fact.ONE_CONTACT, holds=False, evidence="test")
    await platform.switch(facts={"merges": False})
    await crowd(milepost, range(MANY))
    await platform.fault("reset", moment="after", endpoint=IMPORTS)
    await platform.forget()
    assert MANY + 3 == (await sync()).made
    assert MANY + 3 == made_at(await platform.entries(), "CID")
