"""The survey itself: the page behind a link, in a browser and without JavaScript.

A GET opens the link and starts a session, a POST sends the answers off once; HEAD starts nothing.
The data that a session captured are recorded and never shown. The words and statuses of pages that
do not open are our own (the platform's are not known); a program reads `data-state` of `<main>`.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl

from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import Request, Response, get, head, post
from litestar.handlers import HTTPRouteHandler
from msgspec import Struct

from milepost.simulator import survey, visits
from milepost.simulator.account import Account
from milepost.simulator.links import FORM, OLD_FORM, UNSEEN_FORM, Parts, read_q_dl, read_unseen
from milepost.simulator.shapes import Answers, Opening
from milepost.simulator.things import Closed, Session

FORM_SIZE = 64 * 1024
"""Bytes of a form that is sent off; a full free text fits many times."""

# The link's own parameters, which no field of a survey can be called.
_RESERVED = ("Q_", "_g_")

CLOSED_STATUS = {"incorrect": 404, "invitation": 403, "inactive": 410, "expired": 410, "taken": 410}

WORDS: dict[str, dict[str, str]] = {
    "EN": {
        "intro": "It takes less than a minute.",
        "send": "Send",
        "low": "not at all",
        "high": "very",
        "missing": "Please choose a rating, then send again.",
        "thanks": "Thank you for your time.",
        "thanks_more": "Your answers have been recorded. You can close this page.",
        "incorrect": "The URL is incorrect.",
        "incorrect_more": "Please check the link that you were given.",
        "invitation": "This survey is by invitation only.",
        "invitation_more": "Please use the personal link that you were given.",
        "inactive": "This survey is not active.",
        "inactive_more": "It takes no answers at the moment.",
        "expired": "This link has expired.",
        "expired_more": "The time for answering is over.",
        "taken": "This survey has already been taken.",
        "taken_more": "Each link can be used once. Thank you for your answers.",
    },
    "DE": {
        "intro": "Das dauert keine Minute.",
        "send": "Absenden",
        "low": "gar nicht",
        "high": "sehr",
        "missing": "Bitte wählen Sie eine Bewertung und senden Sie erneut ab.",
        "thanks": "Danke für Ihre Zeit.",
        "thanks_more": "Ihre Antworten sind gespeichert. Sie können die Seite schließen.",
        "inactive": "Diese Umfrage ist nicht aktiv.",
        "inactive_more": "Sie nimmt zurzeit keine Antworten entgegen.",
        "expired": "Dieser Link ist abgelaufen.",
        "expired_more": "Die Zeit für Antworten ist vorbei.",
        "taken": "Diese Umfrage wurde bereits beantwortet.",
        "taken_more": "Jeder Link gilt einmal. Danke für Ihre Antworten.",
    },
    "FR": {
        "intro": "Cela prend moins d'une minute.",
        "send": "Envoyer",
        "low": "pas du tout",
        "high": "très",
        "missing": "Choisissez une note, puis envoyez à nouveau.",
        "thanks": "Merci pour votre temps.",
        "thanks_more": "Vos réponses sont enregistrées. Vous pouvez fermer cette page.",
        "inactive": "Cette enquête n'est pas active.",
        "inactive_more": "Elle ne reçoit pas de réponses pour le moment.",
        "expired": "Ce lien a expiré.",
        "expired_more": "Le délai de réponse est passé.",
        "taken": "Vous avez déjà répondu à cette enquête.",
        "taken_more": "Chaque lien ne sert qu'une fois. Merci pour vos réponses.",
    },
    "ES": {
        "intro": "Lleva menos de un minuto.",
        "send": "Enviar",
        "low": "nada",
        "high": "mucho",
        "missing": "Elija una puntuación y envíe de nuevo.",
        "thanks": "Gracias por su tiempo.",
        "thanks_more": "Sus respuestas se han guardado. Puede cerrar esta página.",
        "inactive": "Esta encuesta no está activa.",
        "inactive_more": "Por ahora no admite respuestas.",
        "expired": "Este enlace ha caducado.",
        "expired_more": "El plazo para responder ha terminado.",
        "taken": "Esta encuesta ya se ha respondido.",
        "taken_more": "Cada enlace sirve una sola vez. Gracias por sus respuestas.",
    },
}
"""The page's words; what a language lacks is said in English."""

