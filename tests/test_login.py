"""A login lasts a quarter of an hour, and no longer than the account stands as it did. Whatever else is sent is 401."""

import asyncio
import base64
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from jose import jws, jwt
from passlib.hash import bcrypt, bcrypt_sha256, django_pbkdf2_sha256
from sqlmodel import Session, select

from app import crud
from app.engine.caller import Caller
from app.models import User
from app.security import key_id
from app.settings import Settings
from tests.conftest import PASSWORD, Person, sign_up

NOT_VALID = 'Bearer error="invalid_token"'
REFUSED = {
    "error": "invalid_grant",
    "error_description": "Wrong username or password.",
    "detail": "Wrong username or password.",
}


def log_in(client: TestClient, **form: str) -> Any:
    return client.post("/api/v1/token", data={"username": "ann", "password": PASSWORD} | form)


def me(client: TestClient, token: str | bytes, scheme: str = "Bearer") -> Any:
    raw = token if isinstance(token, bytes) else token.encode()
    return client.get("/api/v1/users/me", headers={"Authorization": scheme.encode() + b" " + raw})


def token_of(person: Person) -> str:
    assert person.headers
    return person.headers["Authorization"].removeprefix("Bearer ")


def run(client: TestClient, act: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """What the application itself does, whoever may call it over HTTP."""

    async def call() -> Any:
        return await act(Caller(client.app.state.database), *args, **named)

    return client.portal.call(call)


def stored(client: TestClient, table: Any) -> Any:
    with Session(client.app.state.session_engine) as session:
        return session.exec(select(table)).one()


# Logging in


@pytest.mark.promise("A01", "A02")
def test_the_right_password_is_answered_with_a_token(client: TestClient, ann: Person):
    response = log_in(client)
    assert response.status_code == 200
    assert response.json() == {
        "access_token": response.json()["access_token"],
        "token_type": "bearer",
        "expires_in": 900,
        "refresh_token": response.json()["refresh_token"],
        "scope": response.json()["scope"],
    }
    assert response.headers["Cache-Control"] == "no-store"
    assert me(client, response.json()["access_token"]).json()["id"] == ann.id


@pytest.mark.promise("U02")
@pytest.mark.parametrize("name", ["ann", "ANN", " Ann ", "ann@example.com", "Ann@Example.COM", " ann@example.com "])
def test_the_name_or_the_address_is_right_in_any_case(client: TestClient, ann: Person, name: str):
    assert log_in(client, username=name).status_code == 200


@pytest.mark.promise("A03", "A04")
def test_a_wrong_password_and_an_unknown_name_are_refused_alike(client: TestClient, ann: Person):
    wrong, unknown, address = (
        log_in(client, password="four plain words apart"),
        log_in(client, username="nobody"),
        log_in(client, username="nobody@example.com"),
    )
    assert (wrong.status_code, wrong.json()) == (400, REFUSED)
    assert wrong.content == unknown.content == address.content
    assert wrong.status_code == unknown.status_code == address.status_code
    assert wrong.headers["Content-Type"] == "application/json"
    assert wrong.headers["Cache-Control"] == "no-store"


@pytest.mark.promise("A05")
def test_how_long_a_refusal_takes_does_not_tell_who_has_an_account(start: Callable[..., TestClient]):
    client = start(bcrypt_rounds=8)  # a hash takes ten times as long as all the rest
    root = sign_up(client, "root", is_superuser=True)
    root.post(f"/admin/users/{sign_up(client, 'bob').id}/deactivate")

    def lane() -> float:
        """The seconds that hashing has cost so far: unlike a clock, it does not care what else the machine does."""
        return client.app.state.hasher._executor.submit(time.thread_time).result()

    def cost(username: str) -> float:
        before = lane()
        assert log_in(client, username=username, password="wrong").status_code == 400
        return lane() - before

    costs = [cost(username) for username in ("root", "bob", "nobody", "nobody@example.com")]
    assert 0.001 < max(costs) < 2 * min(costs)


@pytest.mark.promise("A23", "A24")
def test_a_deactivated_user_is_out_at_once(client: TestClient, ann: Person, root: Person):
    root.post(f"/admin/users/{ann.id}/deactivate")
    response = log_in(client)
    assert (response.status_code, response.json()) == (400, REFUSED)
    answers = [ann.get("/users/me"), ann.get("/items"), ann.post("/items", {"title": "Foo"}), ann.get("/admin/counts")]
    assert [(answer.status_code, answer.headers["WWW-Authenticate"]) for answer in answers] == [(401, NOT_VALID)] * 4


def test_a_user_deactivated_by_hand_is_out_as_well(client: TestClient, ann: Person):
    # Nobody ended her session here: each statement asks whether she is active.
    x_token = ann.post("/machine_tokens", {"name": "tests"}).json()["token"]
    run(client, crud.users.update, ann.id, is_active=False)
    by_machine = client.get("/api/v1/users/me", headers={"X-Token": x_token})
    answers = [by_machine, ann.get("/users/me"), ann.post("/items", {"title": "Foo"}), ann.get("/items")]
    assert [answer.status_code for answer in answers] == [401] * 4


@pytest.mark.promise("A32")
def test_a_demoted_superuser_is_one_no_longer_at_once(ann: Person, root: Person):
    ann.post("/items", {"title": "Foo"})
    root.post(f"/admin/users/{ann.id}/promote")
    ann.log_in()
    assert ann.post(f"/admin/users/{root.id}/demote").status_code == 200
    assert root.get("/admin/counts").status_code == root.get("/users").status_code == 403
    assert root.get("/items").json() == []
    assert root.get("/items/1").status_code == root.get(f"/users/{ann.id}").status_code == 404


def test_a_promoted_user_is_a_superuser_at_once(ann: Person, root: Person):
    item = root.post("/items", {"title": "Foo"}).json()
    mine = ann.post("/items", {"title": "Bar"}).json()
    root.post(f"/admin/users/{ann.id}/promote")
    # With the token from before.
    assert ann.get("/items").json() == [mine, item]
    assert ann.get("/items/1").json() == item
    assert ann.get("/admin/counts").status_code == 200


# OAuth2's own rules (RFC 6749)

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.mark.promise("A04", "A40", "P11")
@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({"json": {"username": "ann", "password": PASSWORD}}, "invalid_request"),
        ({}, "invalid_request"),
        ({"content": b"\xff\x00"}, "invalid_request"),
        ({"content": b"a=&" * 2000, "headers": FORM}, "invalid_request"),
        ({"content": b"--x", "headers": {"Content-Type": "multipart/form-data"}}, "invalid_request"),
        ({"params": {"username": "ann", "password": PASSWORD}}, "invalid_request"),
        ({"data": {"username": "ann"}}, "invalid_request"),
        ({"data": {"password": PASSWORD}}, "invalid_request"),
        ({"data": {"username": "", "password": ""}}, "invalid_request"),
        ({"data": {"username": "x" * 255, "password": PASSWORD}}, "invalid_request"),
        ({"data": {"username": "ann", "password": "x" * 1001}}, "invalid_request"),
        ({"files": {"username": b"ann", "password": b"x"}}, "invalid_request"),
        ({"data": {"username": "ann", "password": PASSWORD, "grant_type": "x" * 65}}, "invalid_request"),
        ({"data": {"username": "ann", "password": PASSWORD, "grant_type": "refresh_token"}}, "invalid_request"),
        ({"data": {"username": "ann", "password": PASSWORD, "grant_type": "Password"}}, "unsupported_grant_type"),
        ({"data": {"username": "ann", "password": "wrong", "grant_type": "password"}}, "invalid_grant"),
    ],
)
def test_a_refused_grant_speaks_oauth2(client: TestClient, ann: Person, request_: dict[str, Any], error: str):
    response = client.post("/api/v1/token", **request_)
    assert (response.status_code, response.headers["Content-Type"]) == (400, "application/json")
    assert set(response.json()) == {"error", "error_description", "detail"}
    assert response.json()["error"] == error
    assert PASSWORD not in response.text


