"""Personal links: a URL becomes its parts, a template and a lookup id become a URL.

A personal link names a distribution, a survey and one person's place in it, and nothing in it is
signed: a URL put together from the right ids is as good as one that the platform lists. That makes
one call per link possible. It rests on a format that is undocumented and has changed before, so the
format is not written down here but *learnt*: `parse` takes a listed URL apart into ids and the
shape that they stood in, `Template` keeps that shape for one distribution, and a link is built by
putting another lookup id into it.

What every real link seen so far has in common (observed, 17 links from 2013 to 2026)::

    https://brand.dc.qualtrics.example/jfe/form/SV_…?Q_CHL=gl&Q_DL=EMD_…_…_CGC_…&_g_=g
            host                                │         │        │   │ └ lookup id with its kind
                                                │         channel  │   └ survey, without `SV_`
                                                survey             └ distribution, `EMD_` or not

The links of before 2020 have the path `/SE` and no survey in it; the order of the query's keys,
the channel, `EMD_`, constant parameters (`_g_=g`) and a doubled first slash differ from account to
account. All of that is kept to the letter: `parse(url).url == url` for every URL that is accepted,
and what is not understood entirely is refused instead of being tidied up.

This module is pure, and its errors never quote a URL: a link is a credential.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from milepost.errors import MilepostError

ID_LENGTH: Final = 15
"""Characters of an id behind its prefix; base62, and upper and lower case are different ids."""

# Browsers and mail programs cut URLs somewhat above this; the longest link seen has 157 characters.
_LONGEST: Final = 2_048

_ID: Final = rf"[0-9A-Za-z]{{{ID_LENGTH}}}"
_HOST: Final = re.compile(
    r"(?=[^:]{1,253}(?::|\Z))"
    r"[0-9A-Za-z](?:[0-9A-Za-z-]{0,61}[0-9A-Za-z])?"
    r"(?:\.[0-9A-Za-z](?:[0-9A-Za-z-]{0,61}[0-9A-Za-z])?)*"
    r"(?P<port>:[1-9][0-9]{0,4})?"
)
_PATH: Final = re.compile(rf"/SE|(?P<lead>//?jfe/form/)(?P<survey>SV_{_ID})")
_PARAMETER: Final = re.compile(r"(?P<key>[0-9A-Za-z_.~-]+)=(?P<value>[0-9A-Za-z_.~%-]*)")
_Q_DL: Final = re.compile(
    rf"(?P<emd>EMD_)?(?P<distribution>{_ID})_(?P<survey>{_ID})_(?P<lookup>(?:CGC|MLRP|CTR)_{_ID})"
)
_SURVEY_ID: Final = re.compile(rf"SV_{_ID}")
_DISTRIBUTION_ID: Final = re.compile(rf"EMD_{_ID}")
_LOOKUP_ID: Final = re.compile(rf"(?P<kind>CGC|MLRP|CTR)_{_ID}")
_CHANNEL: Final = re.compile(r"[0-9A-Za-z_.~-]+")
_SHAPE: Final = re.compile(
    r"\{scheme\}://\{host\}(?:/SE|//?jfe/form/\{survey_id\})\?"
    r"(?:[0-9A-Za-z_.~%=&-]|\{channel\})*"
    r"(?<=[?&])Q_DL=(?:EMD_)?\{distribution\}_\{survey\}_\{lookup_id\}"
    r"(?:&(?:[0-9A-Za-z_.~%=&-]|\{channel\})*)?"
)
_PLACE: Final = "{}"


class NotAPersonalLink(MilepostError):
    """A text is not a personal link of any seen shape; `str(error)` says in one line why not.

    Attributes:
        reason: What is wrong with it, such as `it has no query`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"not a personal link: {reason}")
        self.reason = reason


class MalformedId(MilepostError):
    """An id has another prefix, length or alphabet than the platform's ids have.

    Attributes:
        expected: The form it should have, such as `CGC_` and 15 letters or digits.
    """

    def __init__(self, prefix: str) -> None:
        self.expected = f"{prefix}_ and {ID_LENGTH} letters or digits"
        super().__init__(f"the id is not {self.expected}")


