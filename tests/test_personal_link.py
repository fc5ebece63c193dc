"""Personal links: every seen shape round-trips, and nothing else is taken for a link."""

from __future__ import annotations

import string
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.personal_link import (
    MalformedId,
    NotAPersonalLink,
    PersonalLink,
    Template,
    explain,
    parse,
)

RECORDED_LINKS = Path(__file__).parents[2] / "shared" / "upstream" / "personal_links.tsv"

D, S, L = "dIstribUti0nAbC", "sUrvey0123AbCdE", "l00kUpIdAbCdEfG"

SHAPES = {
    "2013": f"https://brand.example.com/SE?Q_DL={D}_{S}_MLRP_{L}&Q_CHL=gl",
    "2019, no channel": f"https://brand-b.az1.example.com/SE?Q_DL={D}_{S}_MLRP_{L}",
    "2020": f"https://brand.example.com/jfe/form/SV_{S}?Q_DL={D}_{S}_MLRP_{L}&Q_CHL=gl",
    "2021, EMD_": f"https://brand.example.com/jfe/form/SV_{S}?Q_DL=EMD_{D}_{S}_MLRP_{L}&Q_CHL=gl",
    "2021, http": f"http://brand.az1.example.com/jfe/form/SV_{S}?Q_CHL=gl&Q_DL={D}_{S}_MLRP_{L}",
    "e-mail": f"http://b.example.com/jfe/form/SV_{S}?Q_CHL=email&Q_DL=EMD_{D}_{S}_MLRP_{L}",
    "2023": f"https://b.example.com/jfe/form/SV_{S}?Q_CHL=gl&Q_DL=EMD_{D}_{S}_CGC_{L}&_g_=g",
    "transaction": f"https://b.example.com/jfe/form/SV_{S}?Q_CHL=gl&Q_DL={D}_{S}_CTR_{L}&_g_=g",
    "vanity": f"https://survey.example.edu/jfe/form/SV_{S}?Q_CHL=gl&Q_DL=EMD_{D}_{S}_CGC_{L}&_g_=g",
    "double slash": f"https://b.example.com//jfe/form/SV_{S}?Q_CHL=gl&Q_DL=EMD_{D}_{S}_CGC_{L}",
    "port": f"http://127.0.0.1:8790/jfe/form/SV_{S}?Q_CHL=gl&Q_DL=EMD_{D}_{S}_CGC_{L}&_g_=g",
}
TODAYS = SHAPES["2023"]


def recorded_links() -> list[str]:
    """The real links, where they are at hand."""
    if not RECORDED_LINKS.exists():
        return []
    rows = RECORDED_LINKS.read_text(encoding="utf-8").splitlines()[1:]
    return [row.split("\t")[1] for row in rows]


ids = st.text(string.ascii_letters + string.digits, min_size=15, max_size=15)
labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)


@st.composite
def links(draw: st.DrawFn) -> str:
    """URLs of every combination of what has been seen to differ between links."""
    distribution, survey, lookup = draw(st.lists(ids, min_size=3, max_size=3, unique=True))
    kind = draw(st.sampled_from(["CGC", "MLRP", "CTR"]))
    emd = draw(st.sampled_from(["", "EMD_"]))
    row = [f"Q_DL={emd}{distribution}_{survey}_{kind}_{lookup}"]
    row += draw(st.sampled_from([[], ["Q_CHL=gl"], ["Q_CHL=email"]]))
    row += draw(st.sampled_from([[], ["_g_=g"], ["_g_=g", "Q_Lang=EN"], ["empty="]]))
    host = ".".join(draw(st.lists(labels, min_size=1, max_size=4)))
    port = draw(st.sampled_from(["", ":8790", ":65535"]))
    path = draw(st.sampled_from(["/SE", f"/jfe/form/SV_{survey}", f"//jfe/form/SV_{survey}"]))
    scheme = draw(st.sampled_from(["http", "https"]))
    return f"{scheme}://{host}{port}{path}?{'&'.join(draw(st.permutations(row)))}"


@pytest.mark.parametrize("url", SHAPES.values(), ids=SHAPES.keys())
def test_every_seen_shape_gives_its_ids_with_their_prefixes(url: str) -> None:
    """Whatever the URL leaves out, the parts are whole ids; the URL comes back to the letter."""
    link = parse(url)
    assert (f"SV_{S}", f"EMD_{D}") == (link.survey_id, link.distribution_id)
    assert f"{link.kind}_{L}" == link.lookup_id
    assert url == link.url


@pytest.mark.parametrize("url", [*SHAPES.values(), *recorded_links()])
def test_links_round_trip_as_links_and_as_templates(url: str) -> None:
    """Every seen shape, and real links where they are at hand."""
    link = parse(url)
    template = Template.parse(str(link.template()))
    assert url == link.url
    assert url == template.url(link.lookup_id)