@pytest.mark.parametrize("grant_type", ["password", ""])
def test_what_a_client_library_adds_is_accepted(client: TestClient, ann: Person, grant_type: str):
    extra = {"scope": "", "client_id": "web", "client_secret": "x", "audience": "cadre", "state": "1"}
    assert log_in(client, grant_type=grant_type, **extra).status_code == 200


def test_the_short_address_logs_in_too_and_is_not_in_the_schema(client: TestClient, ann: Person):
    response = client.post("/token", data={"username": "ann", "password": PASSWORD})
    assert me(client, response.json()["access_token"]).status_code == 200
    schema = client.get("/openapi.json").json()
    assert [path for path in schema["paths"] if path.endswith("/token")] == ["/api/v1/token"]
    flow = schema["components"]["securitySchemes"]["Login"]["flows"]["password"]
    assert client.post(flow["tokenUrl"], data={"username": "ann", "password": PASSWORD}).status_code == 200


# What a token is


@pytest.mark.promise("A18", "A19", "A20")
def test_a_token_says_who_for_what_and_how_long_and_nothing_personal(client: TestClient, ann: Person):
    ann.patch("/users/me", {"full_name": "Ann Archer"})
    claims = jwt.get_unverified_claims(token_of(ann))
    assert set(claims) == {"iss", "aud", "sub", "iat", "exp", "jti", "purpose", "role", "sid", "stamp"}
    named = {name: claims[name] for name in ("iss", "aud", "sub", "purpose", "role")}
    assert named == {"iss": "cadre", "aud": "cadre", "sub": f"user:{ann.id}", "purpose": "access", "role": "user"}
    assert claims["exp"] - claims["iat"] == 900
    assert claims["jti"] != jwt.get_unverified_claims(log_in(client).json()["access_token"])["jti"]
    said = json.dumps({**claims, "jti": ""}).lower()  # by chance its letters can be a name
    assert [word for word in ("ann", "archer", "example.com", "bcrypt", "$2b") if word in said] == []


