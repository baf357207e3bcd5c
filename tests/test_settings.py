"""What is wrong with the settings stops the start, in a sentence that names the setting and the cure."""

import os
import re
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dotenv import dotenv_values
from pydantic import ValidationError

from app.settings import ROOT, Settings

pytestmark = pytest.mark.once

KEY = "7xQ-oPz_49dVbYw2LmKJhTRsE0aNcUfG8iXyZ1CqW5tDnBvM"
CURE = 'make one {}with python3 -c "import secrets; print(secrets.token_urlsafe(48))"'
READ = "from app.settings import get_settings; s = get_settings(); print({})"
# A hundred first starts, each at the same moment as the other server's.
RACE = """
import time
from app import settings
for number in range(100):
    settings.KEY_FILE = settings.ROOT / f".secret-key-{{number}}"
    while time.time() < {} + number / 100:
        pass
    print(settings.development_key())
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A working copy of its own, fresh from the repository: no .env.local, no key."""
    shutil.copytree(ROOT / "app", tmp_path / "copy" / "app", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "copy"


def begin(copy: Path, code: str, cwd: Path | None = None, **environment: str) -> "subprocess.Popen[str]":
    """Start Python in `copy` with no other environment."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=cwd or copy,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(copy), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read(copy: Path, show: str = "s.environment", cwd: Path | None = None, **environment: str) -> str:
    """What the settings are; the start must succeed."""
    stdout, stderr = begin(copy, READ.format(show), cwd, **environment).communicate(timeout=60)
    assert stderr == ""
    return stdout.strip()


def refused(copy: Path, **environment: str) -> list[str]:
    """The sentences that the start ends with, and nothing else."""
    process = begin(copy, READ.format("s.environment"), **environment)
    stdout, stderr = process.communicate(timeout=60)
    assert "Traceback" not in stderr
    assert (process.returncode, stdout) == (1, "")
    return stderr.splitlines()


def test_the_environment_wins_over_env_local_and_that_over_env(copy: Path):
    (copy / ".env").write_text("ACCESS_TOKEN_MINUTES=1\nBCRYPT_ROUNDS=5\nCORS_MAX_AGE=5\n")
    (copy / ".env.local").write_text("BCRYPT_ROUNDS=6\nCORS_MAX_AGE=6\n")
    shown = read(
        copy, "s.access_token_minutes, s.bcrypt_rounds, s.cors_max_age, s.database_connections", CORS_MAX_AGE="7"
    )
    assert shown == "1 6 7 16"


def test_words_are_separated_by_commas_in_a_file_and_in_the_environment(copy: Path):
    (copy / ".env").write_text("CORS_ORIGINS=https://a.example, https://b.example,\n")
    assert read(copy, "s.cors_origins, s.cors_methods", CORS_METHODS="GET") == (
        "('https://a.example', 'https://b.example') ('GET',)"
    )


@pytest.mark.promise("G01")
@pytest.mark.parametrize(
    ("line", "name"),
    [
        (f"SECRET_KEY={KEY}", "SECRET_KEY"),
        (f"export secret_key = '{KEY}'", "SECRET_KEY"),
        ("DATABASE_URL=postgresql://ann:hailhydra@db/cadre", "DATABASE_URL"),
        ("database_url=postgres://ann:hailhydra@db/cadre", "DATABASE_URL"),
        ("DATABASE_URL=postgresql://db/cadre?user=ann&password=hailhydra", "DATABASE_URL"),
        ("MAIL_URL=smtps://ann:hailhydra@mail.example.com", "MAIL_URL"),
    ],
)
def test_a_secret_in_the_committed_file_must_move(copy: Path, line: str, name: str):
    (copy / ".env").write_text(f"{line}\n")
    sentence = f"{name} in .env is a secret in a committed file: move that line to .env.local, and change it."
    assert refused(copy, SECRET_KEY=KEY) == [sentence]
    (copy / ".env").rename(copy / ".env.local")
    assert read(copy, SECRET_KEY=KEY) == "development"


def test_a_database_without_a_password_is_no_secret(copy: Path):
    (copy / ".env").write_text("SECRET_KEY=\nDATABASE_URL=postgresql://ann@db/cadre\n")
    assert read(copy, "s.database_url") == "postgresql://ann@db/cadre"


@pytest.mark.parametrize("file", [".env", ".env.local"])
def test_an_unknown_name_in_a_file_stops_the_start(copy: Path, file: str):
    (copy / file).write_text("BCRYPT_ROUND=hailhydra\nREAD_ONLY=true\n")
    cure = "is no setting of Cadre: correct its name or remove the line."
    assert refused(copy) == [f"BCRYPT_ROUND in .env or .env.local {cure}"]


MALFORMED = {
    "ENVIRONMENT": "prod",
    "DATABASE_URL": "mysql://hailhydra@db/cadre",
    "ACCESS_TOKEN_MINUTES": "61",
    "BCRYPT_ROUNDS": "twelve",
    "REGISTRATION_OPEN": "perhaps",
    "READ_ONLY": "",
    "DATABASE_CONNECTIONS": "1",
    "CORS_MAX_AGE": "-1",
}


@pytest.mark.promise("A18")
def test_every_malformed_setting_is_named_with_its_cure(copy: Path):
    sentences = refused(copy, **MALFORMED)
    assert [sentence.partition(": ")[0] for sentence in sentences] == list(MALFORMED)
    for sentence in sentences:
        assert sentence.endswith(". Correct it in the environment, .env.local or .env.")
        assert "hailhydra" not in sentence


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("DATABASE_URL", url) for url in ("", "sqlite:///", "sqlite:///:memory:", "postgresql+asyncpg://db/cadre")),
        *(("DATABASE_URL", url) for url in ("postgresql://db:port/cadre", "postgresql://[::1/cadre")),
        *(("CORS_ORIGIN_REGEX", "("), ("FIRST_SUPERUSER_EMAIL", "nobody"), ("FIRST_SUPERUSER_USERNAME", "a b")),
        *(("PROXIES", proxies) for proxies in ("*", "proxy.example.com", "10.0.0.1/8", "10.0.0.1, ::/129")),
        # A browser sends neither, so they would let nobody in.
        *(("CORS_ORIGINS", origin) for origin in ("app.example.com", "https://app.example.com/")),
    ],
)
def test_a_value_that_could_never_work_is_named_at_once(copy: Path, name: str, value: str):
    (sentence,) = refused(copy, **{name: value})
    assert re.match(rf"{name}(\.\d)?: ", sentence)


def test_a_malformed_database_in_the_committed_file_is_named_too(copy: Path):
    (copy / ".env").write_text("DATABASE_URL=postgresql://[::1/cadre\n")
    (sentence,) = refused(copy)
    assert sentence.startswith("DATABASE_URL: ")


def test_a_file_that_is_no_text_is_named(copy: Path):
    (copy / ".env").write_bytes(b"ENVIRONMENT=\xff\xfe")
    (sentence,) = refused(copy)
    assert ".env" in sentence


def test_in_development_a_key_is_made_once_and_is_for_this_user_alone(copy: Path):
    keys = [read(copy, "s.secret_key.get_secret_value()") for _ in range(2)]
    file = copy / ".secret-key"
    assert keys == [file.read_text()] * 2
    assert re.fullmatch(r"[\w-]{64}", keys[0])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_two_servers_that_start_at_once_have_one_key(copy: Path):
    soon = time.time() + 2
    servers = [begin(copy, RACE.format(soon)) for _ in range(2)]
    ann, bob = (server.communicate(timeout=60)[0].split() for server in servers)
    assert ann == bob
    assert len(set(ann)) == 100
    assert {path.name for path in copy.glob(".*")} == {f".secret-key-{number}" for number in range(100)}


@pytest.mark.promise("F04")
@pytest.mark.parametrize("environment", ["test", "production"])
def test_elsewhere_no_key_is_made(copy: Path, environment: str):
    told = refused(copy, ENVIRONMENT=environment, DATABASE_URL="postgresql://db/cadre")
    assert told == [f"SECRET_KEY is missing: {CURE.format('')}."]
    assert not (copy / ".secret-key").exists()


def test_in_production_somebody_says_where_the_data_is(copy: Path):
    told = refused(copy, ENVIRONMENT="production", SECRET_KEY=KEY)
    assert told == ["DATABASE_URL is missing: say where production keeps its data."]


BAD_KEYS = [
    *(
        KEY[:31],
        "é" * 15,
        "ab" * 30,
        "abcdefghi" * 8,
        "0" * 64,
        f"changethis{KEY}",
        f"{KEY}-Secret-{KEY}",
        f"your-{KEY}",
    ),
    "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",  # FastAPI's tutorial
    *("password" * 8, " " * 48, "django-insecure-example-of-a-key-that-everybody-has"),
]


@pytest.mark.promise("A11", "F04")
@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_short_a_well_known_and_a_monotonous_key_are_refused(key: str):
    with pytest.raises(ValidationError) as error:
        Settings(_env_file=None, environment="production", secret_key=key)
    (wrong,) = error.value.errors()
    assert wrong["msg"] == f"Value error, SECRET_KEY is short or well known: {CURE.format('of your own ')}"


@pytest.mark.parametrize("key", [KEY, KEY[:32], "5f0c9a71e2b84d36" * 2])
def test_a_random_key_of_32_bytes_is_good_and_shown_nowhere(key: str):
    settings = Settings(_env_file=None, environment="production", secret_key=key)
    assert settings.secret_key.get_secret_value() == key
    assert key not in repr(settings)


def test_a_relative_database_lies_beside_the_app_wherever_the_server_starts(copy: Path, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert read(copy, "s.database_url", elsewhere) == f"sqlite:///{copy}/cadre.db"
    assert read(copy, "s.database_url", elsewhere, DATABASE_URL="sqlite:////srv/a.db") == "sqlite:////srv/a.db"


def test_both_spellings_of_postgresql_are_one():
    assert Settings(database_url="postgres://ann@db/cadre").database_url == "postgresql://ann@db/cadre"


@pytest.mark.promise("F08")
@pytest.mark.parametrize(
    ("environment", "rounds", "is_fine"), [("production", 9, False), ("production", 10, True), ("test", 4, True)]
)
def test_in_production_a_hash_costs_at_least_ten_rounds(environment: str, rounds: int, is_fine: bool):
    options = {"_env_file": None, "secret_key": KEY, "environment": environment, "bcrypt_rounds": rounds}
    if is_fine:
        assert Settings(**options).bcrypt_rounds == rounds
    else:
        with pytest.raises(ValidationError, match="BCRYPT_ROUNDS must be at least 10 in production"):
            Settings(**options)


@pytest.mark.promise("G01")
def test_the_committed_file_holds_no_secret():
    values = dotenv_values(ROOT / ".env")
    assert values["ENVIRONMENT"] == "development"
    assert [name for name in values if re.search("KEY|SECRET|PASSWORD|TOKEN$", name.upper())] == []
    assert "@" not in (values.get("DATABASE_URL", "") or "")


@pytest.mark.promise("G01")
def test_git_ignores_secrets_and_data():
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("This is no checkout.")
    names = [".env.local", ".secret-key", "cadre.db", "cadre.db-wal", "cadre.db-shm", ".venv/x", "app/.env.local"]
    told = subprocess.run(["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.stdout.split() == names
    assert subprocess.run(["git", "check-ignore", "-q", ".env"], cwd=ROOT, check=False).returncode == 1


def test_production_says_where_its_data_is(copy: Path):
    # As in a checkout: the committed file is there.
    (copy / ".env").write_bytes((ROOT / ".env").read_bytes())
    (sentence,) = refused(copy, ENVIRONMENT="production", SECRET_KEY=KEY)
    assert sentence == "DATABASE_URL is missing: say where production keeps its data."
