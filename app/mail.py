"""Mail by SMTP: never twice. What surely was not sent is tried again; of the rest a person must judge, and is told.

A capability that can go: without this file, and its line in start.py, no mail is sent and all else works. Without
MAIL_URL there are none either, but in development: there they are files in the folder mails/.
"""

import hashlib
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime, parseaddr
from importlib.util import find_spec
from urllib.parse import unquote, urlsplit

from email_validator import validate_email

from app.accounts import letters
from app.accounts.letters import Letter
from app.engine import jobs
from app.engine.jobs import GiveUp, Retry, Work
from app.engine.logs import safe, tell
from app.errors import CannotStart
from app.models.base import utcnow
from app.settings import ROOT, Settings

LOOPBACK = ("localhost", "127.0.0.1", "::1")
FOLDER = ROOT / "mails"
TIMEOUT = 15.0  # seconds for each answer of the mail server

Send = Callable[[Work, Letter, EmailMessage], Awaitable[None]]


def install(settings: Settings) -> None:
    """From now on this process sends mails, if it can: by MAIL_URL, or in development into a folder."""
    jobs.registered.pop(letters.MAIL, None)
    if settings.mail_url:
        if not find_spec("aiosmtplib"):
            raise CannotStart("MAIL_URL needs a package. Run: pip install -e '.[mail]'")
        send: Send = MailServer(settings.mail_url.get_secret_value()).send
    elif settings.environment == "development":
        send = put_into_folder
    else:
        return

    @jobs.job(letters.MAIL, attempts=10, limit=60, outside=True)
    async def send_letter(work: Work) -> None:
        """A letter of an account, or what your own code has queued: `{"to": ..., "subject": ..., "text": ...}`."""
        ready = "text" in work.payload
        site = settings.public_url
        letter = Letter(**work.payload) if ready else await letters.write(work.caller, work.payload, site=site)
        if letter:
            await send(work, letter, compose(letter, settings.mail_from, work))


def compose(letter: Letter, sender: str, work: Work) -> EmailMessage:
    """The mail as it is sent. Raises GiveUp for a line break in a header, by which somebody would add another."""
    name, address = parseaddr(sender)
    address = deliverable(address)
    try:
        to = deliverable(letter.to)
        message = EmailMessage(policy=SMTP if to.isascii() else SMTPUTF8)
        message["To"] = Address("", *to.split("@"))  # it takes no letters beyond ASCII in an addr_spec
        message["Subject"] = letter.subject
    except ValueError:
        raise GiveUp("That is no address, or no subject.") from None
    message["From"] = Address(name, addr_spec=address)
    message["Date"] = format_datetime(utcnow())
    # The same however often it is tried.
    digest = hashlib.sha256(json.dumps([work.id, work.payload], sort_keys=True).encode()).hexdigest()[:24]
    message["Message-ID"] = f"<{work.id}.{digest}@{address.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's holiday notice answers it
    is_plain = letter.text.isascii() and all(len(line) < 990 for line in letter.text.splitlines())
    message.set_content(letter.text, cte="7bit" if is_plain else "quoted-printable")
    return message


def deliverable(address: str) -> str:
    """As mail servers know it: a domain in letters of any language has a spelling in ASCII."""
    checked = validate_email(address, check_deliverability=False)
    return checked.ascii_email or checked.normalized


async def put_into_folder(work: Work, letter: Letter, message: EmailMessage) -> None:
    """In development: a file to open, and in the log the link to click."""
    FOLDER.mkdir(exist_ok=True)
    file = FOLDER / f"{work.id}.eml"
    file.write_bytes(bytes(message))
    where = f"{file.relative_to(ROOT)} {letter.link or ''}".strip()
    logging.getLogger("app").info("A mail to %s: %s. %s", letter.to, letter.subject, where)


class MailServer:
    """The one at an address like `smtp://user:password@host:587`."""

    def __init__(self, address: str) -> None:
        self._url = urlsplit(address)

    async def send(self, work: Work, _letter: Letter, message: EmailMessage) -> None:
        """Raises Retry for what surely was not sent, and GiveUp if another try would end alike."""
        import aiosmtplib  # late: an extra

        url, is_tls = self._url, self._url.scheme == "smtps"
        sender, to = (message[name].addresses[0].addr_spec for name in ("From", "To"))
        server = aiosmtplib.SMTP(
            hostname=url.hostname,
            port=url.port or (465 if is_tls else 587),
            username=unquote(url.username) if url.username else None,
            password=unquote(url.password or "") if url.username else None,
            use_tls=is_tls,
            # Never without, but on this machine: a password, and links to accounts, would go in the clear.
            start_tls=not is_tls and url.hostname not in LOOPBACK,
            local_hostname=sender.rpartition("@")[2],
            timeout=TIMEOUT,
        )
        try:
            try:
                await server.connect()
                await server.mail(sender, options=[] if to.isascii() else ["SMTPUTF8"], encoding="utf-8")
                await server.rcpt(to, encoding="utf-8")
            except aiosmtplib.SMTPRecipientRefused:
                raise
            except (aiosmtplib.SMTPException, OSError) as error:
                raise Retry(f"No mail server took it: {tell(error)[:300]}") from None
            await work.hand_over()
            await server.data(bytes(message))
            with suppress(aiosmtplib.SMTPException, OSError):
                await server.quit(timeout=2)
        except (aiosmtplib.SMTPRecipientRefused, aiosmtplib.SMTPDataError) as refusal:
            if refusal.code < 400:
                raise  # an answer that nobody understands is none
            told = f"The mail server refused it: {refusal.code} {safe(refusal.message)[:200]}"
            raise (Retry if 400 <= refusal.code < 500 else GiveUp)(told) from None
        finally:
            server.close()
