"""A mail goes out with the change that causes it, never twice, and to nobody but whom it is for."""

import ipaddress
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fastapi.testclient import TestClient
from pydantic import SecretStr, ValidationError
from typer.testing import CliRunner

from app import accounts, cli, mail
from app.crud import transaction
from app.engine import jobs, migrations
from app.engine.caller import Caller
from app.engine.sessions import create_session_engine
from app.engine.working import work_off
from app.errors import Clash
from app.settings import Settings, get_settings
from tests.conftest import PASSWORD, sign_up
from tests.post import HANG_UP, PostOffice, until
from tests.scratch import empty_database
from tests.servers import Server, settings_for, sql

GREETING = {"to": "ann@example.com", "subject": "Good morning", "text": "Dear Ann,\n\nthe sun is up.\n"}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again at once."""
    monkeypatch.setattr("app.engine.working.FIRST", 0)


@pytest.fixture
def settings(settings: Settings, post: PostOffice) -> Settings:
    return settings.model_copy(update={"mail_url": SecretStr(post.url), "mail_from": "Cadre <cadre@example.com>"})


def queue(client: TestClient, *, fails: bool = False, **changes: str) -> int:
    """Queue a mail in a transaction, which `fails` after that, or not."""

    async def work() -> int:
        async with transaction(Caller(client.app.state.database)) as tx:
            number = await jobs.enqueue(tx, "mail", GREETING | changes)
            if fails:
                raise Clash
            return number

    return client.portal.call(work)


def left(client: TestClient) -> list[jobs.Queued]:
    """The jobs that are dead, once no other is left."""
    found: list[jobs.Queued] = []

    def is_quiet() -> bool:
        found[:] = client.portal.call(jobs.list_jobs, client.app.state.database)[0]
        return all(each.due_at is None for each in found)

    until(is_quiet, "no job under way")
    return found


# What is sent


@pytest.mark.promise("U25")
def test_what_is_queued_is_sent(client: TestClient, post: PostOffice):
    number = queue(client)
    (got,) = post.wait()
    assert (got["From"], got["To"], got["Subject"]) == ("Cadre <cadre@example.com>", GREETING["to"], "Good morning")
    assert got.get_content() == GREETING["text"]
    assert got["Message-ID"].startswith(f"<{number}.")
    assert got["Message-ID"].endswith("@example.com>")
    assert got["Auto-Submitted"] == "auto-generated"
    assert abs(got["Date"].datetime - datetime.now(UTC)) < timedelta(minutes=1)
    assert (post.envelopes[0].mail_from, post.envelopes[0].rcpt_tos) == ("cadre@example.com", ["ann@example.com"])
    assert left(client) == []


@pytest.mark.promise("U25")
def test_what_is_queued_in_vain_is_never_sent(client: TestClient, post: PostOffice):
    with pytest.raises(Clash):
        queue(client, fails=True)
    queue(client, subject="The next one")
    assert [got["Subject"] for got in post.wait()] == ["The next one"]
    assert left(client) == []


@pytest.mark.parametrize(
    ("to", "reached"),
    [
        ("\u00e5nn@example.com", "\u00e5nn@example.com"),
        ("ann@b\u00fccher.example.com", "ann@xn--bcher-kva.example.com"),
    ],
)
def test_a_mail_reaches_addresses_in_any_language(client: TestClient, post: PostOffice, to: str, reached: str):
    text = "Gr\u00fc\u00dfe\n" + "\u9234\u6728" * 500 + "\n"
    queue(client, to=to, subject="Gr\u00fc\u00dfe \U0001f600", text=text)
    (got,) = post.wait()
    assert (got["Subject"], got.get_content()) == ("Gr\u00fc\u00dfe \U0001f600", text)
    assert post.envelopes[0].rcpt_tos == [reached]


@pytest.mark.promise("U27")
@pytest.mark.parametrize(
    "changes",
    [
        {"subject": "Good morning\r\nBcc: bob@example.com"},
        {"subject": "Good morning\n\nDear Bob"},
        {"to": "ann@example.com\r\nBcc: bob@example.com"},
        {"to": "ann@example.com, bob@example.com"},
        {"to": "ann@example.com>\r\nRCPT TO:<bob@example.com"},
    ],
)
def test_nobody_adds_a_header_or_a_recipient(client: TestClient, post: PostOffice, changes: dict[str, str]):
    queue(client, **changes)
    assert [(each.attempts, each.error) for each in left(client)] == [(1, "That is no address, or no subject.")]
    assert post.mails == []


@pytest.mark.promise("U27")
def test_a_text_that_looks_like_the_end_of_a_mail_ends_none(client: TestClient, post: PostOffice):
    text = "One\n.\nMAIL FROM:<bob@example.com>\n..\nFrom here\n"
    queue(client, text=text)
    assert post.wait()[0].get_content() == text


# What fails half-way


@pytest.mark.promise("U26")
@pytest.mark.parametrize("command", ["RCPT", "DATA"])
def test_what_is_refused_for_a_while_is_sent_once(client: TestClient, post: PostOffice, command: str):
    post.refuse(command, "451 Come back", "421 Closing")
    queue(client)
    post.wait()
    assert left(client) == []
    assert len(post.mails) == 1


@pytest.mark.promise("U26")
@pytest.mark.parametrize("command", ["RCPT", "DATA"])
def test_what_is_refused_for_good_is_not_tried_again(client: TestClient, post: PostOffice, command: str):
    post.refuse(command, "550 Nobody of that name")
    queue(client)
    ((attempts, error, over),) = [(each.attempts, each.error, each.handed_over_at) for each in left(client)]
    assert (attempts, error, over) == (1, "The mail server refused it: 550 Nobody of that name", None)
    assert post.mails == []


@pytest.mark.promise("U26")
def test_what_was_perhaps_sent_is_not_sent_again(client: TestClient, post: PostOffice, capsys: Any):
    post.refuse("DATA", HANG_UP)
    queue(client)
    (dead,) = left(client)
    assert (dead.attempts, dead.handed_over_at is not None, len(post.mails)) == (1, True, 1)
    assert "was perhaps done" in capsys.readouterr().out


@pytest.mark.promise("U26")
def test_every_attempt_has_the_same_number(client: TestClient, post: PostOffice):
    post.refuse("DATA", "451 Come back", "451 Come back")
    queue(client)
    post.wait()
    sent = [envelope.original_content or b"" for envelope in post.envelopes]
    numbers = {line for content in sent for line in content.split(b"\r\n") if line.startswith(b"Message-ID")}
    assert (len(sent), len(numbers)) == (3, 1)


@pytest.mark.promise("U26")
def test_a_mail_waits_until_the_server_is_back(client: TestClient, post: PostOffice):
    post.close()
    queue(client)

    def was_tried() -> bool:
        (job,) = client.portal.call(jobs.list_jobs, client.app.state.database)[0]
        return job.attempts > 0 and (job.error or "").startswith("No mail server took it: SMTPConnectError")

    try:
        until(was_tried, "an attempt")
    finally:
        post.open()
    post.wait()
    assert left(client) == []


@pytest.mark.once  # what a kill leaves behind, test_jobs.py asks of both databases
@pytest.mark.promise("U26")
def test_a_mail_is_sent_once_though_the_server_was_killed_before_it(post: PostOffice, tmp_path: Path):
    with ExitStack() as stack:
        url = stack.enter_context(empty_database(tmp_path, "mail"))
        migrations.upgrade(url)
        settings = settings_for(url) | {"MAIL_URL": post.url}
        first = Server(tmp_path, settings | {"JOBS_IN_SERVER": "false"}).is_up()
        stack.callback(first.close)
        asked = first.http.post("/users", json={"username": "ann", "email": "ann@example.com", "password": PASSWORD})
        first.kill()
        assert (asked.status_code, post.mails) == (202, [])
        stack.callback(Server(tmp_path, settings).close)
        assert post.wait()[0]["To"] == "ann@example.com"
        engine = create_session_engine(url)
        stack.callback(engine.dispose)
        until(lambda: sql(engine, "SELECT count(*) FROM jobs") == [(0,)], "no job")
        assert len(post.mails) == 1


# On the way


def certificate(folder: Path) -> tuple[Path, Path]:
    """One for 127.0.0.1 that nobody vouches for, and its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail")])
    own = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    built = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1))
    made = built.add_extension(own, critical=False).sign(key, hashes.SHA256())
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "mail.pem").write_bytes(made.public_bytes(pem))
    (folder / "mail.key").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    return folder / "mail.pem", folder / "mail.key"


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostOffice]:
    """A mail server that speaks TLS and asks for a password, somewhere in the world."""
    monkeypatch.setattr(mail, "LOOPBACK", ())
    pem, key = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem, key)
    office = PostOffice(tls_context=context, require_starttls=True, auth_required=True).open()
    yield office
    office.close()


