"""A file that is opened, its tables looked at, and gone through row by row."""

import contextlib
import os
import pathlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..._check import check_kind
from ..._words import first_line, listed, shown
from .._ids import as_id


class Damaged(Exception):
    """What is wrong with a blob."""


@contextlib.contextmanager
def opened(path: Any) -> Iterator["Database"]:
    """Opens a file, which is not changed, nor made if there is none."""
    check_kind("path", path, (str, os.PathLike))
    name = os.fspath(path)
    check_kind("path", name, str)
    if not os.path.isfile(name):
        raise ValueError(f"`path` must be an SQLite file, got {shown(name)}: no file.")
    address = f"{pathlib.Path(name).absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(address, uri=True)
    connection.text_factory = bytes  # as an id is, whatever type its column has
    try:
        yield Database(connection, name)
    finally:
        connection.close()


class Database:
    """A file that is open."""

    connection: sqlite3.Connection
    path: str
    """As it is shown: of a long one, the end."""

    def __init__(self, connection: sqlite3.Connection, path: str):
        self.connection = connection
        self.path = repr(path if len(path) <= 60 else f"...{path[-57:]}")

    def check(self, whose: str, wanted: Mapping[str, Sequence[str]]) -> None:
        """Refuses a file without these tables of these columns."""
        for table, columns in wanted.items():
            known = self.columns(table)
            missing = [column for column in columns if column not in known]
            if not known:
                query = "SELECT name FROM sqlite_master WHERE type = 'table'"
                tables = [as_id(name) for (name,) in self.rows(query)]
                raise ValueError(
                    f"{self.path} has no table {table!r}, and so is no file of "
                    f"{whose}; its tables are: {listed(tables)}."
                )
            if missing:
                raise ValueError(
                    f"Table {table!r} of {self.path} has no column "
                    f"{missing[0]!r}, and so is none of {whose}; its columns are: "
                    f"{listed(known)}."
                )

    def columns(self, table: str) -> list[str]:
        """The names of a table's columns; none, if there is no such table."""
        return [as_id(row[1]) for row in self.rows(f"PRAGMA table_info({table})")]

    def rows(self, query: str, *values: Any) -> Iterator[tuple]:
        """What a query finds."""
        row = 0
        try:
            for found in self.connection.execute(query, values):
                yield found
                row += 1
        except sqlite3.Error as error:
            raise ValueError(
                f"{self.path} cannot be read as an SQLite file beyond the first "
                f"{row} rows: {first_line(error)}. Copy or make it anew."
            ) from error

    def damaged(self, row: int, client_id: str, reason: object) -> ValueError:
        """The error for a row that cannot be read."""
        return ValueError(
            f"Row {row} (`rowid`) of {self.path}, of client {shown(client_id)}, "
            f"is damaged: {reason}. Copy or make the file anew, or delete that row."
        )
