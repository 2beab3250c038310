"""A storage in a SQLite database."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager

from asynctune import CheckpointCorrupt, StorageError
from asynctune.storage import Entry, check_key, join_key, storage_error

_TABLE = "CREATE TABLE IF NOT EXISTS objects (key TEXT PRIMARY KEY, data BLOB)"


class SQLiteStorage:
    def __init__(self, path, prefix=""):
        self._path = os.path.abspath(path)
        self._prefix = prefix
        self._is_closed = False

    @property
    def url(self):
        url = f"sqlite://{self._path}"
        return join_key(url, self._prefix) if self._prefix else url

    def below(self, prefix):
        return SQLiteStorage(self._path, join_key(self._prefix, check_key(prefix, self.url)))

    def limited(self):
        return self

    def upload(self, key, source):
        with self._connection() as connection:
            row = (self._key(key), source.read_bytes())
            connection.execute("INSERT OR REPLACE INTO objects VALUES (?, ?)", row)

    def create(self, key, data):
        with self._connection() as connection:
            query, row = "INSERT OR IGNORE INTO objects VALUES (?, ?)", (self._key(key), data)
            return connection.execute(query, row).rowcount == 1

    def read(self, key, limit):
        data = self._data(key)
        if len(data) > limit:
            raise StorageError(f"{key} has {len(data)} bytes, more than the limit of {limit}")
        return data

    def download(self, key, target, size):
        data = self._data(key)
        if len(data) != size:
            raise CheckpointCorrupt(f"{key} has {len(data)} bytes instead of {size}")
        try:
            with open(target, "xb") as file:
                file.write(data)
        except OSError as exc:
            raise storage_error(exc, f"{target} cannot be written") from exc

    def list(self, prefix, after=""):
        first = join_key(self._prefix, prefix) if prefix else self._prefix and f"{self._prefix}/"
        query = "SELECT key, length(data) FROM objects WHERE substr(key, 1, ?) = ? ORDER BY key"
        with self._connection() as connection:
            rows = connection.execute(query, (len(first), first)).fetchall()
        entries = (Entry(key[len(self._prefix) :].lstrip("/"), size) for key, size in rows)
        return (entry for entry in entries if entry.key > after)

    def delete(self, keys):
        with self._connection() as connection:
            rows = [(self._key(key),) for key in keys]
            connection.executemany("DELETE FROM objects WHERE key = ?", rows)

    def exists(self, key):
        with self._connection() as connection:
            query = "SELECT 1 FROM objects WHERE key = ?"
            return connection.execute(query, (self._key(key),)).fetchone() is not None

    def close(self):
        self._is_closed = True

    def _key(self, key):
        return join_key(self._prefix, check_key(key, self.url))

    def _data(self, key):
        with self._connection() as connection:
            query = "SELECT data FROM objects WHERE key = ?"
            row = connection.execute(query, (self._key(key),)).fetchone()
        if row is None:
            raise FileNotFoundError(f"{self.url} has no object {key}")
        return bytes(row[0])

    @contextmanager
    def _connection(self):
        if self._is_closed:
            raise StorageError(f"{self.url} was closed")
        try:
            with closing(sqlite3.connect(self._path, timeout=60)) as connection, connection:
                connection.execute(_TABLE)
                yield connection
        except sqlite3.Error as exc:
            raise StorageError(f"{self.url} failed: {exc}") from exc
