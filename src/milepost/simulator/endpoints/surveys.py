"""Surveys, their definitions, and their responses."""

from __future__ import annotations

from milepost.simulator import survey
from milepost.simulator.call import BRAND_ID, Call, Endpoint
from milepost.simulator.wire import Refusal, instant, second


async def surveys(call: Call) -> object:
    """The surveys; there is one."""
    world = call.account.world
    elements = [
        {
            "id": one.id,
            "name": survey.SURVEY_NAME,
            "ownerId": world.owner_id,
            "lastModified": second(one.created_at),
            "creationDate": second(one.created_at),
            "isActive": one.active,
        }
        for one in world.surveys.values()
    ]
    return {"elements": elements, "nextPage": None}


async def survey_summary(call: Call) -> object:
    """A survey as the older endpoint gives it, without its questions."""
    world = call.account.world
    found = world.survey(call.ids["survey"])
    finished = sum(1 for one in world.responses.values() if one.survey_id == found.id)
    return {
        "id": found.id,
        "name": survey.SURVEY_NAME,
        "ownerId": world.owner_id,
        "organizationId": BRAND_ID,
        "isActive": found.active,
        "creationDate": second(found.created_at),
        "lastModifiedDate": second(found.created_at),
        "expiration": {"startDate": None, "endDate": None},
        "embeddedData": [{"name": name} for name in found.declared_fields],
        "responseCounts": {"auditable": finished, "generated": 0, "deleted": 0},
    }


async def survey_definition(call: Call) -> object:
    """A survey with its flow, in which the embedded data are declared, and its questions."""
    world = call.account.world
    found = world.survey(call.ids["survey"])
    questions = survey.questions_of()
    return {
        "SurveyID": found.id,
        "SurveyName": survey.SURVEY_NAME,
        "SurveyOwnerID": world.owner_id,
        "SurveyBrandID": BRAND_ID,
        "SurveyLanguage": survey.DEFAULT_LANGUAGE,
        "SurveyStatus": "Active" if found.active else "Inactive",
        "SurveyCreationDate": second(found.created_at),
        "LastModified": second(found.created_at),
        "BrandID": BRAND_ID,
        "BrandBaseURL": call.account.origin,
        "QuestionCount": str(len(questions)),
        "SurveyOptions": {
            "SurveyProtection": "ByInvitation" if found.invitation_only else "PublicSurvey",
            "BallotBoxStuffingPrevention": "false",
            "SurveyExpiration": "None",
        },
        "SurveyFlow": survey.flow_of(found.declared_fields),
        "Blocks": {
            "BL_1": {
                "Type": "Default",
                "ID": "BL_1",
                "BlockElements": [{"Type": "Question", "QuestionID": one} for one in questions],
            }
        },
        "Questions": questions,
    }


async def response(call: Call) -> object:
    """A response: the data as they were at the start, the answers, and what was on offer."""
    found = call.account.world.responses.get(call.ids["response"])
    if found is None or found.survey_id != call.ids["survey"]:
        raise Refusal(404, "Response not found")
    completed = found.completed_at or found.started_at
    values: dict[str, object] = {
        **found.data,
        **found.recipient,
        "startDate": second(found.started_at),
        "endDate": second(completed),
        "status": 0,
        "progress": 100,
        "duration": (completed - found.started_at) // 1000,
        "finished": 1,
        "recordedDate": instant(completed),
        "_recordId": found.response_id,
        "distributionChannel": "anonymous" if found.recipient_id is None else "gl",
        "userLanguage": found.language,
    }
    labels: dict[str, object] = {"status": "IP Address", "finished": "True"}
    fields: list[str] = []
    choices: dict[str, object] = {}
    for question in survey.QUESTIONS:
        name = f"{question.id}_TEXT" if question.kind == "text" else question.id
        fields.append(name)
        if question.choices:
            choices[question.id] = list(range(1, len(question.choices) + 1))
        answer = (found.answers or {}).get(question.id)
        if answer is not None:
            values[name] = answer
            if isinstance(answer, int):
                labels[name] = question.choices[answer - 1][survey.DEFAULT_LANGUAGE]
    return {
        "responseId": found.response_id,
        "values": values,
        "labels": labels,
        "displayedFields": fields,
        "displayedValues": choices,
    }


ENDPOINTS = (
    Endpoint("GET", "/surveys", "surveys", surveys),
    Endpoint("GET", "/surveys/{survey:str}", "surveys", survey_summary),
    Endpoint("GET", "/surveys/{survey:str}/responses/{response:str}", "responses", response),
    Endpoint("GET", "/survey-definitions/{survey:str}", "surveys", survey_definition),
)
