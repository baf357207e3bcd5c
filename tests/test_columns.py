"""A column is declared as docs/types.md says, and a migration makes exactly that."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from sqlalchemy import JSON, Enum, Numeric, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import SQLModel

from alembic import command
from app.engine import migrations
from app.settings import ROOT
from tests.samples import Kind, Sample
from tests.scratch import empty_database

POSTGRESQL, SQLITE = postgresql.dialect(), sqlite.dialect()


def strays(table: Table) -> list[str]:
    """Columns that one of the databases would not keep exactly, or that no migration could follow."""
    return [column.name for column in table.columns if not is_kept(column.type)]


def is_kept(kind: Any) -> bool:
    if isinstance(kind, Enum):
        return not kind.native_enum and kind.enums == [member.value for member in kind.enum_class]
    if isinstance(kind, Numeric):
        # SQLite has no decimals. A float, which it has, stands for one of 15 digits exactly.
        return kind.scale is not None and kind.precision is not None and kind.precision <= 15
    if isinstance(kind, JSON):
        there = kind.dialect_impl(POSTGRESQL)
        return kind.none_as_null and isinstance(there, postgresql.JSONB) and there.none_as_null
    return True


@pytest.mark.parametrize("name", SQLModel.metadata.tables)
def test_every_column_of_every_entity_keeps_what_it_is_given(name: str):
    assert strays(SQLModel.metadata.tables[name]) == []


STRAYS = {
    "an enum by name": Enum(Kind, native_enum=False),
    "a native enum": Enum(Kind, values_callable=lambda kind: [member.value for member in kind]),
    "a decimal of 16 digits": Numeric(16, 2),
    "a decimal without scale": Numeric(),
    "plain JSON": JSON(none_as_null=True),
    "JSON with its own null": JSON().with_variant(postgresql.JSONB(), "postgresql"),
}


@pytest.mark.parametrize("kind", STRAYS.values(), ids=STRAYS)
def test_a_column_that_would_not_is_noticed(kind: Any):
    assert not is_kept(kind)


def rows_of_the_document() -> list[list[str]]:
    document = (ROOT / "docs" / "types.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `.*\|$", document, re.MULTILINE)
    return [[cell.strip().strip("`") for cell in row.strip("|").split(" | ")] for row in table]


@pytest.mark.parametrize("row", rows_of_the_document(), ids=lambda row: row[0])
def test_a_declaration_of_the_document_makes_the_columns_that_it_says(row: list[str]):
    _, declaration, on_postgresql, on_sqlite = row
    assert f"    {declaration}\n" in (ROOT / "tests" / "samples.py").read_text(encoding="utf-8")
    kind = Sample.__table__.c[declaration.partition(":")[0]].type
    assert [kind.compile(POSTGRESQL), kind.compile(SQLITE)] == [on_postgresql, on_sqlite]


def test_the_document_tells_of_every_type():
    declared = {declaration.partition(":")[0] for _, declaration, _, _ in rows_of_the_document()}
    assert declared == {name for name in Sample.model_fields if f"maybe_{name}" in Sample.model_fields}


def test_a_migration_writes_itself_and_leaves_nothing_to_do(tmp_path: Path):
    shutil.copytree(ROOT / "alembic", tmp_path / "alembic")
    config = Config()
    config.set_main_option("script_location", str(tmp_path / "alembic"))
    with empty_database(tmp_path, "columns") as url:
        run(config, url, command.upgrade, "head")
        run(config, url, command.revision, "samples", autogenerate=True)
        run(config, url, command.upgrade, "head")
        run(config, url, command.check)  # raises if anything is left
        run(config, url, command.downgrade, "base")
    (written,) = (file for file in (tmp_path / "alembic" / "versions").glob("*samples.py"))
    source = written.read_text(encoding="utf-8")
    assert "scratch_samples" in source
    assert "sqlmodel" not in source.lower()
    assert "app." not in source
    # Neither does it list the members of an enum: a new one is no change of the column.
    assert Kind.OPEN.value not in source


def run(config: Config, url: str, step: Any, *arguments: str, **options: Any) -> None:
    with migrations.connect(url) as connection:
        config.attributes["connection"] = connection
        step(config, *arguments, **options)
