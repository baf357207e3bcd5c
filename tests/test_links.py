"""A link in a mail shows whose an address is: once, for one purpose, not for long, and no answer tells who exists."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlmodel import Session, select
from typer.testing import CliRunner

from app import accounts, cli, user_commands
from app.engine import jobs, logs
from app.engine.caller import Caller
from app.models import Link
from app.models.base import utcnow
from app.settings import Settings
from tests.conftest import PASSWORD, Person, sign_up
from tests.post import PostOffice, until

NEW = "four other words together"
CID = {"username": "cid", "email": "cid@example.com", "full_name": "Cid", "password": PASSWORD}
LINK_ENDED = "That link is not valid, or no longer. Ask for a new one."
ENDED = (422, [{"loc": ["body", "token"], "msg": LINK_ENDED, "type": "value_error"}])
NO_MAIL = (409, "This server sends no mails. Ask a superuser.")


@pytest.fixture
def settings(settings: Settings, post: PostOffice) -> Settings:
    return settings.model_copy(update={"mail_url": SecretStr(post.url), "public_url": "https://app.example.com"})


@dataclass
class Mailbox:
    """What comes by mail, and what is done with the links in it."""

    client: TestClient
    post: PostOffice

    def subjects(self, number: int) -> list[tuple[str, str]]:
        """To whom they went, and about what, once there are so many and no more to come."""
        self.settle()
        return sorted((mail["To"], mail["Subject"]) for mail in self.post.wait(number))

    def settle(self) -> None:
        until(lambda: self.client.portal.call(jobs.list_jobs, self.client.app.state.database)[1] == 0, "no job")

    def secret(self, kind: str = "reset") -> str:
        """Of the link in the newest mail."""
        self.settle()
        text = self.post.mails[-1].get_content()
        (secret,) = re.findall(rf"^https://app\.example\.com/account#{kind}=(cadre-link_[\w-]{{43}})$", text, re.M)
        return secret

    def ask(self, email: str = "ann@example.com") -> Any:
        return self.client.post("/api/v1/users/password-reset", json={"email": email})

    def reset(self, secret: str, password: str = NEW) -> tuple[int, Any]:
        body = {"token": secret, "new_password": password}
        return told(self.client.post("/api/v1/users/password-reset/confirm", json=body))

    def confirm(self, secret: str) -> tuple[int, Any]:
        return told(self.client.post("/api/v1/users/confirm", json={"token": secret}))


def told(answer: Any) -> tuple[int, Any]:
    if not answer.content:
        return answer.status_code, None
    return answer.status_code, answer.json().get("detail") or answer.json()


@pytest.fixture
def box(client: TestClient, post: PostOffice) -> Mailbox:
    return Mailbox(client, post)


def counted(client: TestClient, monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What `act` answers, and the statements that it took before that; jobs wait meanwhile."""
    database, run, began = client.app.state.database, type(client.app.state.database).run, list[str]()

    async def count(self: Any, statement: Any, values: Any) -> Any:
        if logs.request_id.get():  # what the server does beside requests is not counted
            began.append(statement.on(database.dialect).sql)
        return await run(self, statement, values)

    with monkeypatch.context() as patch:
        patch.setattr("app.engine.working.Worker.take", nothing)
        patch.setattr(type(database), "run", count)
        return act(), began


async def nothing(_worker: Any) -> None:
    return None


def asked_for_much(client: TestClient) -> Iterator[int]:
    """The statuses of three resets for ann and two for others, and of a sign-up with her address."""
    for name in ("ann", "ann", "ann", "bob", "cid"):
        yield client.post("/api/v1/users/password-reset", json={"email": f"{name}@example.com"}).status_code
    yield client.post("/api/v1/users", json=CID | {"email": "Ann@Example.com"}).status_code