_PAGES = Environment(
    loader=PackageLoader("milepost.simulator"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_FORM = _PAGES.get_template("form.html")
_NOTICE = _PAGES.get_template("notice.html")
_STYLE = files("milepost.simulator").joinpath("templates/survey.css").read_bytes()

# A link is a credential: no cache may keep the page, and no other site may learn its address.
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


class _Link(Struct, frozen=True):
    """A survey link as it was opened: whose survey, which parts, and what else it carries."""

    path: str
    survey_id: str
    parts: Parts | None
    fields: dict[str, str]


def _page(html: str, status: int = 200) -> Response[str]:
    return Response(html, status_code=status, media_type="text/html", headers=_HEADERS)


def _notice(
    state: str, language: str = survey.DEFAULT_LANGUAGE, status: int = 200
) -> Response[str]:
    words = WORDS[survey.DEFAULT_LANGUAGE] | WORDS[language]
    html = _NOTICE.render(
        state=state,
        language=language.lower(),
        name=survey.TITLE[language],
        title=words[state],
        more=words[f"{state}_more"],
    )
    return _page(html, status)


def _closed(closed: Closed) -> Response[str]:
    return _notice(closed.reason, closed.language, CLOSED_STATUS[closed.reason])


def _form(
    session: Session, *, missing: bool = False, given: dict[str, str] | None = None
) -> Response[str]:
    language = session.language
    html = _FORM.render(
        state="missing" if missing else "open",
        language=language.lower(),
        name=survey.TITLE[language],
        words=WORDS[language],
        missing=missing,
        given=given or {},
        session=session.id,
        length=survey.TEXT_LENGTH,
        questions=[
            {
                "id": question.id,
                "kind": question.kind,
                "required": question.required,
                "text": question.text[language],
                "choices": [choice[language] for choice in question.choices],
            }
            for question in survey.QUESTIONS
        ],
    )
    return _page(html, 422 if missing else 200)


def _read_link(request: Request[Any, Any, Any]) -> _Link:
    """A link as it came in, in whichever shape.

    Raises:
        Closed: It is none, or an altered one.
    """
    text = request.scope["query_string"].decode("latin-1")
    try:
        pairs = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=200))
    except ValueError as error:
        raise Closed("incorrect") from error
    path, ids = request.scope["path"], request.scope["path_params"]
    parts = None
    if "recipient" in ids:
        parts = read_unseen(ids["survey"], ids["recipient"])
    elif "Q_DL" in pairs:
        parts = read_q_dl(pairs["Q_DL"])
    is_personal = "survey" not in ids or "recipient" in ids or "Q_DL" in pairs
    if is_personal and parts is None:
        raise Closed("incorrect")
    return _Link(
        path=path,
        survey_id=ids["survey"] if parts is None or "survey" in ids else parts.survey_id,
        parts=parts,
        fields={name: value for name, value in pairs.items() if not name.startswith(_RESERVED)},
    )


def _sent(body: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=50))
    except ValueError as error:
        raise Closed("incorrect") from error


async def opened(account: Account, link: _Link) -> Response[str]:
    """A link opened: its session is resumed, or one is started."""
    visit = visits.visit(account.world, link.survey_id, link.parts, account.now())
    session = visit.session
    if session is None:
        declared = visit.survey.declared_fields
        query = {
            name: value[: survey.TEXT_LENGTH]
            for name, value in link.fields.items()
            if name in declared
        }
        outcome = await account.write(
            "session.start",
            visits.ids_of(visit),
            Opening(query=query),
            method="GET",
            path=link.path,
        )
        session = account.world.sessions[outcome.ids["session"]]
    return _form(session)


async def sent_off(account: Account, link: _Link, form: dict[str, str]) -> Response[str]:
    """A form sent off: recorded once, or shown again with what is missing."""
    sent = form.get("session", "")
    visit = visits.visit(account.world, link.survey_id, link.parts, account.now(), sent)
    session = account.world.sessions[sent]
    given = {name: value[: survey.TEXT_LENGTH] for name, value in form.items()}
    answers = visits.answers_of(given)
    if answers is None:
        return _form(session, missing=True, given=given)
    await account.write(
        "response.complete",
        visits.ids_of(visit) | {"session": session.id},
        Answers(values=answers),
        method="POST",
        path=link.path,
    )
    return _notice("thanks", session.language)


def routes(account: Account) -> list[HTTPRouteHandler]:
    """The handlers of the survey page, for one account."""
    paths = [f"{FORM}/{{survey:str}}", OLD_FORM, f"{UNSEEN_FORM}/{{survey:str}}/{{recipient:str}}"]

    @get(paths, exception_handlers={Closed: lambda _request, closed: _closed(closed)})
    async def open_link(request: Request[Any, Any, Any]) -> Response[str]:
        return await opened(account, _read_link(request))

    @post(
        paths,
        status_code=200,
        request_max_body_size=FORM_SIZE,
        exception_handlers={Closed: lambda _request, closed: _closed(closed)},
    )
    async def send_off(request: Request[Any, Any, Any]) -> Response[str]:
        return await sent_off(account, _read_link(request), _sent(await request.body()))

    @head(paths)
    async def look_at_link(request: Request[Any, Any, Any]) -> Response[None]:
        try:
            link = _read_link(request)
            visits.visit(account.world, link.survey_id, link.parts, account.now())
        except Closed as closed:
            return Response(None, status_code=CLOSED_STATUS[closed.reason])
        return Response(None, headers=_HEADERS)

    @get("/jfe/survey.css")
    async def style() -> Response[bytes]:
        return Response(_STYLE, media_type="text/css", headers={"Cache-Control": "max-age=3600"})

    return [open_link, send_off, look_at_link, style]