@dataclass(frozen=True, slots=True)
class PersonalLink:
    """The parts of a personal link, and the shape that they stood in.

    `dataclasses.replace` gives the link with one part changed, in the same shape. Parts that fit no
    link raise `NotAPersonalLink`, so every value of this class has a URL.

    Attributes:
        shape: The URL with its parts left out, e.g. `{scheme}://{host}/SE?Q_DL={distribution}_…`.
        scheme: `https`, or `http` (observed on one account, and on a simulator).
        host: As written, with its port where there is one. It is the brand's, and is never to be
            derived from the host of the API (observed).
        survey_id: `SV_…`; where the path names a survey it is the same one (observed, always).
        distribution_id: `EMD_…`, also where the URL leaves the prefix out.
        lookup_id: `CGC_…`, a contact in a list; `CTR_…`, a transaction; `MLRP_…`, a contact in a
            list in links made before June 2026.
        channel: The value of `Q_CHL`, such as `gl` or `email`; None where the URL has none.
    """

    shape: str
    scheme: str
    host: str
    survey_id: str
    distribution_id: str
    lookup_id: str
    channel: str | None

    def __post_init__(self) -> None:
        """Refuse parts that could not have been parsed."""
        host = _HOST.fullmatch(self.host)
        names_channel = self.shape.count("{channel}")
        for fits, reason in (
            (_SHAPE.fullmatch(self.shape), "its shape is not one of a link"),
            (self.scheme in ("http", "https"), "its scheme is neither http nor https"),
            (host and int((host["port"] or ":1")[1:]) < 1 << 16, "its host is not a host name"),
            (_SURVEY_ID.fullmatch(self.survey_id), "its survey id is malformed"),
            (_DISTRIBUTION_ID.fullmatch(self.distribution_id), "its distribution id is malformed"),
            (_LOOKUP_ID.fullmatch(self.lookup_id), "its lookup id is malformed"),
            (names_channel == (self.channel is not None), "its shape and its channel disagree"),
            (self.channel is None or _CHANNEL.fullmatch(self.channel), "its channel is malformed"),
        ):
            if not fits:
                raise NotAPersonalLink(reason)

    @property
    def kind(self) -> str:
        """What the lookup id names: `CGC`, `CTR` or `MLRP`."""
        return self.lookup_id.partition("_")[0]

    @property
    def url(self) -> str:
        """The URL, built from the parts; for a parsed link it is the parsed one to the letter."""
        return self.shape.format(
            scheme=self.scheme,
            host=self.host,
            survey_id=self.survey_id,
            distribution=self.distribution_id.removeprefix("EMD_"),
            survey=self.survey_id.removeprefix("SV_"),
            lookup_id=self.lookup_id,
            channel=self.channel,
        )

    def template(self) -> Template:
        """Learn the template of this link's distribution."""
        return Template.of(self)

    def differences(self, other: PersonalLink) -> tuple[str, ...]:
        """Name the parts in which another link differs from this one, without saying what they are.

        Two links without a difference are the same URL, to the letter.
        """
        path, _, query = self.shape.partition("?")
        other_path, _, other_query = other.shape.partition("?")
        return tuple(
            name
            for name, one, another in (
                ("scheme", self.scheme, other.scheme),
                ("host", self.host, other.host),
                ("path", path, other_path),
                ("query", query, other_query),
                ("survey", self.survey_id, other.survey_id),
                ("distribution", self.distribution_id, other.distribution_id),
                ("lookup id", self.lookup_id, other.lookup_id),
                ("channel", self.channel, other.channel),
            )
            if one != another
        )


@dataclass(frozen=True, slots=True)
class Template:
    """The links of one distribution, all but the lookup id.

    `str(template)` is one line of text for one database column, the URL with `{}` for the id's 15
    characters; `Template.parse` reads it back.

    Attributes:
        kind: The only kind of lookup id that is taken: `CGC`, `CTR` or `MLRP`.
        head: The URL before the lookup id.
        tail: The URL behind it; often empty.
    """

    kind: str
    head: str
    tail: str

    @classmethod
    def of(cls, link: PersonalLink) -> Template:
        """Learn from a link that the platform itself listed."""
        head, _, tail = link.url.partition(link.lookup_id)
        return cls(link.kind, head, tail)

    @classmethod
    def parse(cls, text: str) -> Template:
        """Read back what `str(template)` wrote.

        Raises:
            NotAPersonalLink: With an id in its place, the text is not a personal link.
        """
        if text.count(_PLACE) != 1:
            raise NotAPersonalLink("not a template: it has no one place for a lookup id")
        return parse(text.replace(_PLACE, "0" * ID_LENGTH)).template()

    def __str__(self) -> str:
        return f"{self.head}{self.kind}_{_PLACE}{self.tail}"

    def for_distribution(self, distribution_id: str) -> Template:
        """The same template of another distribution of the survey.

        Raises:
            NotAPersonalLink: The id is not of the form `EMD_…`.
        """
        link = parse(self.url(f"{self.kind}_{'0' * ID_LENGTH}"))
        return replace(link, distribution_id=distribution_id).template()

    def url(self, lookup_id: str) -> str:
        """Build the link of one contact or transaction; nothing is asked or sent.

        That a built link opens for a contact added after the distribution was made is inferred,
        so a deployment proves it on its account before it relies on it.

        Raises:
            MalformedId: The id has another kind than the template's, or not 15 base62 characters.
        """
        match = _LOOKUP_ID.fullmatch(lookup_id)
        if match is None or match["kind"] != self.kind:
            raise MalformedId(self.kind)
        return f"{self.head}{lookup_id}{self.tail}"


