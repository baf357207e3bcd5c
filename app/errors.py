"""Every refusal is a class with a status and a sentence. Nothing here knows HTTP's framework or the database."""

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def phrase(status: int) -> str:
    """What RFC 9110 calls it. Before Python 3.13 two had older names there."""
    return {413: "Content Too Large", 422: "Unprocessable Content"}.get(status) or HTTPStatus(status).phrase


def problem(status: int, detail: object) -> dict[str, object]:
    """Problem details (RFC 9457): what the class Problem describes."""
    return {"type": "about:blank", "title": phrase(status), "status": status, "detail": detail}


class Refusal(Exception):
    """A request that is answered with a sentence instead of what it asked for.

    `detail` is written to a person. Subclasses fix the status, and what to say where there is nothing better.
    """

    status = 400
    otherwise = "That was not understood."
    field: str | None = None  # whose value is refused, where it is a single one's and the database that says so
    media_type = "application/problem+json"

    def __init__(self, detail: str | None = None, *, headers: dict[str, str] | None = None) -> None:
        self.detail = detail or self.otherwise
        self.headers = headers or {}
        super().__init__(self.detail)

    def content(self) -> dict[str, object]:
        """What the answer's body says: a Problem."""
        return problem(self.status, self.detail)


class Unauthenticated(Refusal):
    """Who are you? `error` is RFC 6750's code; without a token there is none to report."""

    status, otherwise = 401, "Not authenticated."

    def __init__(self, detail: str | None = None, *, error: str | None = "invalid_token") -> None:
        challenge = f'Bearer error="{error}"' if error else "Bearer"
        super().__init__(detail, headers={"WWW-Authenticate": challenge})


class Forbidden(Refusal):
    status, otherwise = 403, "Not allowed."


class InsufficientScope(Forbidden):
    """The user may, this token may not (RFC 6750, section 3.1)."""

    def __init__(self, *scopes: str) -> None:
        super().__init__(f"That takes a token with {' and '.join(scopes)} in its scope.")
        self.headers["WWW-Authenticate"] = f'Bearer error="insufficient_scope", scope="{" ".join(scopes)}"'


class Missing(Refusal):
    """No such thing for this caller: missing and invisible are one and the same."""

    status, otherwise = 404, "Not found."


class Clash(Refusal):
    status, otherwise = 409, "Conflict."


class Gone(Refusal):
    status, otherwise = 410, "No longer kept."


class Stale(Refusal):
    status, otherwise = 412, "Changed meanwhile."


class RequestTimeout(Refusal):
    status, otherwise = 408, "That took too long to come."


class ContentTooLarge(Refusal):
    status, otherwise = 413, "Too large."


class UnsupportedMediaType(Refusal):
    status, otherwise = 415, "Not in a form that is read here."


class Misdirected(Refusal):
    status, otherwise = 421, "No such host here."


class Invalid(Refusal):
    """The shape is right, a rule of the database is not."""

    status, otherwise = 422, "Not valid."


class InvalidField(Invalid):
    """One field of the body is refused for what is in it, told as what is wrong with a body's shape is told."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field

    def content(self) -> dict[str, object]:
        return problem(self.status, [{"loc": ["body", self.field], "msg": self.detail, "type": "value_error"}])


class TooMany(Refusal):
    """Slower. Says when again."""

    status, otherwise = 429, "Too many attempts."

    def __init__(self, detail: str | None = None, *, retry_after: int) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class Unavailable(Refusal):
    """Come back in a moment. Always says when."""

    status, otherwise = 503, "Try again."

    def __init__(self, detail: str | None = None, *, retry_after: int = 1) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class Overtaken(Unavailable):
    """Another transaction was faster, and nothing of this one was kept: worth another try at once."""


class NoToken(Refusal):
    """The token endpoint's own refusal (RFC 6749, section 5.2). `error` is one of its codes."""

    media_type = "application/json"

    def __init__(self, error: str, detail: str) -> None:
        super().__init__(detail)
        self.error = error

    def content(self) -> dict[str, object]:
        """What the answer's body says: a TokenProblem."""
        return {"error": self.error, "error_description": self.detail, "detail": self.detail}


class CannotStart(SystemExit):
    """The process must not start like this. It ends with this sentence, which names the cause and the cure."""


class FieldError(BaseModel):
    """One thing that is wrong with a request. What was sent is not repeated: it may be a password."""

    loc: list[str | int] = Field(description="Where: `body`, `query` or `path`, then the field.")
    msg: str
    type: str


class Problem(BaseModel):
    """What every error looks like: problem details (RFC 9457)."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    type: str = "about:blank"
    title: str
    status: int
    detail: str | list[FieldError] = Field(description="A sentence; for 422 a list of what is wrong, and where.")


class TokenProblem(BaseModel):
    """What the token endpoint answers instead (RFC 6749, section 5.2)."""

    error: str
    error_description: str
    detail: str


def documented(*statuses: int, description: str | None = None) -> dict[int | str, dict[str, Any]]:
    """The errors that a route can answer and not every one can, for the OpenAPI document: see engine/openapi.py."""
    return {status: {"model": Problem, "description": description or phrase(status)} for status in statuses}