def test_nobody_fills_somebodys_mailbox(box: Mailbox, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("app.accounts.limits.TO_ONE_ADDRESS", 2)
    # What one asks for does not keep another from asking for something else.
    assert [*asked_for_much(box.client)] == [202, 202, 429, 202, 202, 202]


def test_who_asks_for_many_mails_is_slowed_down(start: Callable[..., TestClient]):
    assert [*asked_for_much(start(sign_up_attempts=4))] == [202, 202, 202, 202, 429, 202]


# A forgotten password


@pytest.mark.promise("U20")
def test_a_forgotten_password_is_chosen_anew_by_mail(box: Mailbox, ann: Person):
    assert told(box.ask("Ann@Example.com ")) == (
        202,
        "If there is an account with that address, we have sent it a mail.",
    )
    assert box.subjects(1) == [("ann@example.com", "Choose a new password")]
    assert "for the account ann at https://app.example.com" in box.post.mails[0].get_content()
    assert ann.get("/users/me").json()["is_verified"] is False
    assert box.reset(box.secret()) == (204, None)
    assert ann.get("/users/me").status_code == 401
    assert (ann.log_in().status_code, ann.log_in(NEW).status_code) == (400, 200)
    assert ann.get("/users/me").json()["is_verified"] is True
    assert box.subjects(2)[1] == ("ann@example.com", "Your password was changed")


@pytest.mark.promise("U20")
@pytest.mark.parametrize("is_verified", [False, True])
def test_who_made_an_account_with_somebody_elses_address_keeps_nothing_of_it(
    box: Mailbox, ann: Person, is_verified: bool
):
    token = {"X-Token": ann.post("/machine_tokens", {"name": "backups"}).json()["token"]}
    if is_verified:
        ann.post("/users/me/verification")
        box.confirm(box.secret("confirm"))
    box.ask()
    assert box.reset(box.secret()) == (204, None)
    expected = 200 if is_verified else 401
    assert box.client.get("/api/v1/users/me", headers=token).status_code == expected


@pytest.mark.promise("U21")
def test_to_ask_for_it_tells_nobody_who_exists(box: Mailbox, ann: Person, monkeypatch: pytest.MonkeyPatch):
    there, of_ann = counted(box.client, monkeypatch, lambda: box.ask("ann@example.com"))
    missing, of_nobody = counted(box.client, monkeypatch, lambda: box.ask("nobody@example.com"))
    assert (there.status_code, there.content) == (missing.status_code, missing.content)
    assert of_ann == of_nobody
    assert len(of_ann) == 3  # two counts of attempts, and the job
    assert box.subjects(1) == [("ann@example.com", "Choose a new password")]


@pytest.mark.promise("U20")
def test_a_password_that_is_refused_leaves_the_link_as_it_was(box: Mailbox, ann: Person):
    box.ask()
    secret = box.secret()
    for bad in ("too short", "ann@example.com ann@example.com"):
        status, wrong = box.reset(secret, bad)
        assert (status, wrong[0]["loc"]) == (422, ["body", "new_password"])
    assert box.reset(secret) == (204, None)


@pytest.mark.promise("U22")
def test_a_link_works_once(box: Mailbox, ann: Person):
    box.ask()
    secret = box.secret()
    assert box.reset(secret) == (204, None)
    assert box.reset(secret, PASSWORD) == ENDED
    assert ann.log_in(NEW).status_code == 200


@pytest.mark.promise("U22")
def test_of_many_who_use_a_link_at_once_one_succeeds(box: Mailbox, ann: Person):
    box.ask()
    secret = box.secret()
    passwords = [f"{NEW} {number}" for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda password: box.reset(secret, password), passwords))
    assert sorted(answers, key=str) == [(204, None), *[ENDED] * 5]
    chosen = passwords[answers.index((204, None))]
    assert [ann.log_in(password).status_code for password in passwords] == [
        200 if password == chosen else 400 for password in passwords
    ]


@pytest.mark.promise("U22")
def test_a_link_is_for_one_purpose(box: Mailbox, ann: Person):
    box.ask()
    of_reset = box.secret()
    ann.post("/users/me/verification")
    of_verification = box.secret("confirm")
    assert box.confirm(of_reset) == box.reset(of_verification) == ENDED
    assert box.confirm(of_verification)[0] == 200
    assert box.reset(of_reset) == (204, None)


@pytest.mark.promise("U22")
def test_a_link_is_no_token_for_anything_else(box: Mailbox, ann: Person):
    box.ask()
    secret = box.secret()
    me = [{"Authorization": f"Bearer {secret}"}, {"X-Token": secret}]
    assert [box.client.get("/api/v1/users/me", headers=each).status_code for each in me] == [401, 401]
    form = {"grant_type": "refresh_token", "refresh_token": secret}
    assert box.client.post("/api/v1/token", data=form).status_code == 400


