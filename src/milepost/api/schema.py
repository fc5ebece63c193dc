"""The API's documentation as a page, made from the same OpenAPI document that `/schema` gives.

Plain HTML without scripts and without a third party's host, so that it also opens where nothing
else does.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from litestar import Request
from litestar.openapi.plugins import OpenAPIRenderPlugin

from milepost.api.pages import templates

PATH: Final = "/docs"

_TEMPLATES: Final = templates("milepost.api")


class Reader(OpenAPIRenderPlugin):
    """Renders the OpenAPI document for people."""

    def __init__(self) -> None:
        super().__init__(path=PATH)

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002  (the framework's signature)
        """The page, in UTF-8."""
        operations = [
            {"method": method.upper(), "path": path, **operation}
            for path, item in openapi_schema["paths"].items()
            for method, operation in item.items()
        ]
        groups: dict[str, list[dict[str, Any]]] = {}
        for operation in operations:
            groups.setdefault(operation["tags"][0], []).append(operation)
        page = _TEMPLATES.get_template("schema.html").render(
            info=openapi_schema["info"],
            groups=groups,
            schemas=openapi_schema["components"]["schemas"],
            kind=kind,
            plain=plain,
        )
        return page.encode()


def plain(value: object) -> str:
    """A default value as JSON."""
    return msgspec.json.encode(value).decode()


def kind(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words, such as `text, 1 to 200 characters`."""
    if reference := schema.get("$ref"):
        return str(reference).rpartition("/")[2]
    if "const" in schema:
        return f'"{schema["const"]}"'
    if "enum" in schema:
        return " or ".join("null" if value is None else f'"{value}"' for value in schema["enum"])
    for choice in ("oneOf", "anyOf"):
        if choice in schema:
            return " or ".join(kind(each) for each in schema[choice])
    types = schema.get("type", "anything")
    names = types if isinstance(types, list) else [types]
    words = " or ".join(str(name) for name in names)
    if "array" in names and schema.get("items"):
        words = f"list of {kind(schema['items'])}"
    if form := schema.get("format"):
        words += f" ({form})"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        words += f", {low:g} to {high:g}"
    if (longest := schema.get("maxLength")) is not None:
        words += f", at most {longest} characters"
    return words