@pytest.mark.promise("A06", "A08")
def test_no_token_and_a_bad_one_are_challenged_each_in_its_way(client: TestClient):
    none, bad = client.get("/api/v1/users/me"), me(client, "garbage")
    assert (none.status_code, none.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert (bad.status_code, bad.headers["WWW-Authenticate"]) == (401, NOT_VALID)
    assert bad.headers["Content-Type"] == "application/problem+json"


@pytest.mark.promise("A34")
@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "BeArEr"])
def test_the_scheme_is_right_in_any_case(client: TestClient, ann: Person, scheme: str):
    assert me(client, token_of(ann), scheme).status_code == 200


@pytest.mark.parametrize("scheme", ["Basic", "Token", "JWT", "Bearer:", ""])
def test_another_scheme_is_no_login(client: TestClient, ann: Person, scheme: str):
    assert me(client, token_of(ann), scheme).status_code == 401


@pytest.mark.promise("A33")
@pytest.mark.parametrize("name", ["access_token", "token", "authorization", "Authorization", "bearer", "x-token"])
def test_a_token_in_the_address_or_a_cookie_is_no_login(client: TestClient, ann: Person, name: str):
    # Addresses stand in logs and histories; cookies are sent for whoever asks.
    assert client.get("/api/v1/users/me", params={name: token_of(ann)}).status_code == 401
    assert client.get("/api/v1/users/me", headers={"Cookie": f"{name}={token_of(ann)}"}).status_code == 401


# Tokens that lie (RFC 8725)


def b64(text: str | bytes) -> str:
    raw = text if isinstance(text, bytes) else text.encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


