"""A password is long, is none that everybody uses, holds no name, and is the same in whichever form it is typed."""

import time
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from zxcvbn.frequency_lists import FREQUENCY_LISTS

from app import accounts
from app.accounts.passwords import ADVICE, is_common
from app.engine.caller import Caller
from app.models import AccountCreate
from app.settings import Settings
from tests.conftest import PASSWORD, Person

OTHER = "four other words together"


def ask_to_sign_up(client: TestClient, password: str, **changes: str) -> Any:
    body = {"username": "archer", "email": "ann.archer@example.com", "password": password}
    return client.post("/api/v1/users", json=body | changes)


def fault(answer: Any, field: str = "password") -> str:
    """What is wrong with the password in that request: nothing else is."""
    assert answer.status_code == 422
    (wrong,) = answer.json()["detail"]
    assert (wrong["loc"], set(wrong)) == (["body", field], {"loc", "msg", "type"})
    return str(wrong["msg"])


COMMON = "That is one of the first that somebody would try. " + ADVICE
HOLDS_NAME = "Leave out your name, your address and ours. " + ADVICE

# What everybody uses


EVERYBODYS = [
    *("password", "12345678", "qwertyuiop", "iloveyou", "sunshine", "football", "princess", "trustno1", "1q2w3e4r5t"),
    *("PASSWORD", "PassWord", "drowssap", "p@ssw0rd", "\uff50\uff41\uff53\uff53\uff57\uff4f\uff52\uff44"),
    *("password1", "Password123!", "Password1234567", "administrator123", "summer2024", "12345678password"),
    *("passwordpassword", "password" * 5, "iloveyouiloveyouiloveyou", "abcabcabcabcabcabc", "hunter2hunter2hunter2"),
    *("aaaaaaaaaaaaaaaa", "a" * 40, "123456789012345", "abcdefghijklmnop", "qwertyuiopasdfgh", "1qaz2wsx3edc4rfv"),
    *(" " * 16, "password" + " " * 16, "    password    ", "\u3000" * 8 + "password"),
]


@pytest.mark.promise("P07")
def test_what_everybody_uses_is_refused_however_it_is_written(start: Callable[..., TestClient]):
    client = start(password_min_length=8, sign_up_attempts=1000)
    faults = {password: fault(ask_to_sign_up(client, password)) for password in EVERYBODYS}
    assert faults == dict.fromkeys(EVERYBODYS, COMMON)


@pytest.mark.once
@pytest.mark.promise("P07")
def test_of_the_three_thousand_that_are_used_most_none_is_accepted():
    most_used = [password for password in FREQUENCY_LISTS["passwords"][:3000] if len(password) >= 8]
    assert len(most_used) == 832
    assert [password for password in most_used if not is_common(password)] == []


@pytest.mark.promise("P06", "P07")
@pytest.mark.parametrize(
    "password",
    [
        *("correct horse battery staple", "my dog has fleas today", "fifteen letters", "qpwmzbxn tuvyglcs"),
        *(
            "7f3kd9wq1zx8m2vp",
            "\u6b63\u3057\u3044\u99ac\u306e\u96fb\u6c60\u306e\u30db\u30c1\u30ad\u30b9\u3067\u3059\u3002\u3002",
        ),
    ],
)
def test_what_nobody_would_try_is_accepted_of_whatever_kind(client: TestClient, password: str):
    assert ask_to_sign_up(client, password).status_code == 201


def test_eight_characters_are_enough_where_that_is_set_and_chance_made_them(start: Callable[..., TestClient]):
    client = start(password_min_length=8)
    assert fault(ask_to_sign_up(client, "xK9#mQ2")) == f"Take at least 8 characters. {ADVICE}"
    assert ask_to_sign_up(client, "xK9#mQ2p").status_code == 201


@pytest.mark.once
def test_to_look_at_a_longer_password_takes_longer_but_not_by_much():
    # zxcvbn tries what each sign could stand for: of 60 such together it would think for a second.
    def seconds(password: str) -> float:
        before = time.thread_time()
        is_common(password)
        return time.thread_time() - before

    signs = "4@8({[<3691!|7$502%+"
    assert seconds(signs + signs[::-1] + signs[10:] + signs[:10]) < 6 * min(seconds(signs) for _ in range(3))
    assert seconds(signs * 50) + seconds("a" * 1000) < seconds(signs)


@pytest.mark.promise("P07", "P12")
def test_a_new_password_is_no_common_one_either(ann: Person):
    def change_to(password: str) -> Any:
        return ann.patch("/users/me/password", {"current_password": PASSWORD, "new_password": password})

    assert fault(change_to("passwordpassword"), "new_password") == COMMON
    assert fault(change_to("ann@example.com is me"), "new_password") == HOLDS_NAME
    assert ann.get("/users/me").status_code == 200
    assert change_to(OTHER).status_code == 204