def test_explain_names_the_parts() -> None:
    """The command's JSON has these keys and no others."""
    expected = {
        "host": "b.example.com",
        "survey_id": f"SV_{S}",
        "distribution_id": f"EMD_{D}",
        "kind": "CTR",
        "lookup_id": f"CTR_{L}",
        "channel": "gl",
        "url": SHAPES["transaction"],
    }
    assert expected == explain(SHAPES["transaction"])
    assert explain(SHAPES["2019, no channel"])["channel"] is None
    assert explain(SHAPES["port"])["host"] == "127.0.0.1:8790"


@given(links())
def test_a_link_round_trips_to_the_letter(url: str) -> None:
    """Parsing and building lose nothing, by parts and by template, also through a text column."""
    link = parse(url)
    assert url == link.url
    assert url == Template.parse(str(link.template())).url(link.lookup_id)


@given(links(), st.data())
def test_an_altered_link_is_refused_or_kept_as_it_is(url: str, data: st.DataObject) -> None:
    """No altered character is tidied away: what is accepted is rebuilt exactly as it was given."""
    at = data.draw(st.integers(0, len(url)))
    cut = data.draw(st.integers(0, 2))
    put = data.draw(st.text(max_size=2) | st.sampled_from(["&", "=", "/", "%", "#", "@", "\n"]))
    altered = url[:at] + put + url[at + cut :]
    try:
        link = parse(altered)
    except NotAPersonalLink:
        return
    assert altered == link.url


@given(st.text())
def test_any_text_is_a_link_or_a_typed_refusal(text: str) -> None:
    """No input raises anything but the module's own error."""
    for reader in (parse, Template.parse):
        with pytest.raises(NotAPersonalLink):
            reader(text)


@given(links(), ids)
def test_a_template_changes_the_lookup_id_alone(url: str, other: str) -> None:
    """Two links of a template differ in nothing but the id."""
    link = parse(url)
    lookup_id = f"{link.kind}_{other}"
    assert replace(link, lookup_id=lookup_id) == parse(link.template().url(lookup_id))


def test_a_changed_part_changes_the_url() -> None:
    """The URL is built from the parts; the parsed text is not kept."""
    link = parse(TODAYS)
    survey = "SV_aBcDeFgHiJkLmNo"
    changed = replace(link, host="other.example.org", survey_id=survey, channel="email")
    expected = (
        f"https://other.example.org/jfe/form/{survey}"
        f"?Q_CHL=email&Q_DL=EMD_{D}_aBcDeFgHiJkLmNo_CGC_{L}&_g_=g"
    )
    assert expected == changed.url


def test_a_template_is_one_readable_line() -> None:
    """What stands in the database is the URL with a hole where the id belongs."""
    expected = f"https://b.example.com/jfe/form/SV_{S}?Q_CHL=gl&Q_DL=EMD_{D}_{S}_CGC_{{}}&_g_=g"
    assert expected == str(parse(TODAYS).template())


@pytest.mark.parametrize(
    "lookup_id",
    [
        f"MLRP_{L}",
        f"CTR_{L}",
        f"CID_{L}",
        L,
        f"CGC_{L[:-1]}",
        f"CGC_{L}x",
        f"CGC_{L[:-1]}_",
        f"CGC_{L}\n",
        f"CGC_{L[:-1]}é",
        f"cgc_{L}",
        "",
    ],
)
def test_a_template_takes_its_own_kind_of_id_only(lookup_id: str) -> None:
    """A wrong id never becomes a URL, and the error says what was wanted without quoting it."""
    with pytest.raises(MalformedId) as caught:
        parse(TODAYS).template().url(lookup_id)
    assert str(caught.value) == "the id is not CGC_ and 15 letters or digits"