GARBAGE = {
    **{"dots": "...", "two dots": "..", "three words": "a.b.c", "two words": "a.b", "null": "null", "spaces": "a b c"},
    **{
        "long": "a" * 10_000,
        "long parts": ".".join(["a" * 3000] * 3),
        "many dots": "." * 5000,
        "bytes": b"\xff\xfe\xe9",
    },
    **{"base64 of nothing": f"{b64('')}.{b64('')}.{b64('')}", "header is null": f"{b64('null')}.{b64('{}')}.x"},
    **{"header is a list": f"{b64('[]')}.{b64('{}')}.x", "header is text": f"{b64(chr(34) * 2)}.{b64('{}')}.x"},
    **{"header is no UTF-8": f"{b64(bytes([255, 254]))}.{b64('{}')}.x", "deep header": f"{b64('[' * 20_000)}.e30.x"},
    **{"no algorithm": f"{b64('{}')}.{b64('{}')}.x", "NaN": f"{b64('NaN')}.{b64('NaN')}.x"},
    **{"algorithm is a list": f"{b64(json.dumps({'alg': ['HS256'], 'typ': 'JWT'}))}.e30.x"},
    **{"payload is missing": f"{b64(json.dumps({'alg': 'HS256', 'typ': 'JWT'}))}..x"},
}


@pytest.mark.promise("A07", "A08")
def test_garbage_is_no_token(client: TestClient):
    answers = {name: me(client, garbage) for name, garbage in GARBAGE.items()}
    challenges = {
        name: (answer.status_code, answer.headers.get("WWW-Authenticate")) for name, answer in answers.items()
    }
    assert challenges == dict.fromkeys(GARBAGE, (401, NOT_VALID))


CUTS: dict[str, Callable[[str], str]] = {
    "no signature": lambda token: token.rpartition(".")[0],
    "empty signature": lambda token: token.rpartition(".")[0] + ".",
    "half a signature": lambda token: token[:-20],
    "something after it": lambda token: token + ".x",
    "twice": lambda token: f"{token}, {token}",
    "upper case": str.upper,
    "another signature": lambda token: token[:-10] + token[-10:].swapcase(),
}


@pytest.mark.promise("A10")
def test_a_token_cut_or_mended_is_none(client: TestClient, ann: Person):
    statuses = {name: me(client, cut(token_of(ann))).status_code for name, cut in CUTS.items()}
    assert statuses == dict.fromkeys(CUTS, 401)


def test_a_token_has_one_spelling(client: TestClient, ann: Person):
    # python-jose skips what is not base64: each spelling would be remembered, as long as the client likes.
    assert [me(client, f"{token_of(ann)}{more}").status_code for more in ("", "!!!!", "=" * 60_000)] == [200, 401, 401]


@pytest.mark.promise("A09")
def test_a_token_that_names_no_algorithm_is_none(client: TestClient, ann: Person):
    _, payload, signature = token_of(ann).split(".")
    spellings = ("none", "None", "NONE", "nOnE", "", None, "HS256 ", "hs256")
    headers = [b64(json.dumps({"alg": spelling, "typ": "JWT"})) for spelling in spellings]
    tokens = [f"{header}.{payload}.{end}" for header in headers for end in ("", signature)]
    assert [me(client, token).status_code for token in tokens] == [401] * 16


@pytest.mark.promise("A10")
@pytest.mark.parametrize("claims", [{"role": "superuser"}, {"sub": "user:2"}, {"exp": 2**33}, {"stamp": "0"}])
def test_claims_that_were_changed_are_not_believed(
    client: TestClient, ann: Person, root: Person, claims: dict[str, Any]
):
    header, _, signature = token_of(ann).split(".")
    payload = b64(json.dumps(jwt.get_unverified_claims(token_of(ann)) | claims))
    assert me(client, f"{header}.{payload}.{signature}").status_code == 401


def encode(claims: dict[str, Any], settings: Settings, algorithm: str = "HS256", **header: Any) -> str:
    """What our key signs, whatever it says."""
    key = settings.secret_key.get_secret_value()
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": key_id(key), **header})


@pytest.fixture
def forge(settings: Settings, ann: Person) -> Callable[..., str]:
    """Ann's token, signed with the right key after some changes: what is wrong with it, the signature does not tell."""

    def forge(**changes: Any) -> str:
        claims = jwt.get_unverified_claims(token_of(ann)) | changes
        claims = {name: value for name, value in claims.items() if value is not None}
        return encode(claims, settings)

    return forge


def test_a_token_signed_with_our_key_is_believed(client: TestClient, forge: Callable[..., str]):
    # Otherwise the refusals below would prove nothing.
    assert me(client, forge()).status_code == me(client, forge(jti="another")).status_code == 200


