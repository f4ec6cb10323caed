"""The first tables: ledger, incidents, decisions, accesses."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "ledger",
        sa.Column("id", _SERIAL, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("identity", sa.String(16), nullable=False),
        sa.Column("shared", sa.Boolean(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("lasting", sa.Boolean(), nullable=False),
        sa.Column("step", sa.SmallInteger()),
        sa.Column("until", sa.Double()),
        sa.Column("incident", sa.String(64)),
        sa.Column("rule", sa.String(255)),
        sa.Column("by", sa.String(128)),
        sa.Column("reason", sa.Text()),
        sa.Column("key", sa.String(64), unique=True),
        sqlite_autoincrement=True,
    )
    op.create_index("ledger_subject", "ledger", ["tenant", "subject", "lasting", "id"])
    op.create_table(
        "incidents",
        sa.Column("seq", _SERIAL, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("last_at", sa.Double(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("identity", sa.String(16), nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("surface", sa.String(64), nullable=False),
        sa.Column("direction", sa.String(16), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("strike", sa.String(255)),
        sa.Column("hits", sa.JSON(), nullable=False),
        sa.Column("failures", sa.JSON(), nullable=False),
        sa.Column("policies", sa.String(128), nullable=False),
        sa.Column("length", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("seal_key", sa.String(32), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("incidents_subject", "incidents", ["tenant", "subject", "at"])
    op.create_index("incidents_at", "incidents", ["at"])
    op.create_table(
        "decisions",
        sa.Column("seq", _SERIAL, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("identity", sa.String(16), nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("surface", sa.String(64), nullable=False),
        sa.Column("outcome", sa.String(32), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("incident", sa.String(64)),
        sa.Column("policies", sa.String(128), nullable=False),
        sa.Column("produce_id", sa.String(64)),
        sa.Column("prompt_length", sa.Integer(), nullable=False),
        sa.Column("completion_length", sa.Integer(), nullable=False),
        sa.Column("streamed", sa.Boolean(), nullable=False),
        sa.Column("overhead", sa.Double(), nullable=False),
        sa.Column("duration", sa.Double(), nullable=False),
    )
    op.create_table(
        "accesses",
        sa.Column("id", _SERIAL, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("by", sa.String(128), nullable=False),
        sa.Column("what", sa.String(32), nullable=False),
        sa.Column("incident", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    for table in ("accesses", "decisions", "incidents", "ledger"):
        op.drop_table(table)
