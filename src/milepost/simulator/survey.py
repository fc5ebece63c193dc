"""The one survey of the simulator: its questions, their words in four languages, its definition."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Words = dict[str, str]
"""Language to text."""

DEFAULT_LANGUAGE = "EN"
LANGUAGES = ("EN", "DE", "FR", "ES")


class Question(Struct, frozen=True):
    """A question; `choices` are numbered from 1, and empty where text is written freely."""

    id: str
    kind: Literal["rating", "choice", "text"]
    text: Words
    choices: tuple[Words, ...] = ()
    required: bool = False


TEXT_LENGTH = 2000
"""Characters of a free answer that are kept; the page takes no more."""

QUESTIONS = (
    Question(
        id="QID1",
        kind="rating",
        required=True,
        text={
            "EN": "How satisfied are you overall?",
            "DE": "Wie zufrieden sind Sie insgesamt?",
            "FR": "Dans l'ensemble, êtes-vous satisfait\u00a0?",
            "ES": "En general, ¿qué tan satisfecho está?",
        },
        choices=tuple(dict.fromkeys(LANGUAGES, str(number)) for number in range(1, 6)),
    ),
    Question(
        id="QID2",
        kind="choice",
        text={
            "EN": "What mattered most to you?",
            "DE": "Was war Ihnen am wichtigsten?",
            "FR": "Qu'est-ce qui comptait le plus pour vous\u00a0?",
            "ES": "¿Qué fue lo más importante para usted?",
        },
        choices=(
            {"EN": "Quality", "DE": "Qualität", "FR": "La qualité", "ES": "La calidad"},
            {"EN": "Speed", "DE": "Schnelligkeit", "FR": "La rapidité", "ES": "La rapidez"},
            {"EN": "People", "DE": "Menschen", "FR": "Les personnes", "ES": "Las personas"},
            {"EN": "Price", "DE": "Preis", "FR": "Le prix", "ES": "El precio"},
        ),
    ),
    Question(
        id="QID3",
        kind="text",
        text={
            "EN": "Is there anything you would like to add?",
            "DE": "Möchten Sie noch etwas hinzufügen?",
            "FR": "Souhaitez-vous ajouter quelque chose\u00a0?",
            "ES": "¿Desea añadir algo?",
        },
    ),
)

TITLE: Words = {
    "EN": "How was it?",
    "DE": "Wie war es?",
    "FR": "Comment était\u2011ce\u00a0?",
    "ES": "¿Cómo fue?",
}

SURVEY_NAME = TITLE[DEFAULT_LANGUAGE]


def language_of(tag: str | None) -> str:
    """The survey's language for a contact's language tag (`de`, `DE`, `de-CH`); else English."""
    primary = (tag or "").replace("_", "-").split("-")[0].upper()
    return primary if primary in LANGUAGES else DEFAULT_LANGUAGE


def _definition_of(question: Question) -> dict[str, object]:
    described: dict[str, object] = {
        "QuestionID": question.id,
        "DataExportTag": question.id.replace("QID", "Q"),
        "QuestionText": question.text[DEFAULT_LANGUAGE],
        "QuestionDescription": question.text[DEFAULT_LANGUAGE],
        "QuestionType": "TE" if question.kind == "text" else "MC",
        "Selector": "ML" if question.kind == "text" else "SAVR",
        "Language": {
            language: {"QuestionText": question.text[language]}
            for language in LANGUAGES
            if language != DEFAULT_LANGUAGE
        },
        "Validation": {"Settings": {"ForceResponse": "ON" if question.required else "OFF"}},
    }
    if question.choices:
        described["SubSelector"] = "TX"
        described["Choices"] = {
            str(number): {"Display": words[DEFAULT_LANGUAGE]}
            for number, words in enumerate(question.choices, start=1)
        }
        described["ChoiceOrder"] = [str(n) for n in range(1, len(question.choices) + 1)]
    return described


def flow_of(declared_fields: list[str]) -> dict[str, object]:
    """The survey flow: an EmbeddedData element with the declared fields, then the questions."""
    elements: list[dict[str, object]] = []
    if declared_fields:
        elements.append(
            {
                "Type": "EmbeddedData",
                "FlowID": "FL_2",
                "EmbeddedData": [
                    {
                        "Description": name,
                        "Type": "Recipient",
                        "Field": name,
                        "VariableType": "String",
                        "DataVisibility": [],
                        "AnalyzeText": False,
                    }
                    for name in declared_fields
                ],
            }
        )
    elements.append({"Type": "Standard", "ID": "BL_1", "FlowID": "FL_3", "Autofill": []})
    return {
        "Type": "Root",
        "FlowID": "FL_1",
        "Flow": elements,
        "Properties": {"Count": len(elements) + 1},
    }


def questions_of() -> dict[str, object]:
    """The questions as a survey definition holds them, by question id."""
    return {question.id: _definition_of(question) for question in QUESTIONS}