@pytest.mark.promise("A11")
def test_a_token_signed_with_a_well_known_key_is_refused(client: TestClient, ann: Person):
    claims, header = jwt.get_unverified_claims(token_of(ann)), jwt.get_unverified_header(token_of(ann))
    keys, ids = ("", "secret", "changethis", "changeme", "cadre", "\x00"), (header["kid"], "")
    tokens = [jwt.encode(claims, key, headers={"kid": kid or key_id(key)}) for key in keys for kid in ids]
    assert [me(client, token).status_code for token in tokens] == [401] * 12


@pytest.mark.promise("A12")
@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_the_algorithm_is_pinned(client: TestClient, ann: Person, settings: Settings, algorithm: str):
    claims = jwt.get_unverified_claims(token_of(ann))
    assert me(client, encode(claims, settings, algorithm)).status_code == 401


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"]},
        {"crit": []},
        {"kid": "1"},
        {"kid": None},
        {"kid": ["1"]},
        {"jku": "https://example.com"},
        {"typ": "at+jwt"},
        {"b64": False},
    ],
)
def test_a_header_that_is_not_ours_is_refused(
    client: TestClient, ann: Person, settings: Settings, header: dict[str, Any]
):
    claims = jwt.get_unverified_claims(token_of(ann))
    assert me(client, encode(claims, settings, **header)).status_code == 401


@pytest.mark.promise("A13")
def test_a_token_without_one_of_its_claims_is_refused(client: TestClient, forge: Callable[..., str]):
    claims = ("exp", "iat", "sub", "aud", "iss", "purpose", "sid", "stamp", "role")
    assert {claim: me(client, forge(**{claim: None})).status_code for claim in claims} == dict.fromkeys(claims, 401)


INFINITE = (float("inf"), float("-inf"), float("nan"))  # what JSON's 1e400 is read as
LIES = {
    "purpose": ("refresh", "reset", "Access", "", ["access"], 1),
    "aud": ("other", "", "CADRE", ["other"], 1, {}),
    "iss": ("other", "", ["other"], 1),
    "sub": (
        *(
            "machine:1",
            "1",
            "user:x",
            "user:",
            "user",
            "",
            "user:1:2",
            "User:1",
            "user:0",
            "user:-1",
            "user:77",
            "user:1.0",
        ),
        *("user:NaN", f"user:{2**63}", f"user:{2**64}", f"user:{'9' * 5000}", 1, True, ["user:1"], {"user": 1}, 1.5),
    ),
    "sid": ("0", "-1", "77", "x", "", str(2**63), "9" * 5000, [], {}, 1, None, 1e300, *INFINITE),
    "stamp": ("1", "0", "-1", "x", "", str(2**63), "9" * 5000, [], {}, 1e300, *INFINITE),
    "exp": (0, -1, "x", "", [], {}, "1e400", *INFINITE),
    "iat": (2**33, "x", [], {}, "1e400", *INFINITE),
    "nbf": (2**33, "x", [], {}, "1e400", *INFINITE),
}


@pytest.mark.promise("A13", "A17")
@pytest.mark.parametrize("claim", LIES)
def test_a_claim_that_is_not_ours_is_refused(client: TestClient, forge: Callable[..., str], claim: str):
    answers = [(lie, me(client, forge(**{claim: lie}))) for lie in LIES[claim]]
    assert [(str(lie)[:40], answer.status_code) for lie, answer in answers if answer.status_code != 401] == []
    assert {answer.headers["WWW-Authenticate"] for _, answer in answers} == {NOT_VALID}


@pytest.mark.promise("A14")
@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_a_token_from_the_future_is_refused(client: TestClient, forge: Callable[..., str], claim: str):
    now = int(time.time())
    assert me(client, forge(**{claim: now + 3600}, exp=now + 7200)).status_code == 401


@pytest.mark.promise("A13")
def test_a_token_ends_with_its_last_second(client: TestClient, forge: Callable[..., str]):
    now = int(time.time())
    assert me(client, forge(iat=now - 890, exp=now + 10)).status_code == 200
    assert me(client, forge(iat=now - 901, exp=now - 1)).status_code == 401


