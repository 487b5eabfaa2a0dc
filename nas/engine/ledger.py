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
    ask INTEGER NOT NULL,       -- number of the ask that proposed it, from 1
    tell INTEGER NOT NULL,      -- order in which evaluations finished, from 1
    objectives TEXT NOT NULL,   -- JSON: objective name -> value, null where it failed
    violation REAL NOT NULL,    -- of all constraints, relative; 0 when they are met
    error TEXT NOT NULL,        -- '' when all went well
    seconds REAL NOT NULL
);
"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One evaluated candidate. ``values``: by objective name, NaN where an evaluation failed. ``ask``: see the table."""

    arch: bytes
    ask: int
    values: Mapping[str, float]
    violation: float = 0.0
    error: str = ""
    seconds: float = 0.0


class Ledger:
    """The memo of one search. ``path`` None keeps it in memory.

    ``identity``: everything that decides the search, JSON-serialisable. Raises BadInput when the file belongs to
    another search (saying what differs), exists and ``resume`` is false, is damaged, or cannot be written.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any], *, resume: bool = False) -> None:
        self._path = path
        self._entries: dict[bytes, Entry] = {}
        self._order: list[bytes] = []
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
        except BadInput:
            raise
        except OSError as error:
            raise BadInput(f"cannot write {path} ({error.strerror}); choose a folder that can be written") from None
        except (sqlite3.Error, ValueError) as error:
            if "unable to open" in str(error) or "readonly" in str(error):
                raise BadInput(f"cannot write {path} ({error}); choose a folder that can be written") from None
            raise BadInput(
                f"{path} is not a usable ledger ({error}); delete it, or choose another run folder"
            ) from None

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, arch: bytes) -> Entry | None:
        """What is known of a candidate."""
        return self._entries.get(arch)

    def told(self, position: int) -> bytes | None:
        """The candidate that finished at ``position``, from 0; None when there is none."""
        return self._order[position] if position < len(self._order) else None

    @property
    def on_disk(self) -> bool:
        return self._path is not None

    def record(self, entries: Iterable[Entry]) -> None:
        """Commit finished candidates, all in one transaction."""
        entries = [e for e in entries if e.arch not in self._entries]
        rows = []
        for tell, e in enumerate(entries, len(self._entries) + 1):
            values = {k: None if v != v else v for k, v in e.values.items()}
            rows.append((e.arch, e.ask, tell, json.dumps(values), e.violation, e.error, e.seconds))
        try:
            self._db.execute("BEGIN")
            self._db.executemany("INSERT INTO evaluations VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:  # a full disk, or a second process on the same folder
            raise BadInput(
                f"cannot write {self._path} ({error}); what finished before is kept, see to it and resume"
            ) from None
        self._entries.update({e.arch: e for e in entries})
        self._order += [e.arch for e in entries]

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
        for arch, ask, values, violation, error, seconds in self._db.execute(
            "SELECT arch, ask, objectives, violation, error, seconds FROM evaluations ORDER BY tell"
        ):
            parsed = {k: float("nan") if v is None else v for k, v in json.loads(values).items()}
            self._entries[arch] = Entry(
                arch=arch, ask=ask, values=parsed, violation=violation, error=error, seconds=seconds
            )
            self._order.append(arch)
