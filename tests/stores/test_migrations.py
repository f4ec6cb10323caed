"""The revisions make the tables that the code expects, from nothing, and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from guardrail.errors import StoreError
from guardrail.stores import migrations
from guardrail.stores.engine import open_engine
from guardrail.stores.tables import metadata


def test_the_revisions_from_an_empty_file_make_the_tables_of_the_code(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'x.db'}")
    migrations.upgrade(engine)
    with engine.begin() as connection:
        assert migrations.revision(connection) == migrations.HEAD
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        autoincremented = connection.execute(text("select sql from sqlite_master where name = 'ledger'")).scalar_one()
        assert "AUTOINCREMENT" in autoincremented


def test_the_revision_that_the_code_expects_is_the_newest(tmp_path: Path) -> None:
    with open_engine(f"sqlite:///{tmp_path / 'x.db'}").connect() as connection:
        scripts = ScriptDirectory.from_config(migrations.configuration(connection))
    assert scripts.get_current_head() == migrations.HEAD


def test_every_revision_can_be_undone(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'x.db'}")
    migrations.upgrade(engine)
    with engine.begin() as connection:
        command.downgrade(migrations.configuration(connection), "base")
        assert set(inspect(connection).get_table_names()) <= {"alembic_version", "sqlite_sequence"}


def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'x.db'}")
    migrations.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))
    with pytest.raises(StoreError, match="9999"):
        migrations.upgrade(engine)
    with engine.begin() as connection:
        assert migrations.revision(connection) == "9999"


def test_a_database_that_is_up_to_date_is_opened_without_importing_alembic(tmp_path: Path) -> None:
    import subprocess
    import sys

    url = f"sqlite:///{tmp_path / 'x.db'}"
    migrations.upgrade(open_engine(url))
    program = (
        "import sys; from guardrail.stores import migrations, engine\n"
        f"migrations.upgrade(engine.open_engine({url!r})); sys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=False).returncode == 0
