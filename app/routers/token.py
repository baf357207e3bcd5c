"""Tokens: logging in (OAuth2's password grant, RFC 6749), staying logged in (refresh grant), and ending it (RFC 7009).

Logging in begins a session, and answers two tokens: the access token goes with every request, for minutes; the refresh
token gets the next two, once. security.py says how each ends. Errors are OAuth2's, so that every client library
understands them.
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field, SecretStr
from starlette.exceptions import HTTPException

from app import accounts
from app.deps import Application, Client, Hasher, Settings
from app.engine import scopes
from app.errors import NoToken, TokenProblem, documented
from app.models.base import Text
from app.security import create_access_token


class TokenForm(BaseModel):
    """OAuth2's form. What Cadre does not use is accepted, as the standard says."""

    grant_type: str = Field("password", description="Or `refresh_token`.", max_length=64)
    username: Text = Field("", min_length=1, max_length=254, description="Username or e-mail.")
    password: SecretStr = Field(SecretStr(""), min_length=1, max_length=1000)
    refresh_token: SecretStr = Field(SecretStr(""), max_length=1000, description="Instead of name and password.")
    scope: str = Field("", max_length=2000, description="What the token may do. Empty: all that you may.")
    client_id: str | None = Field(None, max_length=254)
    client_secret: SecretStr | None = Field(None, max_length=1000)


class RevokeForm(BaseModel):
    token: SecretStr = Field(min_length=1, max_length=4096, description="An access, refresh or machine token.")
    token_type_hint: str | None = Field(None, max_length=64)
    client_id: str | None = Field(None, max_length=254)
    client_secret: SecretStr | None = Field(None, max_length=1000)


class Token(BaseModel):
    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105  # the name of a scheme
    expires_in: int = Field(description="Seconds.")
    refresh_token: str = Field(description="Gets the next tokens, once.")
    scope: str = Field(description="What the token may do.")


class TokenRoute(APIRoute):
    """A malformed request is answered in OAuth2's words too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_token(request: Request) -> Response:
            try:
                return await handle(request)
            except (RequestValidationError, HTTPException):
                fields = "the token" if self.name == "revoke_token" else "username and password"
                detail = f"Send a form (application/x-www-form-urlencoded) with {fields}."
                raise NoToken("invalid_request", detail) from None

        return handle_token


router = APIRouter(
    route_class=TokenRoute, tags=["token"], responses={400: {"model": TokenProblem, "description": "No token"}}
)


@router.post("/token", responses=documented(429))
async def log_in(
    application: Application, hasher: Hasher, settings: Settings, client: Client, form: Annotated[TokenForm, Form()]
) -> Token:
    """Log in with username or e-mail, and get a token to send as `Authorization: Bearer ...`.

    Or stay logged in: with `grant_type=refresh_token` and the refresh token of last time, which is spent with that.
    """
    if form.grant_type == "refresh_token" and form.refresh_token:
        got = await accounts.refresh(application, form.refresh_token.get_secret_value(), scope=form.scope)
    elif form.grant_type == "password" and form.username and form.password:
        password, days = form.password.get_secret_value(), settings.session_days
        got = await accounts.log_in(
            application, hasher, form.username, password, scope=form.scope, days=days, client=client
        )
    elif form.grant_type in ("password", "refresh_token"):
        raise NoToken("invalid_request", "Send username and password, or a refresh_token.")
    else:
        raise NoToken("unsupported_grant_type", "The grant_type here is password, or refresh_token.")
    minutes, identity = settings.access_token_minutes, got.identity
    return Token(
        access_token=create_access_token(identity, keys=settings.keys, minutes=minutes),
        expires_in=60 * minutes,
        refresh_token=got.refresh_token,
        scope=scopes.told(identity.scopes, is_superuser=identity.is_superuser),
    )


@router.post("/revoke", response_class=Response)
async def revoke_token(application: Application, settings: Settings, form: Annotated[RevokeForm, Form()]) -> Response:
    """End what a token belongs to: the session of an access or refresh token, or a machine token.

    Whoever has the token may. One that has ended already is no error.
    """
    await accounts.revoke(application, form.token.get_secret_value(), keys=settings.keys)
    return Response()
