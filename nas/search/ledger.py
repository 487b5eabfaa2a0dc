"""The ledger: every evaluated candidate in SQLite, committed as it finishes. A search that is repeated reads it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.errors import BadInput

_SCHEMA = """
CREATE TABLE meta (identity TEXT NOT NULL);
CREATE TABLE evaluations (
    arch BLOB PRIMARY KEY,      -- canonical genes, one byte each
    evaluation INTEGER NOT NULL, -- order in which evaluations finished, from 1
    objectives TEXT NOT NULL,   -- JSON: objective name -> value, null where it failed
    error TEXT NOT NULL,        -- '' when all went well
    seconds REAL NOT NULL
);
"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One evaluated candidate. ``values``: by objective name, NaN where an evaluation failed."""

    arch: bytes
    values: Mapping[str, float]
    error: str = ""
    seconds: float = 0.0


class Ledger:
    """The memo of one search. ``path`` None keeps it in memory.

    ``identity``: everything that decides the search, JSON-serialisable. Raises BadInput when the file belongs to
    another search (saying what differs), exists and ``resume`` is false, is damaged, or cannot be written.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any], *, resume: bool = False) -> None:
        self._entries: dict[bytes, Entry] = {}
        exists = path is not None and path.exists()
        if exists and not resume:
            raise BadInput(f"{path} already holds a search; pass resume (--resume) to go on with it, or another folder")
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path or ":memory:", isolation_level=None)
            known = self._db.execute("SELECT name FROM sqlite_master WHERE name = 'meta'").fetchone()
            if known is None:
                self._create(identity)
            else:
                self._read(path, identity)
        except sqlite3.DatabaseError as error:
            raise BadInput(
                f"{path} is not a usable ledger ({error}); delete it, or choose another run folder"
            ) from None
        except OSError as error:
            raise BadInput(f"cannot write {path}: {error.strerror}") from None

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, arch: bytes) -> Entry | None:
        """What is known of a candidate."""
        return self._entries.get(arch)

    def record(self, entries: Iterable[Entry]) -> None:
        """Commit finished candidates, all in one transaction."""
        entries = [e for e in entries if e.arch not in self._entries]
        rows = []
        for i, e in enumerate(entries, len(self._entries) + 1):
            values = {k: None if v != v else v for k, v in e.values.items()}
            rows.append((e.arch, i, json.dumps(values), e.error, e.seconds))
        self._db.execute("BEGIN")
        self._db.executemany("INSERT INTO evaluations VALUES (?, ?, ?, ?, ?)", rows)
        self._db.execute("COMMIT")
        self._entries.update({e.arch: e for e in entries})

    def close(self) -> None:
        """Close the file. What was recorded is on disk already."""
        self._db.close()

    def _create(self, identity: Mapping[str, Any]) -> None:
        # one transaction: a kill here leaves an empty file, which counts as new
        script = f"BEGIN; {_SCHEMA} COMMIT;"
        self._db.executescript(script)
        self._db.execute("INSERT INTO meta VALUES (?)", (json.dumps(identity, sort_keys=True),))

    def _read(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        row = self._db.execute("SELECT identity FROM meta").fetchone()
        if row is None:
            self._db.execute("INSERT INTO meta VALUES (?)", (json.dumps(identity, sort_keys=True),))
            return
        there, here = json.loads(row[0]), json.loads(json.dumps(identity))
        if there != here:
            differing = [k for k in sorted({*there, *here}) if there.get(k) != here.get(k)]
            first = differing[0]
            raise BadInput(
                f"{path} belongs to another search: {', '.join(differing)} differ "
                f"({first}: there {there.get(first)}, here {here.get(first)}); repeat that one, or choose another folder"
            )
        for arch, values, error, seconds in self._db.execute(
            "SELECT arch, objectives, error, seconds FROM evaluations ORDER BY evaluation"
        ):
            parsed = {k: float("nan") if v is None else v for k, v in json.loads(values).items()}
            self._entries[arch] = Entry(arch=arch, values=parsed, error=error, seconds=seconds)
