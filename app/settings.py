"""One place for what differs between machines. A bad value stops the start and names the cure."""

import os
import re
import secrets
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import EmailStr, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.errors import CannotStart
from app.setting_types import Hosts, MailUrl, Networks, Origins, Regex, Sender, WebAddress, Words

ROOT = Path(__file__).resolve().parent.parent
COMMITTED, LOCAL, KEY_FILE = ROOT / ".env", ROOT / ".env.local", ROOT / ".secret-key"
NEW_KEY = 'python3 -c "import secrets; print(secrets.token_urlsafe(48))"'
WELL_KNOWN = ("secret", "changethis", "changeme", "change-me", "password", "your-", "example", "09d25e094faa6ca2556c")


class Settings(BaseSettings):
    """Read from the environment, then `.env.local` (git-ignored), then `.env` (committed)."""

    model_config = SettingsConfigDict(env_file=(COMMITTED, LOCAL), env_file_encoding="utf-8", extra="forbid")

    environment: Literal["development", "test", "production"] = "development"
    database_url: str = Field("sqlite:///cadre.db", description="`sqlite:///file.db` or `postgresql://...`.")
    secret_key: SecretStr = Field(SecretStr(""), description="Signs tokens. Made on first start in development.")
    old_secret_keys: SecretStr = Field(SecretStr(""), description="After a change: `old,older` still count.")
    access_token_minutes: int = Field(15, ge=1, le=60, description="How long an access token lasts.")
    session_days: int = Field(30, ge=1, le=365, description="How long a login can be refreshed.")
    bcrypt_rounds: int = Field(12, ge=4, le=16, description="Cost of a password hash; at least 10 in production.")
    password_min_length: int = Field(15, ge=8, le=64, description="Characters of a new password.")
    login_attempts: int = Field(10, ge=1, le=10**6, description="Wrong passwords a minute, for one name or e-mail.")
    sign_up_attempts: int = Field(20, ge=1, le=10**6, description="Sign-ups, or resets, a minute from one IP address.")
    registration_open: bool = Field(True, description="Whether strangers may sign up.")
    mail_url: MailUrl = Field(SecretStr(""), description="Sends mails: `smtp://user:password@host:587`, `smtps://...`.")
    mail_from: Sender = Field("Cadre <no-reply@example.com>", max_length=300, description="Whom mails are from.")
    public_url: WebAddress = Field(
        "http://127.0.0.1:8000", max_length=500, description="Where the links in mails lead."
    )
    read_only: bool = Field(False, description="Answer every write with 503, for maintenance.")
    database_connections: int = Field(
        16, ge=8, le=100, description="Of one server process: 5 for Sessions, one for /ready, the rest for verbs."
    )
    pgbouncer: bool = Field(False, description="Prepare no statements: PgBouncer is there in transaction mode.")
    concurrent_requests: int = Field(1024, ge=8, le=100_000, description="Of one server process; more get 503 at once.")
    proxies: Networks = Field((), description="Whose X-Forwarded-* is believed.")
    max_body_size: int = Field(2**17, ge=1024, le=2**30, description="Bytes of a request's body; more get 413.")
    max_import_size: int = Field(2**28, ge=1024, le=2**40, description="Bytes of a file to import; more get 413.")
    history_days: int = Field(365, ge=0, le=36500, description="How long changes are kept. 0: for ever.")
    hosts: Hosts = Field((), description="Names this server answers to: `api.example.com,*.example.org`. None: any.")
    idempotency_hours: int = Field(24, ge=1, le=8760, description="How long a key's answer is kept.")
    jobs_in_server: bool = Field(True, description="Do queued jobs; otherwise start python3 -m app worker.")
    log_requests: bool = Field(True, description="A line in the log for each request.")
    cors_origins: Origins = Field((), description="Web pages that may call the API: `https://app.example.com,...`.")
    cors_origin_regex: Regex | None = Field(None, description="The same as one regular expression.")
    cors_credentials: bool = Field(False, description="Whether those pages may send cookies.")
    cors_methods: Words = ("GET", "HEAD", "POST", "PATCH", "DELETE")
    cors_headers: Words = ("Authorization", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match", "X-Token")
    cors_max_age: int = Field(600, ge=0, le=86400, description="Seconds a browser may remember a preflight.")
    first_superuser_username: str = Field("admin", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*[A-Za-z0-9]$", max_length=64)
    first_superuser_email: EmailStr = "admin@example.com"

    @property
    def keys(self) -> tuple[str, ...]:
        """What signs tokens, and after it what signed those that still count."""
        old = self.old_secret_keys.get_secret_value().split(",")
        return (self.secret_key.get_secret_value(), *(key.strip() for key in old if key.strip()))

    @field_validator("database_url")
    @classmethod
    def anchor_database(cls, value: str) -> str:
        """A relative SQLite file lies beside `app/`, wherever the server is started from."""
        if value.startswith("sqlite:///"):
            path = value.removeprefix("sqlite:///")
            if not path or path.startswith(":memory:"):
                raise ValueError("needs a file, like sqlite:///cadre.db")
            return value if path.startswith(("/", "file:")) or path[1:2] == ":" else f"sqlite:///{ROOT / path}"
        if value.startswith(("postgresql://", "postgres://")):
            _ = urlsplit(value).port  # raises for a host or port that cannot be one
            return value.replace("postgres://", "postgresql://", 1)
        raise ValueError("must begin with sqlite:/// or postgresql://")

    @model_validator(mode="after")
    def refuse_what_is_unsafe(self) -> Self:
        if "*" in self.cors_origins and self.cors_credentials:
            raise ValueError(
                "CORS_ORIGINS=* with CORS_CREDENTIALS=true would open the API to every web page: name the pages"
            )
        if self.cors_credentials and re.fullmatch(self.cors_origin_regex or "", "https://a-page-that-nobody.knows"):
            raise ValueError("CORS_ORIGIN_REGEX with CORS_CREDENTIALS=true opens the API to every web page: name yours")
        if self.environment == "production" and self.bcrypt_rounds < 10:
            raise ValueError("BCRYPT_ROUNDS must be at least 10 in production")
        if self.environment == "production" and self.mail_url.get_secret_value():
            for name, example in (("public_url", "https://app.example.com"), ("mail_from", "Us <us@example.com>")):
                if name not in self.model_fields_set:
                    raise ValueError(f"{name.upper()} is missing, and MAIL_URL is there: set it, like {example}")
        if not self.secret_key.get_secret_value() and self.environment == "development":
            self.secret_key = SecretStr(development_key())
        for key in self.keys:
            refuse_weak_key(key)
        if self.environment == "production" and "database_url" not in self.model_fields_set:
            raise ValueError("DATABASE_URL is missing: say where production keeps its data")
        return self


def refuse_weak_key(key: str) -> None:
    """Raise ValueError unless `key` could be a random one of 32 bytes or more (RFC 7518, section 3.2)."""
    if not key:
        raise ValueError(f"SECRET_KEY is missing: make one with {NEW_KEY}")
    if len(key.encode()) < 32 or len(set(key)) < 10 or any(word in key.lower() for word in WELL_KNOWN):
        raise ValueError(f"SECRET_KEY is short or well known: make one of your own with {NEW_KEY}")


def development_key() -> str:
    """The key of this working copy, made on first use. Of two servers that start at once, both get the same."""
    if not KEY_FILE.exists():
        draft = KEY_FILE.with_name(f"{KEY_FILE.name}.{os.getpid()}")
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_urlsafe(48))
        with suppress(FileExistsError):
            # A link appears complete or not at all, and never over another one.
            os.link(draft, KEY_FILE)
        draft.unlink()
    return KEY_FILE.read_text().strip()


def refuse_committed_secrets() -> None:
    """Raise CannotStart if `.env`, which is committed, holds what nobody else may know."""
    for name, value in (dotenv_values(COMMITTED) if COMMITTED.exists() else {}).items():
        is_secret = {
            "SECRET_KEY": r".",
            "OLD_SECRET_KEYS": r".",
            "MAIL_URL": r"://[^/@]*:[^@]+@",
            "DATABASE_URL": r"://[^/@]*:[^@]+@|[?&]password=",
        }.get(name.upper())
        if is_secret and re.search(is_secret, value or ""):
            raise CannotStart(
                f"{name.upper()} in .env is a secret in a committed file: move that line to .env.local, and change it."
            )


@lru_cache
def get_settings() -> Settings:
    """The settings of this process. Raises CannotStart with one sentence for each setting that is wrong."""
    try:
        refuse_committed_secrets()
        return Settings()
    except ValidationError as error:
        raise CannotStart(
            "\n".join(_sentence(wrong["loc"], wrong["type"], wrong["msg"]) for wrong in error.errors())
        ) from None
    except UnicodeDecodeError:
        raise CannotStart(".env or .env.local is no text in UTF-8: save it as that.") from None
    except OSError as error:
        raise CannotStart(f"{error.filename}: {error.strerror}. Make the folder writable, or set SECRET_KEY.") from None


def _sentence(loc: tuple[Any, ...], kind: str, msg: str) -> str:
    name = ".".join(map(str, loc)).upper()
    if kind == "extra_forbidden":
        return f"{name} in .env or .env.local is no setting of Cadre: correct its name or remove the line."
    msg = msg.removeprefix("Value error, ")
    return f"{name}: {msg}. Correct it in the environment, .env.local or .env." if name else f"{msg}."
