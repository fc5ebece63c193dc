"""The survey behind a link: who may open it, what it records, and how often."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

Customer = Any
State = Callable[[httpx.Response], str]


def test_a_response_holds_the_data_as_they_were_at_the_start(own: Customer) -> None:
    """Contact and private data, captured when the link was opened, not issued and not sent off."""
    path = own.mailing_list()
    contact, _ = own.add(
        path, firstName="Ada", extRef="r1", embeddedData={"tier": "gold", "order": "?"}
    )
    link = own.links(own.distribute(path))[0]
    member = f"{path}/contacts/{contact}"
    own.result("PUT", member, {"privateEmbeddedData": {"order": "7"}})
    session = own.open(link)
    own.result("PUT", member, {"privateEmbeddedData": {"order": "8"}})
    assert own.open(link) == session
    own.send(link, session, QID2="2", QID3="<b>fine</b>")
    response = own.elements(f"/distributions/{link.split('Q_DL=')[1][:19]}/history")[0]
    found = own.result("GET", f"/surveys/{own.ready.survey_id}/responses/{response['responseId']}")
    values = found["values"]
    expected = {
        "tier": "gold",
        "order": "7",
        "recipientFirstName": "Ada",
        "externalDataReference": "r1",
        "finished": 1,
        "progress": 100,
        "distributionChannel": "gl",
        "userLanguage": "EN",
        "QID1": 5,
        "QID2": 2,
        "QID3_TEXT": "<b>fine</b>",
        "_recordId": response["responseId"],
    }
    assert {name: values[name] for name in expected} == expected
    assert found["labels"]["QID2"] == "Speed"
    assert found["displayedFields"] == ["QID1", "QID2", "QID3_TEXT"]
    assert found["displayedValues"]["QID1"] == [1, 2, 3, 4, 5]


def test_the_data_are_never_shown(shared: Customer) -> None:
    """Neither on the form nor after it."""
    link = shared.link(
        firstName="Secretname", embeddedData={"a": "Secretvalue"}, privateEmbeddedData={"b": "Sec2"}
    )
    page = shared.web.get(link).text + shared.send(link, shared.open(link)).text
    assert "Sec" not in page


def test_a_link_can_be_answered_once(shared: Customer, state: State) -> None:
    """After that it says so, to a GET and to a second form, and no second response is made."""
    link = shared.link()
    session = shared.open(link)
    assert state(shared.send(link, session)) == "thanks"
    for page in (shared.send(link, session), shared.web.get(link)):
        assert (state(page), page.status_code) == ("taken", 410)
    assert shared.web.head(link).status_code == 410


def test_a_form_sent_off_twice_at_once_is_recorded_once(own: Customer, state: State) -> None:
    """Of many at the same time one is thanked."""
    link = own.link()
    session = own.open(link)
    with ThreadPoolExecutor(8) as people:
        pages = list(people.map(lambda _: state(own.send(link, session)), range(16)))
    assert sorted(pages) == ["taken"] * 15 + ["thanks"]
    assert own.control("GET", "stats")["held"]["responses"] == 1


def test_a_form_without_its_rating_is_shown_again(shared: Customer, state: State) -> None:
    """What was written is kept and escaped; an answer that was not on offer is no answer."""
    link = shared.link()
    session = shared.open(link)
    for answers in ({"QID1": ""}, {"QID1": "6"}, {"QID1": "x"}, {"QID1": "5", "QID2": "9"}):
        page = shared.send(link, session, QID3='"><script>', **answers)
        assert (state(page), page.status_code) == ("missing", 422)
        assert "<script" not in page.text
        assert "&#34;&gt;&lt;script&gt;" in page.text
    assert state(shared.send(link, session)) == "thanks"


def test_a_multiple_link_can_be_answered_many_times(own: Customer, state: State) -> None:
    """Each opening is a session of its own; history tells the latest."""
    path = own.mailing_list()
    own.add(path)
    distribution = own.distribute(path, linkType="Multiple")
    link = own.links(distribution)[0]
    first, second = own.open(link), own.open(link)
    assert first != second
    assert state(own.send(link, first)) == "thanks"
    assert state(own.send(link, first)) == "taken"
    assert state(own.send(link, second)) == "thanks"
    found = own.result("GET", f"/distributions/{distribution}?surveyId={own.ready.survey_id}")
    assert found["stats"]["finished"] == 2


def test_an_anonymous_link_knows_nobody(own: Customer) -> None:
    """It is the survey's plain address; declared fields come from the query string."""
    own.control("PUT", "settings", {"declared_fields": ["ref"]})
    path = own.mailing_list()
    own.add(path, embeddedData={"tier": "gold"})
    link = own.links(own.distribute(path, linkType="Anonymous"))[0]
    assert link == f"{own.ready.origin}/jfe/form/{own.ready.survey_id}"
    values = own.answer(f"{link}?ref=1&other=2")
    assert values["distributionChannel"] == "anonymous"
    assert (values["ref"], "other" in values, "tier" in values) == ("1", False, False)