@pytest.mark.promise("A13")
def test_a_signed_payload_of_another_kind_is_refused(client: TestClient, ann: Person, settings: Settings):
    key = settings.secret_key.get_secret_value()
    payloads = (b"", b"null", b"[]", b'"user:1"', b"1", b"\xff", b"[" * 20_000, b'{"exp": 1e400}')
    header = {"kid": key_id(key)}
    tokens = [jws.sign(payload, key, headers=header, algorithm="HS256") for payload in payloads]
    assert [me(client, token).status_code for token in tokens] == [401] * 8


# What is stored


CHEAP: dict[str, Any] = {
    "bcrypt_sha256": bcrypt_sha256.using(rounds=4),
    "bcrypt": bcrypt.using(rounds=4),
    "django": django_pbkdf2_sha256.using(rounds=10),
}


@pytest.mark.promise("F08")
@pytest.mark.parametrize("scheme", ["bcrypt", "django"])
def test_a_hash_from_elsewhere_is_accepted_and_upgraded(client: TestClient, ann: Person, scheme: str):
    run(client, crud.users.update, ann.id, hashed_password=CHEAP[scheme].hash(PASSWORD))
    assert log_in(client, password="wrong").status_code == 400
    assert log_in(client).status_code == 200
    hashed = stored(client, User).hashed_password
    assert hashed.startswith("$bcrypt-sha256$v=2,")
    assert bcrypt_sha256.verify(PASSWORD, hashed)
    # Nothing else has changed: not the password, and no token ends.
    assert log_in(client).status_code == ann.get("/users/me").status_code == 200
    assert stored(client, User).hashed_password == hashed


@pytest.mark.parametrize("scheme", CHEAP)
def test_a_password_with_nul_after_it_is_another(client: TestClient, ann: Person, scheme: str):
    # It ends a password for bcrypt, and is only padding for PBKDF2.
    run(client, crud.users.update, ann.id, hashed_password=CHEAP[scheme].hash(PASSWORD))
    assert log_in(client, password=f"{PASSWORD}\x00").json() == REFUSED
    assert log_in(client).status_code == 200


@pytest.mark.parametrize(
    "hashed",
    ["", "!", "x", PASSWORD, "$2b$12$short", "$2b$99$" + "." * 53, "pbkdf2_sha256$x$y$z", "$bcrypt-sha256$", "a" * 255],
)
def test_what_is_stored_and_is_no_hash_lets_nobody_in(client: TestClient, ann: Person, hashed: str):
    run(client, crud.users.update, ann.id, hashed_password=hashed)
    assert [log_in(client, password=password).status_code for password in (PASSWORD, hashed or "x", "!")] == [400] * 3


# The hashing lane


@pytest.mark.promise("R15")
def test_when_too_many_log_in_at_once_the_rest_goes_on(
    client: TestClient, ann: Person, monkeypatch: pytest.MonkeyPatch
):
    gate, hasher = threading.Event(), client.app.state.hasher

    async def wait_in_the_lane() -> None:
        with hasher.place():
            await hasher._run(gate.wait)

    for _ in range(17):
        client.portal.start_task_soon(wait_in_the_lane)
    client.portal.call(asyncio.sleep, 0)
    try:
        assert ann.get("/users/me").status_code == 200
        assert ann.post("/items", {"title": "Foo"}).status_code == 201
        with monkeypatch.context() as without:
            # What cannot be served must cost the database nothing either.
            without.setitem(client.app.state._state, "database", None)
            change = {"current_password": PASSWORD, "new_password": PASSWORD}
            signup = {"username": "bob", "email": "bob@example.com", "password": PASSWORD}
            answers = [log_in(client), log_in(client, username="nobody"), ann.post("/users", signup)]
            answers.append(ann.patch("/users/me/password", change))
        assert [(answer.status_code, answer.headers["Retry-After"]) for answer in answers] == [(503, "2")] * 4
    finally:
        gate.set()
    assert log_in(client).status_code in (200, 503)