def attempted(client: TestClient) -> str:
    """What was said of the first attempt at the only job."""

    def told() -> list[str | None]:
        return [each.error for each in client.portal.call(jobs.list_jobs, client.app.state.database)[0]]

    until(lambda: told() not in ([], [None]), "an attempt")
    return told()[0] or ""


@pytest.mark.once
@pytest.mark.promise("U27")
def test_a_password_and_a_mail_go_only_to_the_server_that_proves_its_name(
    start: Callable[..., TestClient], guarded: PostOffice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "mail.pem"))  # now somebody vouches for it
    client = start(mail_url=SecretStr(guarded.url.replace("//", "//us:p%40ss@")))
    queue(client)
    guarded.wait()
    assert guarded.logins == [(b"us", b"p@ss")]
    assert guarded.sessions[0].ssl is not None


@pytest.mark.once
@pytest.mark.promise("U27")
def test_nothing_goes_to_a_server_that_nobody_vouches_for(start: Callable[..., TestClient], guarded: PostOffice):
    client = start(mail_url=SecretStr(guarded.url.replace("//", "//us:p%40ss@")))
    queue(client)
    assert "certificate verify failed" in attempted(client)
    assert (guarded.logins, guarded.mails) == ([], [])


@pytest.mark.once
@pytest.mark.promise("U27")
def test_nothing_goes_in_the_clear(client: TestClient, post: PostOffice, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mail, "LOOPBACK", ())
    queue(client)
    assert "STARTTLS" in attempted(client)
    assert post.mails == []