def test_each_visit_is_told_with_its_link_and_its_response(own: Customer) -> None:
    """In the order in which they began; one that was resumed is one, one that ended has its end."""
    own.control("PUT", "settings", {"declared_fields": ["ref"]})
    path = own.mailing_list()
    _, lookup = own.add(path, privateEmbeddedData={"order": "7"})
    distribution = own.distribute(path)
    (link,) = own.links(distribution)
    plain = f"{own.ready.origin}/jfe/form/{own.ready.survey_id}?ref=1"
    sessions = [own.open(link), own.open(plain), own.open(plain)]
    assert sessions[0] == own.open(link)
    own.send(link, sessions[0])
    response = own.control("GET", "journal")["entries"][-1]["ids"]["response"]
    told = own.control("GET", "sessions")
    assert 3 == told["last"]
    assert sessions == [one["id"] for one in told["sessions"]]
    places = [(one["distribution"], one["recipient"]) for one in told["sessions"]]
    assert [(distribution, lookup), (None, None), (None, None)] == places
    assert [{"order": "7"}, {"ref": "1"}, {"ref": "1"}] == [one["data"] for one in told["sessions"]]
    assert [response, None, None] == [one["response"] for one in told["sessions"]]
    ended = [one["completed_at"] is not None for one in told["sessions"]]
    assert [True, False, False] == ended
    (second,) = own.control("GET", "sessions?after=1&limit=1")["sessions"]
    assert told["sessions"][1] == second
    assert [] == own.control("GET", f"sessions?after={10**18}")["sessions"]


def test_head_starts_no_session(own: Customer) -> None:
    """A scanner that looks without opening leaves no trace."""
    link = own.link()
    assert own.web.head(link).status_code == 200
    assert own.control("GET", "stats")["held"]["sessions"] == 0


@pytest.mark.parametrize("undeclared", ["recorded", "dropped"])
def test_which_fields_are_recorded(own: Customer, undeclared: str) -> None:
    """Declared ones always, others by the switch; from the query string only declared ones."""
    own.control(
        "PUT", "settings", {"undeclared_fields": undeclared, "declared_fields": ["order", "from"]}
    )
    link = own.link(embeddedData={"tier": "gold"}, privateEmbeddedData={"order": "7"})
    values = own.answer(f"{link}&from=mail&order=8&invented=1")
    found = {name: values.get(name) for name in ("tier", "order", "from", "invented")}
    tier = "gold" if undeclared == "recorded" else None
    assert found == {"tier": tier, "order": "8", "from": "mail", "invented": None}


def test_expiry_counts_before_the_first_click_only(own: Customer, state: State) -> None:
    """Who has started may finish, by either kind of link; who has not is too late."""
    path = own.mailing_list()
    own.add(path)
    soon = own.control("GET", "clock")["now"]
    own.add(path)
    links = own.links(own.distribute(path))
    many = own.links(own.distribute(path, linkType="Multiple"))[0]
    session, other = own.open(links[0]), own.open(many)
    own.control("PUT", "clock", {"advance_seconds": 60 * 86_400 + 1})
    late = own.web.get(links[1])
    assert (state(late), late.status_code) == ("expired", 410)
    assert state(own.send(links[0], session)) == "thanks"
    assert state(own.send(many, other)) == "thanks"
    assert state(own.web.get(many)) == "expired"
    own.control("PUT", "clock", {"now": soon})
    assert state(own.web.get(links[1])) == "open"


def test_an_inactive_survey_opens_no_link(own: Customer, state: State) -> None:
    """Not even one that was begun."""
    link = own.link()
    session = own.open(link)
    own.control("PUT", "settings", {"survey_active": False})
    assert state(own.web.get(link)) == "inactive"
    assert state(own.send(link, session)) == "inactive"


