"""Pages for people: templates, their one stylesheet, and the headers that keep a page to itself."""

from __future__ import annotations

import base64
import hashlib
from http import HTTPStatus
from importlib.resources import files
from typing import Final, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import Response

PRIVATE: Final = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex, nofollow",
}
"""Of an answer that is nobody else's business: neither kept, nor told of to other sites."""


def templates(package: str) -> Environment:
    """The templates of a package, which escape what they are given and refuse what they are not."""
    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


class Pages:
    """Pages with one look: no script runs in them, no host is asked, and no site may frame them.

    Args:
        package: whose `templates/` they are.
        stylesheet: the file there that each page holds. Its hash lets it in, and it alone.
        forms: where forms may be sent. Browsers hold it also against what a form is redirected to.
    """

    def __init__(
        self, package: str, stylesheet: str, *, forms: Literal["'none'", "'self'"] = "'none'"
    ) -> None:
        self.templates = templates(package)
        self._style = files(package).joinpath("templates", stylesheet).read_text("utf-8")
        digest = base64.b64encode(hashlib.sha256(self._style.encode()).digest()).decode()
        self.headers = PRIVATE | {
            "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{digest}'; "
            f"img-src data:; form-action {forms}; base-uri 'none'; frame-ancestors 'none'",
        }

    def respond(
        self,
        template: str,
        status: HTTPStatus = HTTPStatus.OK,
        headers: dict[str, str] | None = None,
        **said: object,
    ) -> Response[bytes]:
        """The answer that is a page."""
        html = self.templates.get_template(template).render(style=self._style, **said)
        return Response(
            html.encode(),
            status_code=status,
            media_type="text/html",
            headers=self.headers | (headers or {}),
        )