@pytest.mark.parametrize(
    ("was", "becomes", "reason"),
    [
        ("https:", "ftp:", "its scheme is neither http nor https"),
        ("https:", "HTTPS:", "its scheme is neither http nor https"),
        ("https://", "//", "its scheme is neither http nor https"),
        ("b.example.com", "me:pw@b.example.com", "it holds a user name"),
        ("b.example.com", "b.example.com:", "its host is not a host name"),
        ("b.example.com", "b.example.com:65536", "its host is not a host name"),
        ("b.example.com", "b..example.com", "its host is not a host name"),
        ("b.example.com", "b.example.com\\x", "its host is not a host name"),
        ("b.example.com", "bücher.example", "it holds characters that no URL has"),
        ("&_g_", "\n&_g_", "it holds characters that no URL has"),
        ("&_g_=g", "&_g_=g#top", "it has a fragment"),
        (f"?Q_CHL=gl&Q_DL=EMD_{D}_{S}_CGC_{L}&_g_=g", "", "it has no query"),
        ("/jfe/", "/jfx/", "its path is neither /SE nor /jfe/form/SV_…"),
        ("/jfe/", "/a/../jfe/", "its path is neither /SE nor /jfe/form/SV_…"),
        ("/jfe/", "///jfe/", "its path is neither /SE nor /jfe/form/SV_…"),
        (f"SV_{S}", f"SV_{S}/", "its path is neither /SE nor /jfe/form/SV_…"),
        (f"SV_{S}", f"SV_{S[::-1]}", "the survey in its path is not the survey in its Q_DL"),
        (f"SV_{S}", f"SV_{S.swapcase()}", "the survey in its path is not the survey in its Q_DL"),
        ("&_g_=g", f"&Q_DL={D}_{S}_CGC_{L}", "a key of its query stands there twice"),
        ("&_g_=g", "&Q_CHL=gl", "a key of its query stands there twice"),
        ("&_g_=g", "&", "its query is not a row of plain key=value"),
        ("&_g_=g", "&_g_", "its query is not a row of plain key=value"),
        ("&_g_=g", ";_g_=g", "its query is not a row of plain key=value"),
        ("&_g_=g", "&_g_={channel}", "its query is not a row of plain key=value"),
        ("&_g_=g", f"&RID=CID_{L}", "a parameter besides Q_DL repeats one of its ids"),
        ("Q_CHL=gl", "Q_CHL=", "its channel is malformed"),
        ("Q_CHL=gl", "Q_CHL=g%6c", "its channel is malformed"),
        ("Q_DL", "q_dl", "its Q_DL is missing, or not distribution, survey and lookup id"),
        ("CGC", "CID", "its Q_DL is missing, or not distribution, survey and lookup id"),
        (L, L[1:], "its Q_DL is missing, or not distribution, survey and lookup id"),
        (L, L + "x", "its Q_DL is missing, or not distribution, survey and lookup id"),
        (D, D[1:], "its Q_DL is missing, or not distribution, survey and lookup id"),
        ("_g_=g", "x=" + "y" * 2_048, "it is too long"),
    ],
)
def test_what_is_not_a_personal_link_is_refused_with_a_reason(
    was: str, becomes: str, reason: str
) -> None:
    """Each refusal says why in one line, and never quotes the link."""
    altered = TODAYS.replace(was, becomes)
    assert altered != TODAYS
    with pytest.raises(NotAPersonalLink) as caught:
        parse(altered)
    assert f"not a personal link: {reason}" == str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"scheme": "ftp"},
        {"host": "a b"},
        {"host": ""},
        {"survey_id": S},
        {"distribution_id": D},
        {"lookup_id": f"CID_{L}"},
        {"channel": None},
        {"channel": "a&b"},
        {"shape": "https://elsewhere.example"},
    ],
)
def test_parts_that_fit_no_link_make_no_link(changes: dict[str, str | None]) -> None:
    """A changed part is checked like a parsed one."""
    link = parse(TODAYS)
    with pytest.raises(NotAPersonalLink):
        replace(link, **changes)
    assert isinstance(link, PersonalLink)


@pytest.mark.parametrize(
    "text", ["", "{}", TODAYS, TODAYS.replace(L, "{}{}"), TODAYS.replace(S, "{}")]
)
def test_what_is_not_a_template_is_refused(text: str) -> None:
    """A damaged column never becomes a template."""
    with pytest.raises(NotAPersonalLink):
        Template.parse(text)


def test_the_template_of_another_distribution_differs_in_that_alone() -> None:
    """It gives the link that this one's template would, under the other id."""
    other = "EMD_0therDistribut1"
    for url in SHAPES.values():
        link = parse(url)
        moved = link.template().for_distribution(other)
        assert replace(link, distribution_id=other).url == moved.url(link.lookup_id)
    with pytest.raises(NotAPersonalLink):
        link.template().for_distribution("SV_0therDistribut1")


@pytest.mark.parametrize(
    ("other", "parts"),
    [
        (TODAYS, ()),
        (TODAYS.replace("https", "http"), ("scheme",)),
        (TODAYS.replace("b.example", "c.example"), ("host",)),
        (TODAYS.replace("/jfe", "//jfe"), ("path",)),
        (TODAYS.replace("EMD_", ""), ("query",)),
        (TODAYS.replace("_g_=g", "_g_=h"), ("query",)),
        (TODAYS.replace("Q_CHL=gl", "Q_CHL=email"), ("channel",)),
        (TODAYS.replace(S, "an0therSurvey01"), ("survey",)),
        (TODAYS.replace(D, "an0therDistrib1"), ("distribution",)),
        (TODAYS.replace(L, "an0therPerson01"), ("lookup id",)),
    ],
)
def test_links_differ_in_parts_that_are_named(other: str, parts: tuple[str, ...]) -> None:
    """And in none when they are the same to the letter."""
    assert parts == parse(TODAYS).differences(parse(other))
