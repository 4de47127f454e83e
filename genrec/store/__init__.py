"""The event store: interactions, catalog revisions and forgotten users, in SQLite or PostgreSQL."""