def parse(url: str) -> PersonalLink:
    """Take a personal link apart.

    Raises:
        NotAPersonalLink: The URL is not understood entirely: another path, a fragment, a name and
            password, a query key twice, ids of other lengths, a survey in the path other than the
            one in `Q_DL`, an id repeated in another parameter.
    """
    scheme, host, path, query = _split(url)
    path_match = _PATH.fullmatch(path)
    if path_match is None:
        raise NotAPersonalLink("its path is neither /SE nor /jfe/form/SV_…")

    values: dict[str, str] = {}
    for parameter in query.split("&"):
        match = _PARAMETER.fullmatch(parameter)
        if match is None:
            raise NotAPersonalLink("its query is not a row of plain key=value")
        if match["key"] in values:
            raise NotAPersonalLink("a key of its query stands there twice")
        values[match["key"]] = match["value"]

    ids = _Q_DL.fullmatch(values.get("Q_DL", ""))
    if ids is None:
        raise NotAPersonalLink("its Q_DL is missing, or not distribution, survey and lookup id")
    survey_id = f"SV_{ids['survey']}"
    if path_match["survey"] not in (None, survey_id):
        raise NotAPersonalLink("the survey in its path is not the survey in its Q_DL")

    constants = "&".join(value for key, value in values.items() if key != "Q_DL")
    # A parameter that repeats an id is no constant: copied from a probe, it would put the probe's
    # identity into everybody's link.
    for part in (ids["distribution"], ids["survey"], ids["lookup"].partition("_")[2]):
        if part in constants:
            raise NotAPersonalLink("a parameter besides Q_DL repeats one of its ids")

    holes = {
        "Q_DL": f"{ids['emd'] or ''}{{distribution}}_{{survey}}_{{lookup_id}}",
        "Q_CHL": "{channel}",
    }
    row = "&".join(f"{key}={holes.get(key, value)}" for key, value in values.items())
    where = "/SE" if path_match["lead"] is None else path_match["lead"] + "{survey_id}"
    return PersonalLink(
        shape=f"{{scheme}}://{{host}}{where}?{row}",
        scheme=scheme,
        host=host,
        survey_id=survey_id,
        distribution_id=f"EMD_{ids['distribution']}",
        lookup_id=ids["lookup"],
        channel=values.get("Q_CHL"),
    )


def _split(url: str) -> tuple[str, str, str, str]:
    """Cut a URL at its separators: scheme, host, path, query.

    Not `urllib.parse`: it drops tabs and newlines and lowers the case of schemes, so an altered
    link would be taken for a good one.
    """
    if len(url) > _LONGEST:
        raise NotAPersonalLink("it is too long")
    if not url.isascii() or not url.isprintable():
        raise NotAPersonalLink("it holds characters that no URL has")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("http", "https"):
        raise NotAPersonalLink("its scheme is neither http nor https")
    if "#" in rest:
        raise NotAPersonalLink("it has a fragment")
    before_query, separator, query = rest.partition("?")
    if not separator:
        raise NotAPersonalLink("it has no query")
    host, slash, path = before_query.partition("/")
    if "@" in host:
        raise NotAPersonalLink("it holds a user name")
    return scheme, host, slash + path, query


def explain(url: str) -> dict[str, str | None]:
    """Name the parts of a link, ids with their prefixes, and the URL rebuilt from them.

    Raises:
        NotAPersonalLink: As `parse`.
    """
    link = parse(url)
    return {
        "host": link.host,
        "survey_id": link.survey_id,
        "distribution_id": link.distribution_id,
        "kind": link.kind,
        "lookup_id": link.lookup_id,
        "channel": link.channel,
        "url": link.url,
    }