def test_superusers_give_nobody_a_common_password(root: Person):
    cid = {"username": "cid", "email": "cid@example.com"}
    assert fault(root.post("/admin/users", cid | {"password": "passwordpassword"})) == COMMON
    assert root.post("/admin/users", cid | {"password": ""}).status_code == 422  # nor is one generated then
    assert root.post("/admin/users", cid | {"password": OTHER}).status_code == 201


def test_a_generated_password_is_a_good_one(client: TestClient):
    passwords = [accounts.new_password() for _ in range(100)]
    assert [password for password in passwords if is_common(password)] == []
    data = AccountCreate(username="root", email="root@example.com", is_superuser=True)

    async def create() -> str | None:
        state = client.app.state  # type: ignore[attr-defined]
        return (await accounts.create_account(Caller(state.database), state.hasher, data)).password

    assert client.portal
    generated = client.portal.call(create)
    assert Person(client, "root").log_in(str(generated)).status_code == 200


# Names


@pytest.mark.promise("P08")
@pytest.mark.parametrize(
    "password",
    [
        *(
            "archer and three words",
            "Three ARCHERs together",
            "three\uff21\uff32\uff23\uff28\uff25\uff32words together",
        ),
        *("ann.archer@example.com", "so: Ann.Archer@Example.com", "ann.archer is my name", "a cadre of fine people"),
    ],
)
def test_a_password_holds_no_name_of_its_owner_or_of_the_service(client: TestClient, password: str):
    assert fault(ask_to_sign_up(client, password)) == HOLDS_NAME


@pytest.mark.promise("P08")
def test_a_name_of_three_letters_is_in_many_words(client: TestClient):
    assert ask_to_sign_up(client, "an annex with banners", username="ann", email="ann@example.com").status_code == 201


# How long


@pytest.mark.promise("P01", "P02")
def test_how_long_a_password_must_be_is_told_before_and_after(start: Callable[..., TestClient], client: TestClient):
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    told = [schemas["UserCreate"]["properties"]["password"], schemas["PasswordChange"]["properties"]["new_password"]]
    assert [(field["minLength"], field["maxLength"]) for field in told] == [(15, 1000)] * 2
    for password in ("fourteen of it", "short", ""):
        assert fault(ask_to_sign_up(client, password)) == f"Take at least 15 characters. {ADVICE}"
    longer = start(password_min_length=20)
    assert fault(ask_to_sign_up(longer, "fifteen letters")) == f"Take at least 20 characters. {ADVICE}"


@pytest.mark.once
@pytest.mark.parametrize("length", [7, 0, 65])
def test_no_setting_makes_a_password_shorter_than_eight(length: int):
    with pytest.raises(ValueError, match="password_min_length"):
        Settings(password_min_length=length)


def test_an_accent_does_not_make_a_password_longer(client: TestClient):
    seven = unicodedata.normalize("NFD", "\u00e9\u00e8\u00ea\u00eb\u00e0\u00e2\u00fc")
    assert len(seven + seven[:1]) == 15
    assert fault(ask_to_sign_up(client, seven + seven[:1])).startswith("Take at least 15 characters.")


@pytest.mark.promise("P11")
def test_what_grows_when_it_is_composed_is_refused_as_quickly(client: TestClient, ann: Person):
    start = time.monotonic()
    assert fault(ask_to_sign_up(client, "\ufdfa" * 1000)) == "Take at most 1000 characters."  # it would be 18,000
    assert ann.log_in("\ufdfa" * 1000).status_code == 400
    for password in ("\u0301\u0327" * 30_000, "\ufdfa" * 30_000):
        assert ask_to_sign_up(client, password).status_code == 422
        assert ann.log_in(password).status_code in (400, 413)
    assert time.monotonic() - start < 2


# One form


@pytest.mark.promise("P16")
@pytest.mark.parametrize(
    ("set_", "typed"),
    [
        ("sch\u00f6ne gr\u00fc\u00dfe aus k\u00f6ln", "scho\u0308ne gru\u0308\u00dfe aus ko\u0308ln"),
        ("scho\u0308ne gru\u0308\u00dfe aus ko\u0308ln", "sch\u00f6ne gr\u00fc\u00dfe aus k\u00f6ln"),
        ("\uff46our plain words apart", "four plain words apart"),
        ("\ufb01ve plain words apart", "five plain words apart"),
    ],
)
def test_a_password_is_right_in_whichever_form_it_is_typed(client: TestClient, set_: str, typed: str):
    assert ask_to_sign_up(client, set_).status_code == 201
    archer = Person(client, "archer")
    assert (archer.log_in(set_).status_code, archer.log_in(typed).status_code) == (200, 200)
    change = {"current_password": typed, "new_password": OTHER}
    assert archer.patch("/users/me/password", change).status_code == 204


@pytest.mark.promise("P09", "P16")
@pytest.mark.parametrize("typed", ["Stra\u00dfe zum bahnhof", "strasse zum bahnhof", "stra\u00dfe  zum bahnhof"])
def test_what_is_another_word_to_a_person_is_another_password(client: TestClient, typed: str):
    assert ask_to_sign_up(client, "stra\u00dfe zum bahnhof").status_code == 201
    assert Person(client, "archer").log_in(typed).status_code == 400