def test_a_survey_by_invitation_opens_by_personal_links_alone(own: Customer, state: State) -> None:
    """Its definition says so; its plain address is refused."""
    own.control("PUT", "settings", {"invitation_only": True})
    page = own.web.get(f"/jfe/form/{own.ready.survey_id}")
    assert (state(page), page.status_code) == ("invitation", 403)
    assert state(own.web.get(own.link())) == "open"
    definition = own.result("GET", f"/survey-definitions/{own.ready.survey_id}")
    assert definition["SurveyOptions"]["SurveyProtection"] == "ByInvitation"


def _swap(link: str, other: str, part: int) -> str:
    """One underscore-separated part of `Q_DL` taken from another link."""
    head, parts = link.split("Q_DL=")
    ours, theirs = parts.split("_"), other.split("Q_DL=")[1].split("_")
    ours[part] = theirs[part]
    return f"{head}Q_DL={'_'.join(ours)}"


@pytest.mark.parametrize(
    "alter",
    [
        lambda link, _: link.replace("Q_DL=EMD_", "Q_DL=EMD_0"),
        lambda link, _: link.replace("_CGC_", "_CTR_"),
        lambda link, _: link.replace("_CGC_", "_MLRP_"),
        lambda link, _: link.replace("/form/SV_", "/form/SV_x"),
        lambda link, _: link.replace("&_g_=g", "x&_g_=g"),
        lambda link, _: link.split("_CGC_")[0],
        lambda link, _: link.swapcase().replace("HTTP", "http").replace("/JFE/FORM/", "/jfe/form/"),
        lambda link, other: _swap(link, other, 1),
        lambda link, other: _swap(link, other, 4),
        lambda link, _: link.split("?")[0] + "?Q_DL=",
        lambda link, _: link.split("?")[0] + "?" + "a=1&" * 300,
    ],
    ids=range(11),
)
def test_an_altered_link_is_incorrect(
    shared: Customer, state: State, alter: Callable[[str, str], str]
) -> None:
    """Any part changed, cut off, or taken from the link of another list."""
    link, other = shared.link(), shared.link()
    page = shared.web.get(alter(link, other))
    assert (state(page), page.status_code) == ("incorrect", 404)
    assert "The URL is incorrect" in page.text


def test_links_break_with_their_list_distribution_and_membership(
    shared: Customer, state: State
) -> None:
    """Deleted, they lead nowhere."""
    gone = []
    for what in ("list", "distribution", "member"):
        path = shared.mailing_list()
        contact, _ = shared.add(path)
        distribution = shared.distribute(path)
        gone.append(shared.links(distribution)[0])
        shared.result(
            "DELETE",
            {
                "list": path,
                "distribution": f"/distributions/{distribution}",
                "member": f"{path}/contacts/{contact}",
            }[what],
        )
    assert [state(shared.web.get(link)) for link in gone] == ["incorrect"] * 3


@pytest.mark.parametrize(
    "form",
    [b"", b"session=", b"session=FS_000000000000000&QID1=5", b"\xff\xfe", b"a=1&" * 60],
    ids=range(5),
)
def test_a_form_of_no_session_is_incorrect(shared: Customer, state: State, form: bytes) -> None:
    """Whatever it holds."""
    assert state(shared.web.post(shared.link(), content=form)) == "incorrect"


def test_a_session_belongs_to_its_link(shared: Customer, state: State) -> None:
    """The session of one link cannot be sent off through another."""
    one, two = shared.link(), shared.link()
    assert state(shared.send(two, shared.open(one))) == "incorrect"


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("de", "Wie zufrieden"),
        ("FR-CA", "Dans l&#39;ensemble"),
        ("es", "En general"),
        ("en", "How satisfied"),
        ("xx", "How satisfied"),
        (None, "How satisfied"),
    ],
)
def test_the_page_speaks_the_contacts_language(
    shared: Customer, language: str | None, words: str
) -> None:
    """Where there is a translation; else English."""
    link = shared.link(language=language)
    page = shared.web.get(link)
    assert words in page.text
    shared.send(link, shared.open(link))
    thanked = {"de": "wurde bereits", "FR-CA": "Vous avez"}.get(language or "", "taken")
    if language != "es":
        assert thanked in shared.web.get(link).text


def test_a_page_is_kept_nowhere_and_tells_nobody_its_address(shared: Customer) -> None:
    """The link is a credential; and there is no script to be run."""
    page = shared.web.get(shared.link())
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script" not in page.text
    assert shared.web.get("/jfe/survey.css").headers["content-type"].startswith("text/css")
