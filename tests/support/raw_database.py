"""Direct access to the database of a store, without genrec."""

from typing import Any

import sqlalchemy as sa


def connect(url: str) -> sa.Engine:
    """An engine without a connection pool."""
    return sa.create_engine(url.replace("postgresql", "postgresql+psycopg"), poolclass=sa.NullPool)


def execute(url: str, statement: str) -> None:
    """Execute a statement in a transaction."""
    with connect(url).begin() as connection:
        connection.exec_driver_sql(statement)


def read_all_rows(url: str) -> list[tuple[Any, ...]]:
    """Every row of every table; the first value of each is the table name."""
    with connect(url).connect() as connection:
        tables = sa.inspect(connection).get_table_names()
        return [
            (table, *row) for table in tables for row in connection.exec_driver_sql(f"SELECT * FROM {table}").fetchall()
        ]
