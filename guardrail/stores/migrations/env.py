"""What alembic runs: the revisions, on the connection and in the transaction that it is given."""

from alembic import context

from guardrail.stores.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite's can be rolled back too, since we open transactions ourselves
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
