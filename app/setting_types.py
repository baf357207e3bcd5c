"""What a setting can be, where a plain type does not say it. Each refusal ends a sentence that begins with its name."""

import re
from email.utils import parseaddr
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, IPvAnyNetwork, SecretStr, validate_email
from pydantic_settings import NoDecode


def split_words(value: object) -> object:
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


def check_hosts(value: tuple[str, ...]) -> tuple[str, ...]:
    for host in value:
        if not re.fullmatch(r"(\*\.)?[a-z0-9.-]+|\[[0-9a-f:.]+\]", host):
            raise ValueError(f"{host} is no host: write it like api.example.com, in small letters, without a port")
    return value


def check_origins(value: tuple[str, ...]) -> tuple[str, ...]:
    for origin in value:
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", origin):
            raise ValueError(f"{origin} is no origin: write it like https://app.example.com, with nothing behind")
    return value


def check_regex(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is no regular expression ({error})") from None
    return value


def check_mail_url(value: SecretStr) -> SecretStr:
    # Not by urlsplit alone: what it cannot read it repeats, and that may be the password.
    who, host = r"([^\s:/?#@]+:[^\s:/?#@]*@)?", r"([\w.-]+|\[[0-9a-fA-F:]+\])"
    found = re.fullmatch(rf"smtps?://{who}{host}(:\d{{1,5}})?/?", value.get_secret_value())
    if value and not (found and int((found[3] or ":0")[1:]) < 2**16):
        raise ValueError("must be like smtp://user:password@mail.example.com:587, with %40 for an @ in the password")
    return value


def check_sender(value: str) -> str:
    name, address = parseaddr(value)
    if not value.isprintable() or value not in (address, f"{name} <{address}>", f'"{name}" <{address}>'):
        raise ValueError("must be like Cadre <no-reply@example.com>")
    validate_email(address)
    return value


def check_web_address(value: str) -> str:
    if not re.fullmatch(r"https?://[^/\s?#@]+(/[^\s?#]*)?", value):
        raise ValueError("must be like https://app.example.com, with nothing behind")
    return value.rstrip("/")


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_words)]  # `one,two`
Networks = Annotated[tuple[IPvAnyNetwork, ...], NoDecode, BeforeValidator(split_words)]
Hosts = Annotated[Words, AfterValidator(check_hosts)]
Origins = Annotated[Words, AfterValidator(check_origins)]
Regex = Annotated[str, AfterValidator(check_regex)]
MailUrl = Annotated[SecretStr, AfterValidator(check_mail_url)]
Sender = Annotated[str, AfterValidator(check_sender)]
WebAddress = Annotated[str, AfterValidator(check_web_address)]
