"""The tables: what is kept, in column types that SQLite and PostgreSQL share. Times are POSIX seconds, UTC.

No column holds what a user wrote, but `incidents.sealed` and `appeals.sealed`, which are ciphertext. A change here
needs a revision in `migrations/versions`; a test compares the two.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)

metadata = MetaData()

_Serial = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts by itself only in a column of type INTEGER

ledger = Table(
    "ledger",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("subject", String(64), nullable=False),  # a keyed hash
    Column("identity", String(16), nullable=False),  # what was hashed: end_user, api_key, address
    Column("shared", Boolean, nullable=False),
    Column("kind", String(16), nullable=False),  # strike, allowed, imposed, lifted, voided
    # What is read however long ago it was: suspensions, terminations, what people decided. Strikes and the rest
    # count by the row and the day, for which the latest few hundred are enough.
    Column("lasting", Boolean, nullable=False),
    Column("step", SmallInteger),
    Column("until", Double),
    Column("incident", String(64)),
    Column("rule", String(255)),
    Column("by", String(128)),
    Column("reason", Text),
    Column("key", String(64), unique=True),  # of a strike: the same key twice is the same strike
    Index("ledger_subject", "tenant", "subject", "lasting", "id"),
    sqlite_autoincrement=True,  # ids are never used twice, so that "all after this id" stays true after a purge
)

incidents = Table(
    "incidents",
    metadata,
    Column("seq", _Serial, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("at", Double, nullable=False),
    Column("last_at", Double, nullable=False),
    Column("count", Integer, nullable=False),  # above 1: this row stands for that many, the last of them at last_at
    Column("tenant", String(64), nullable=False),
    Column("subject", String(64), nullable=False),
    Column("identity", String(16), nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("surface", String(64), nullable=False),
    Column("direction", String(16), nullable=False),
    Column("action", String(16), nullable=False),
    Column("strike", String(255)),
    Column("hits", JSON, nullable=False),
    Column("failures", JSON, nullable=False),
    Column("policies", String(128), nullable=False),
    Column("length", Integer, nullable=False),
    Column("digest", String(64), nullable=False),  # a keyed hash of the excerpt
    Column("sealed", LargeBinary, nullable=False),
    Column("seal_key", String(32), nullable=False),
    Index("incidents_subject", "tenant", "subject", "at"),
    Index("incidents_at", "at"),
    sqlite_autoincrement=True,
)

decisions = Table(
    "decisions",
    metadata,
    Column("seq", _Serial, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("at", Double, nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("subject", String(64), nullable=False),
    Column("identity", String(16), nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("surface", String(64), nullable=False),
    Column("outcome", String(32), nullable=False),
    Column("action", String(16), nullable=False),
    Column("incident", String(64)),
    Column("policies", String(128), nullable=False),
    Column("produce_id", String(64)),
    Column("prompt_length", Integer, nullable=False),
    Column("completion_length", Integer, nullable=False),
    Column("streamed", Boolean, nullable=False),
    Column("overhead", Double, nullable=False),
    Column("duration", Double, nullable=False),
)

accesses = Table(
    "accesses",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("by", String(128), nullable=False),
    Column("what", String(32), nullable=False),
    Column("incident", String(64), nullable=False),
    Column("reason", Text, nullable=False),
    sqlite_autoincrement=True,
)

appeals = Table(
    "appeals",
    metadata,
    Column("seq", _Serial, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("at", Double, nullable=False),
    Column("incident", String(64), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("subject", String(64), nullable=False),
    Column("identity", String(16), nullable=False),
    Column("state", String(16), nullable=False),  # filed, granted, denied
    Column("sealed", LargeBinary, nullable=False),  # the statement; the appeal's id is the associated data
    Column("seal_key", String(32), nullable=False),
    Column("decided_at", Double),
    Column("decided_by", String(128)),
    Column("reason", Text),
    Index("appeals_incident", "incident"),
    # Two replicas that are asked at once still make one open appeal.
    Index(
        "appeals_open",
        "incident",
        unique=True,
        sqlite_where=text("state = 'filed'"),
        postgresql_where=text("state = 'filed'"),
    ),
    sqlite_autoincrement=True,
)