@pytest.mark.promise("U22")
@pytest.mark.parametrize("secret", ["x", "cadre-link_", "cadre-link_" + "A" * 43, "\u00e5" * 60, "' OR 1=1 --"])
def test_what_is_no_link_is_refused(box: Mailbox, ann: Person, secret: str):
    box.ask()
    box.settle()
    assert box.reset(secret) == box.confirm(secret) == ENDED


@pytest.mark.promise("U22")
def test_a_link_ends_after_its_time(box: Mailbox, ann: Person):
    box.ask()
    secret = box.secret()
    left = change_links(box.client, timedelta(minutes=-30))
    assert timedelta(minutes=29) < left < timedelta(minutes=30)
    assert box.reset(secret) == ENDED


def change_links(client: TestClient, by: timedelta) -> timedelta:
    """Let the only link expire earlier. How long it had."""
    with Session(client.app.state.session_engine) as session:
        link = session.exec(select(Link)).one()
        left = link.expires_at - utcnow()
        link.expires_at += by
        session.commit()
    return left


@pytest.mark.promise("U22")
def test_what_has_expired_is_forgotten(box: Mailbox, ann: Person):
    box.ask()
    box.settle()
    forget = lambda: box.client.portal.call(accounts.forget_expired_links, Caller(box.client.app.state.database))  # noqa: E731
    forget()
    change_links(box.client, timedelta(minutes=-30))
    forget()
    with Session(box.client.app.state.session_engine) as session:
        assert session.exec(select(Link)).all() == []


@pytest.mark.promise("U22")
def test_a_newer_link_takes_the_place_of_an_older_one(box: Mailbox, ann: Person):
    box.ask()
    older = box.secret()
    box.ask()
    newer = box.secret()
    assert box.reset(older) == ENDED
    assert box.reset(newer) == (204, None)


@pytest.mark.promise("U22")
def test_with_a_new_password_older_links_to_choose_one_are_void(box: Mailbox, ann: Person):
    box.ask()
    secret = box.secret()
    assert ann.patch("/users/me/password", {"current_password": PASSWORD, "new_password": NEW}).status_code == 204
    assert box.reset(secret, "four words that are old") == ENDED
    assert ann.log_in(NEW).status_code == 200


@pytest.mark.promise("U22")
@pytest.mark.parametrize("kind", ["reset", "confirm"])
def test_a_link_to_an_address_that_was_left_is_void(box: Mailbox, ann: Person, kind: str):
    assert (box.ask() if kind == "reset" else ann.post("/users/me/verification")).status_code == 202
    secret = box.secret(kind)
    assert ann.patch("/users/me", {"email": "new@example.com", "current_password": PASSWORD}).status_code == 200
    box.settle()
    if kind == "reset":
        assert box.reset(secret) == ENDED
    else:  # a newer one went to the new address
        assert box.confirm(secret) == ENDED
    assert ann.get("/users/me").json()["is_verified"] is False
    assert ann.log_in().status_code == 200


@pytest.mark.promise("U22")
def test_who_is_shut_out_gets_no_link_and_uses_none(box: Mailbox, ann: Person, root: Person):
    box.ask()
    secret = box.secret()
    root.post(f"/admin/users/{ann.id}/deactivate")
    assert box.reset(secret) == ENDED
    assert box.ask().status_code == 202
    box.subjects(1)


def test_the_database_does_not_know_the_secret(box: Mailbox, ann: Person):
    box.client.post("/api/v1/users", json=CID)
    secret = box.secret("confirm")
    with Session(box.client.app.state.session_engine) as session:
        (link,) = session.exec(select(Link)).all()
    assert secret.removeprefix("cadre-link_") not in repr(link)
    assert PASSWORD not in repr(link)
    assert link.data["hashed_password"].startswith("$bcrypt-sha256$")


# Signing up


