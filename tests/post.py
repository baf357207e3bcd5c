"""A real mail server on this machine, for tests: it keeps what comes, or refuses it, or hangs up, as it is told."""

import time
from collections.abc import Callable
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from tests.servers import free_port

HANG_UP = "hang up"


class PostOffice:
    """`mails` are those that came, in their order; `refuse` says what the next ones shall be answered."""

    def __init__(self, **options: Any) -> None:
        self.port = free_port()
        self.url = f"smtp://127.0.0.1:{self.port}"
        self._options = options
        self._controller: Controller | None = None
        self.empty()

    def empty(self) -> None:
        self.mails: list[EmailMessage] = []
        self.envelopes: list[Envelope] = []
        self.logins: list[tuple[bytes, bytes]] = []
        self.sessions = list[Session]()
        self._answers: dict[str, list[str]] = {"RCPT": [], "DATA": []}

    def open(self) -> "PostOffice":
        self._controller = Controller(
            self, "127.0.0.1", self.port, ready_timeout=10, authenticator=self._authenticate, **self._options
        )
        self._controller.start()
        return self

    def close(self) -> None:
        if self._controller:
            self._controller.stop()
            self._controller = None

    def refuse(self, command: str, *answers: str) -> None:
        """To RCPT or DATA it says this, once each; HANG_UP after DATA is to keep the mail, and say nothing."""
        self._answers[command] += answers

    def wait(self, number: int = 1) -> list[EmailMessage]:
        """The mails, once there are so many."""
        until(lambda: len(self.mails) >= number, f"{number} mails")
        assert len(self.mails) == number, [mail["Subject"] for mail in self.mails]
        return self.mails

    async def handle_RCPT(  # noqa: N802  # as aiosmtpd calls it
        self, _server: SMTP, session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        self.sessions.append(session)
        if self._answers["RCPT"]:
            return self._answers["RCPT"].pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802  # as above
        answer = self._answers["DATA"].pop(0) if self._answers["DATA"] else "250 OK"
        self.envelopes.append(envelope)
        if answer in ("250 OK", HANG_UP):
            self.mails.append(_read(envelope))
        if answer == HANG_UP:
            server.transport.abort()
        return answer

    def _authenticate(self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any) -> Any:
        self.logins.append((data.login, data.password))
        return AuthResult(success=True)


def until(holds: Callable[[], bool], what: str) -> None:
    for _ in range(500):
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError(f"Not within ten seconds: {what}")


def _read(envelope: Envelope) -> EmailMessage:
    """As a mail program shows it."""
    return message_from_bytes((envelope.original_content or b"").replace(b"\r\n", b"\n"), policy=policy.default)
