"""The repository keeps its own promises: a short reader's path, a known top level, a README that tells the truth."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from pydantic import SecretStr

from app.settings import ROOT, Settings

TOP_LEVEL = {
    *("app", "tests", "alembic", "static", "benchmarks", "docs"),
    *("pyproject.toml", ".env", "README.md", "AGENTS.md", "LICENSE", "CHANGELOG.md"),
    *(".ci", ".github", ".gitignore", ".dockerignore", "Dockerfile", "requirements.txt"),
}
# What is alike for every entity, and edited for none.
ENGINE = sorted(file for part in ("engine", "extras") for file in (ROOT / "app" / part).rglob("*.py"))
READERS_PATH = sorted(file for file in (ROOT / "app").rglob("*.py") if file not in ENGINE)
# Who may log in, and until when: a second path, for whoever wants to trust it.
ABOUT_ACCOUNTS = {"accounts", "security.py", "session.py", "sessions.py", "machine_token.py", "machine_tokens.py"}
ABOUT_ACCOUNTS |= {"link.py", "links.py", "token.py", "mail.py", "admin.py", "user.py", "users.py"}
ACCOUNTS = [file for file in READERS_PATH if not ABOUT_ACCOUNTS.isdisjoint(file.parts)]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# What is in here is for tests and measurements, and opens nothing else.
HARMLESS = ("tests/", "benchmarks/")
# A private key, a password in a URL, or letters and digits as only chance brings them together.
SECRETS = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE"),
    re.compile(r"://[^\s/@:]+:(?!password@)[^\s/@]+@"),
    re.compile(r"(?<![\w/+-])(?=[\w/+-]*[a-z])(?=[\w/+-]*[A-Z])(?=[\w/+-]*\d)[\w/+-]{24,}"),
)
# Commands stand beside the app: nobody reads them to understand it.
COMMANDS = {"__main__.py", "cli.py", "job_commands.py", "demo.py", "scaffold", "user_commands.py"}

# The entities that Cadre comes with, and what stands beside them; not the two lists, in which a team's own stand too.
OURS = {"admin.py", "base.py", "health.py", "item.py", "items.py", "link.py", "links.py", "machine_token.py"}
OURS |= {"machine_tokens.py", "session.py", "sessions.py", "token.py", "types.py", "user.py", "users.py"}


def lines_of_code(file: Path) -> int:
    """Lines that hold code: no blank ones, no comments, no docstrings."""
    source = file.read_text(encoding="utf-8")
    told = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                told |= set(range(first.lineno, (first.end_lineno or 0) + 1))
    numbered = enumerate(source.splitlines(), 1)
    return sum(1 for n, line in numbered if line.strip() and not line.strip().startswith("#") and n not in told)


def is_a_teams_own(file: Path) -> bool:
    """An entity that a team has added: its model or its router."""
    return file.parent.name in ("models", "routers") and file.name not in OURS


def test_the_readers_path_is_about_a_thousand_lines():
    path = [file for file in READERS_PATH if COMMANDS.isdisjoint(file.parts) and not is_a_teams_own(file)]
    assert sum(lines_of_code(file) for file in path if file not in ACCOUNTS) <= 1050


def test_the_path_of_who_may_log_in_is_no_longer_than_that():
    assert sum(lines_of_code(file) for file in ACCOUNTS) <= 1500


@pytest.mark.parametrize("file", READERS_PATH, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_of_the_readers_path_can_be_read_in_one_go(file: Path):
    assert lines_of_code(file) <= 165


@pytest.mark.parametrize("file", ENGINE, ids=lambda file: file.name)
def test_a_file_of_the_engine_holds_one_idea(file: Path):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 250


@pytest.mark.parametrize("file", [*READERS_PATH, *ENGINE], ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_says_first_what_it_promises(file: Path):
    assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return listed.splitlines()


needs_checkout = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")


@needs_checkout
def test_the_top_level_holds_nothing_but_what_was_agreed():
    assert {path.partition("/")[0] for path in tracked()} <= TOP_LEVEL


@needs_checkout
@pytest.mark.promise("G02")
def test_no_file_holds_what_could_be_a_secret():
    files = [path for path in tracked() if not path.startswith(HARMLESS) and not path.endswith(".png")]
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in files}
    assert [(path, found[0]) for path in files for secret in SECRETS if (found := secret.search(texts[path]))] == []


@pytest.mark.promise("G02")
def test_no_secret_has_a_default():
    secret = [field for field in Settings.model_fields.values() if field.annotation is SecretStr]
    assert {field.default.get_secret_value() for field in secret} == {""}


def test_every_setting_stands_in_the_readme_with_its_default():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    documented = dict(re.findall(r"^\| `([A-Z_]+)` \| `?([^|`]+)`? \|", readme, re.MULTILINE))
    assert set(documented) == {name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        default = field.default
        said = ",".join(default) if isinstance(default, tuple) else str(default).lower()
        if documented[name.upper()].strip() not in ("none", "made on first start"):
            assert documented[name.upper()].strip().lower() == said.lower()


def test_every_file_in_the_readmes_tree_is_there():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = readme.split("## What is where")[1].split("```")[1]
    names = re.findall(r"^  ([a-z_]+(?:\.py|/))", tree, re.MULTILINE)
    there = {path.name + ("/" if path.is_dir() else "") for path in (ROOT / "app").iterdir()} - {"__pycache__/"}
    assert set(names) | {"setting_types.py", "errors.py", "security.py"} == there


def test_the_core_needs_no_more_packages_than_the_card_names():
    names = {Requirement(line).name for line in PROJECT["project"]["dependencies"]}
    card = {"fastapi", "sqlmodel", "uvicorn", "passlib", "python-jose", "python-multipart", "alembic"}
    # And what a person is safer with: zxcvbn knows the passwords that everybody uses.
    assert names == card | {"bcrypt", "pydantic-settings", "email-validator", "typer", "fastapi-offline", "zxcvbn"}


@pytest.mark.promise("G03")
def test_what_production_installs_is_pinned_with_hashes_and_comes_from_no_named_place():
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    package = r"([a-z0-9-]+)==([^ ;]+)( ; [^\\]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+\n"
    assert re.sub(rf"^#.*\n|^{package}", "", lock, flags=re.MULTILINE) == ""  # there is nothing else in it
    pinned = {name: version for name, version, *_ in re.findall(f"^{package}", lock, re.MULTILINE)}
    extras = PROJECT["project"]["optional-dependencies"]
    groups = PROJECT["project"]["dependencies"], extras["postgres"], extras["mail"]
    wanted = [Requirement(line) for group in (*groups, PROJECT["dependency-groups"]["build"]) for line in group]
    outdated = [str(each) for each in wanted if not each.specifier.contains(pinned.get(each.name, "0"))]
    assert outdated == [], "Renew the lock with the command that stands at its beginning."
    assert set(PROJECT["build-system"]["requires"]) <= set(PROJECT["dependency-groups"]["build"])
    assert "--require-hashes -r requirements.txt" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.promise("G04")
def test_it_says_how_to_report_a_weakness_and_what_is_supported():
    policy = (ROOT / ".github" / "SECURITY.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", policy, re.MULTILINE) == [
        *("How to report", "What to expect", "What is supported", "What is in scope", "If you cloned Cadre")
    ]
    assert "://" not in policy  # an address would be this project's, and not that of the team that cloned it
    assert "@" not in policy
