"""Logging in. It speaks OAuth2's password grant (RFC 6749), errors included, so that every client library can."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field, SecretStr
from starlette.exceptions import HTTPException

from app import accounts
from app.deps import Application, Hasher, Settings
from app.errors import NoToken, TokenProblem
from app.models.base import Text
from app.security import create_access_token


class LoginForm(BaseModel):
    """OAuth2's form. What Cadre does not use is accepted, as the standard says."""

    username: Text = Field(min_length=1, max_length=254, description="Username or e-mail.")
    password: SecretStr = Field(min_length=1, max_length=1000)
    grant_type: str | None = Field(None, description="`password`.", max_length=64)
    scope: str = Field("", max_length=1000)
    client_id: str | None = Field(None, max_length=254)
    client_secret: SecretStr | None = Field(None, max_length=1000)


class Token(BaseModel):
    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105  # the name of a scheme
    expires_in: int = Field(description="Seconds.")


class TokenRoute(APIRoute):
    """A malformed request is answered in OAuth2's words too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_token(request: Request) -> Response:
            try:
                return await handle(request)
            except (RequestValidationError, HTTPException):
                detail = "Send a form (application/x-www-form-urlencoded) with username and password."
                raise NoToken("invalid_request", detail) from None

        return handle_token


router = APIRouter(route_class=TokenRoute, tags=["token"])


@router.post("/token", responses={400: {"model": TokenProblem, "description": "No token"}})
async def log_in(
    application: Application, hasher: Hasher, settings: Settings, form: Annotated[LoginForm, Form()]
) -> Token:
    """Log in with username or e-mail, and get a token to send as `Authorization: Bearer ...`."""
    if form.grant_type not in (None, "", "password"):
        raise NoToken("unsupported_grant_type", "The grant_type here is password.")
    password, upgrade = form.password.get_secret_value(), not settings.read_only
    identity = await accounts.log_in(application, hasher, form.username, password, upgrade=upgrade)
    minutes, key = settings.access_token_minutes, settings.secret_key.get_secret_value()
    return Token(access_token=create_access_token(identity, key=key, minutes=minutes), expires_in=60 * minutes)
