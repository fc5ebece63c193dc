"""Responses: whose a response at the platform is, and whether its link is what it says."""

from __future__ import annotations

import msgspec
from litestar import Router, get
from litestar.openapi import ResponseSpec
from litestar.params import FromPath

from milepost.api.access import caller_of, needs
from milepost.api.links import asked_for, masked
from milepost.api.problems import MEDIA_TYPE, Problem, documented
from milepost.api.requests import StrictRequest, checked
from milepost.matching import Match, Matching
from milepost.model import ResponseId, Scope, SurveyId

_AWAY = ResponseSpec(
    Problem,
    description="The platform, or the database, is away for a moment.",
    media_type=MEDIA_TYPE,
    generate_examples=False,
)


def router(matching: Matching) -> Router:
    """The routes under `/v1/responses`."""

    @get(
        "/{survey_id:str}/{response_id:str}",
        opt=needs(Scope.READ),
        responses=documented(404) | {503: _AWAY},
    )
    async def read(
        request: StrictRequest, survey_id: FromPath[str], response_id: FromPath[str]
    ) -> Match:
        """Match a response to its link: true, forged, foreign, or without a reference.

        The platform is asked for the response, and where only its history can confirm the link, for
        that too: up to eleven calls, with the share of reconciling. The URL is shown to admins.
        """
        match = await matching.explain(
            checked(survey_id, SurveyId, "survey_id"),
            checked(response_id, ResponseId, "response_id"),
        )
        if match.link is None or caller_of(request).may(Scope.ADMIN):
            return match
        return msgspec.structs.replace(match, link=masked(asked_for(match.link)))

    return Router("/v1/responses", route_handlers=[read], tags=["responses"])