@pytest.mark.promise("U23")
def test_where_mail_is_sent_an_account_is_there_when_its_address_is_confirmed(box: Mailbox, root: Person):
    answer = box.client.post("/api/v1/users", json=CID)
    assert told(answer) == (202, "We have sent a mail to that address. Open the link in it within 24 hours.")
    assert box.subjects(1) == [("cid@example.com", "Confirm your account")]
    cid = Person(box.client, "cid")
    assert cid.log_in().status_code == 400
    assert root.get("/admin/counts").json()["users"] == 1
    status, user = box.confirm(box.secret("confirm"))
    told_of = {name: user[name] for name in ("username", "email", "full_name", "is_verified", "is_superuser")}
    named = {"username": "cid", "email": "cid@example.com", "full_name": "Cid"}
    assert (status, told_of) == (200, named | {"is_verified": True, "is_superuser": False})
    assert cid.log_in().status_code == 200


@pytest.mark.promise("U06")
def test_signing_up_does_not_tell_whether_an_address_is_taken(
    box: Mailbox, ann: Person, monkeypatch: pytest.MonkeyPatch
):
    def act(email: str) -> Any:
        return lambda: box.client.post("/api/v1/users", json=CID | {"email": email})

    free, of_free = counted(box.client, monkeypatch, act("cid@example.com"))
    taken, of_taken = counted(box.client, monkeypatch, act("Ann@example.com"))
    assert (free.status_code, free.content) == (taken.status_code, taken.content)
    assert of_free == of_taken
    assert len(of_free) == 4  # is the name free, two counts of attempts, and the job
    assert box.subjects(2) == [
        ("ann@example.com", "You have an account already"),
        ("cid@example.com", "Confirm your account"),
    ]
    (about,) = [each.get_content() for each in box.post.mails if each["To"] == ann.email]
    assert "There is an account for it already: ann." in about
    assert "cadre-link_" not in about


def test_a_name_is_public_and_told_to_be_taken(box: Mailbox, ann: Person):
    assert told(box.client.post("/api/v1/users", json=CID | {"username": "Ann"})) == (409, "That username is taken.")
    box.subjects(0)


@pytest.mark.promise("U07")
@pytest.mark.parametrize("same", ["username", "email"])
def test_of_two_who_are_confirmed_with_one_name_or_address_one_succeeds(box: Mailbox, same: str):
    secrets = []
    for number in range(2):
        different = {"username": f"cid{number}", "email": f"cid{number}@example.com"}
        assert box.client.post("/api/v1/users", json=CID | different | {same: CID[same]}).status_code == 202
        secrets.append(box.secret("confirm"))
    with ThreadPoolExecutor(2) as pool:
        answers = sorted(pool.map(box.confirm, secrets), key=lambda answer: answer[0])
    assert [answers[0][0], answers[1]] == [200, (409, f"That {same} is taken.")]


def test_where_no_mail_is_sent_an_account_is_there_at_once(start: Callable[..., TestClient]):
    client = start(mail_url=SecretStr(""))
    assert client.post("/api/v1/users", json=CID).status_code == 201
    assert Person(client, "cid").log_in().status_code == 200


def test_nobody_gets_a_mail_where_registration_is_closed(start: Callable[..., TestClient], post: PostOffice):
    client = start(registration_open=False)
    assert client.post("/api/v1/users", json=CID).status_code == 403
    Mailbox(client, post).subjects(0)


# Whose an address is


@pytest.mark.promise("U24")
def test_users_confirm_their_address(box: Mailbox, ann: Person, root: Person):
    answer = ann.post("/users/me/verification")
    assert told(answer) == (202, "We have sent a mail to your address. Open the link in it within 24 hours.")
    assert box.subjects(1) == [("ann@example.com", "Confirm your address")]
    secret = box.secret("confirm")
    assert box.confirm(secret)[0] == 200
    assert box.confirm(secret) == ENDED
    assert ann.get("/users/me").json()["is_verified"] is True
    assert told(ann.post("/users/me/verification")) == (409, "Your address is confirmed already.")
    newest = root.get("/admin/history").json()[0]
    assert (newest["user_id"], newest["row_id"], newest["entity"]) == (ann.id, ann.id, "users")


@pytest.mark.promise("U24")
def test_a_new_address_is_not_confirmed_and_the_old_one_is_told(box: Mailbox, ann: Person):
    ann.post("/users/me/verification")
    box.confirm(box.secret("confirm"))
    changed = ann.patch("/users/me", {"email": "new@example.com", "current_password": PASSWORD}).json()
    assert (changed["email"], changed["is_verified"]) == ("new@example.com", False)
    assert box.subjects(3)[1:] == [
        ("ann@example.com", "Your address was changed"),
        ("new@example.com", "Confirm your address"),
    ]
    (link,) = [each.get_content() for each in box.post.mails if each["To"] == "new@example.com"]
    assert box.confirm(re.findall(r"cadre-link_[\w-]+", link)[0])[0] == 200
    assert ann.get("/users/me").json()["is_verified"] is True