# Without a server


@pytest.mark.once
def test_in_development_mails_go_into_a_folder_and_their_links_into_the_log(
    start: Callable[..., TestClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    client = start(jobs_in_server=False)  # or the server's own worker may be quicker
    ann = sign_up(client, "ann")
    monkeypatch.setattr(mail, "ROOT", tmp_path)
    monkeypatch.setattr(mail, "FOLDER", tmp_path / "mails")
    mail.install(Settings(environment="development"))
    application = Caller(client.app.state.database)
    client.portal.call(accounts.ask_for_reset, application, ann.email)
    client.portal.call(work_off, application)
    (file,) = (tmp_path / "mails").glob("*.eml")
    got = message_from_bytes(file.read_bytes(), policy=policy.default)
    assert (got["To"], got["Subject"]) == (ann.email, "Choose a new password")
    (link,) = re.findall(r"http://127.0.0.1:8000/account#reset=cadre-link_[\w-]{43}", got.get_content())
    assert f"A mail to {ann.email}: Choose a new password. mails/{file.name} {link}" in capsys.readouterr().out


@pytest.mark.once
@pytest.mark.parametrize("said", ["", "https://app.example.com"])
def test_where_nothing_is_said_links_lead_to_the_port_that_was_asked_for(said: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PUBLIC_URL", said)
    if not said:
        monkeypatch.delenv("PUBLIC_URL")
    monkeypatch.setattr(cli, "make_ready", lambda *_: None)
    monkeypatch.setattr("uvicorn.run", lambda **_: None)
    get_settings.cache_clear()
    assert CliRunner().invoke(cli.main, ["run", "--port", "8123"]).exit_code == 0
    assert get_settings().public_url == (said or "http://127.0.0.1:8123")
    get_settings.cache_clear()


@pytest.mark.once
@pytest.mark.parametrize("environment", ["test", "production"])
def test_elsewhere_no_mail_is_sent_unless_a_server_is_named(environment: str):
    mail.install(Settings(environment="test").model_copy(update={"environment": environment}))
    assert "mail" not in jobs.registered


BAD_SERVERS = ["http://mail.example.com", "smtp://", "mail.example.com:587", "smtp://us:pa/ss@mail", "smtp://us:hail@"]


@pytest.mark.once
@pytest.mark.parametrize("url", [*BAD_SERVERS, "smtp://us:hailhydra", "smtp://mail.example.com:99999", "smtp://m/x?y"])
def test_what_is_no_mail_server_stops_the_start_and_no_password_is_repeated(url: str):
    with pytest.raises(ValidationError) as refused:
        Settings(mail_url=url)
    (wrong,) = refused.value.errors()
    assert (wrong["loc"], "hail" in wrong["msg"]) == (("mail_url",), False)


@pytest.mark.once
@pytest.mark.parametrize(
    "sender", ["", "Cadre", "Cadre <us>", "us@example.com\nBcc: x@example.com", "a@b.com, c@d.com"]
)
def test_what_is_no_sender_stops_the_start(sender: str):
    with pytest.raises(ValidationError):
        Settings(mail_from=sender)


@pytest.mark.once
@pytest.mark.parametrize("missing", ["mail_from", "public_url"])
def test_in_production_a_mail_says_whom_it_is_from_and_leads_where_the_settings_say(missing: str):
    given = {"mail_from": "Us <us@example.com>", "public_url": "https://app.example.com"}
    del given[missing]
    with pytest.raises(ValidationError, match=f"{missing.upper()} is missing"):
        Settings(environment="production", database_url="sqlite:////x.db", mail_url="smtps://mail.example.com", **given)


@pytest.mark.once
@pytest.mark.parametrize(
    "url", ["", "app.example.com", "javascript:alert(1)", "https://a.example/?x", "https://u@a.example"]
)
def test_links_lead_to_a_web_address(url: str):
    with pytest.raises(ValidationError):
        Settings(public_url=url)