def test_who_sends_the_address_they_have_stays_confirmed(box: Mailbox, ann: Person):
    ann.post("/users/me/verification")
    box.confirm(box.secret("confirm"))
    same = {"email": "Ann@example.com", "full_name": "Ann", "current_password": PASSWORD}
    changed = ann.patch("/users/me", same).json()
    assert (changed["full_name"], changed["is_verified"]) == ("Ann", True)
    box.subjects(1)


@pytest.mark.promise("U24", "U25")
def test_a_change_that_is_refused_tells_nobody(box: Mailbox, ann: Person, bob: Person):
    assert ann.patch("/users/me", {"email": bob.email, "current_password": PASSWORD}).status_code == 409
    assert ann.patch("/users/me/password", {"current_password": NEW, "new_password": NEW}).status_code == 403
    box.subjects(0)


@pytest.mark.promise("U24")
def test_a_new_password_is_told(box: Mailbox, ann: Person):
    ann.patch("/users/me/password", {"current_password": PASSWORD, "new_password": NEW})
    assert box.subjects(1) == [("ann@example.com", "Your password was changed")]


# Invitations


@pytest.mark.parametrize("by", ["a superuser", "the command line"])
def test_who_is_invited_chooses_the_first_password(
    box: Mailbox, settings: Settings, monkeypatch: pytest.MonkeyPatch, by: str
):
    root, ann = sign_up(box.client, "root", is_superuser=True), Person(box.client, "ann")
    if by == "a superuser":
        answer = root.post("/admin/invitations", {"username": "Ann", "email": ann.email})
        assert (answer.status_code, answer.headers["Location"]) == (201, f"/api/v1/users/{answer.json()['id']}")
    else:
        monkeypatch.setattr(user_commands, "get_settings", lambda: settings)
        invited = CliRunner().invoke(cli.main, ["user", "invite", "Ann", ann.email])
        assert "ann is invited: a mail goes to ann@example.com." in invited.output
    assert box.subjects(1) == [("ann@example.com", "You have an account")]
    secret = box.secret()
    assert [ann.log_in(password).status_code for password in (PASSWORD, "-", secret)] == [400] * 3
    assert box.reset(secret) == (204, None)
    assert ann.log_in(NEW).status_code == 200
    me = ann.get("/users/me").json()
    assert (me["is_verified"], me["is_superuser"]) == (True, False)
    assert box.reset(secret) == ENDED


def test_nobody_is_invited_twice_or_without_a_superuser(box: Mailbox, ann: Person):
    root = sign_up(box.client, "root", is_superuser=True)
    assert ann.post("/admin/invitations", {"username": "cid", "email": "cid@example.com"}).status_code == 403
    for name, email in (("ANN", "cid@example.com"), ("cid", "Ann@example.com")):
        assert root.post("/admin/invitations", {"username": name, "email": email}).status_code == 409
    box.settle()
    assert box.post.mails == []


# Without mail


def test_where_no_mail_is_sent_nobody_is_told_to_wait_for_one(start: Callable[..., TestClient]):
    client = start(mail_url=SecretStr(""))
    ann = sign_up(client, "ann")
    assert told(client.post("/api/v1/users/password-reset", json={"email": ann.email})) == NO_MAIL
    assert told(ann.post("/users/me/verification")) == NO_MAIL
    root = sign_up(client, "root", is_superuser=True)
    refused = told(root.post("/admin/invitations", {"username": "cid", "email": "cid@example.com"}))
    assert refused == (409, "This server sends no mails: create the account instead, and tell its user the password.")
    assert root.get("/admin/counts").json()["users"] == 2
    assert ann.patch("/users/me", {"email": "new@example.com", "current_password": PASSWORD}).status_code == 200
    assert ann.patch("/users/me/password", {"current_password": PASSWORD, "new_password": NEW}).status_code == 204
    assert client.portal.call(jobs.list_jobs, client.app.state.database)[1] == 0
