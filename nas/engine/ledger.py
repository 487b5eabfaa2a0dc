"""The ledger: every evaluated candidate in SQLite, committed as it finishes. A search that is repeated reads it."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from nas.engine.problem import space_text
from nas.errors import BadInput
from nas.files import first_line
from nas.objectives.objective import ObjectiveRecord
from nas.space import Archs, Floats, SearchSpace

LEDGER = "evaluations.db"
"""Its name in a run folder."""

_TABLES = (
    """CREATE TABLE meta (
    identity TEXT NOT NULL,             -- JSON: what decides the search
    stopped TEXT NOT NULL DEFAULT ''    -- why it ended; '' while it has not
)""",
    """CREATE TABLE evaluations (
    arch BLOB PRIMARY KEY,      -- canonical genes, one byte each
    ask INTEGER NOT NULL,       -- number of the ask that proposed it, from 1
    tell INTEGER NOT NULL,      -- order in which evaluations finished, from 1
    objectives TEXT NOT NULL,   -- JSON: objective name -> value, null where it failed
    violation REAL NOT NULL,    -- of all constraints, relative; 0 when they are met
    error TEXT NOT NULL,        -- '' when all went well
    seconds REAL NOT NULL
)""",
)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Everything that decides a search; a ledger goes on only under the same one.

    ``constraints``: (objective, sense, bound, objective's identity); ``searcher``: its class and plain attributes;
    ``completed``: whether results are told as they arrive or a batch at a time; ``first``: digest of what is evaluated
    before the searcher is asked.
    """

    space: str
    objectives: tuple[ObjectiveRecord, ...]
    constraints: tuple[tuple[str, Literal["<=", ">="], float, str], ...]
    searcher: dict[str, Any]
    batch: int
    completed: Literal["one by one", "in batches"]
    first: str = ""
    version: Literal[2] = 2

    def check_same(self, here: Identity, path: Path | None) -> None:
        """Raises BadInput, naming all parts that differ and showing the first, when ``here`` is another search."""
        theirs, ours = (msgspec.to_builtins(asdict(i)) for i in (self, here))
        if differing := [k for k in ours if theirs[k] != ours[k]]:
            there, now = theirs[differing[0]], ours[differing[0]]
            if isinstance(there, dict):  # only what matters
                keys = [k for k in {**there, **now} if there.get(k) != now.get(k)]
                there, now = {k: there.get(k) for k in keys}, {k: now.get(k) for k in keys}
            raise BadInput(
                f"{path} belongs to another search: {', '.join(differing)} differ "
                f"({differing[0]}: there {there}, here {now}); repeat that one, or choose another folder"
            )


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One evaluated candidate. ``values``: by objective name, NaN where an evaluation failed. ``ask``: see the table."""

    arch: bytes
    ask: int
    values: Mapping[str, float]
    violation: float = 0.0
    error: str = ""
    seconds: float = 0.0


class _Row(msgspec.Struct, frozen=True, array_like=True):
    """A row of ``evaluations`` as it may be."""

    arch: bytes
    ask: Annotated[int, Meta(ge=1)]
    tell: Annotated[int, Meta(ge=1)]
    objectives: str
    violation: Annotated[float, Meta(ge=0)]
    error: str
    seconds: Annotated[float, Meta(ge=0)]


class Ledger:
    """The memo of one search. ``path`` None keeps it in memory.

    Raises BadInput when the file belongs to another search (saying what differs), exists and ``resume`` is false, is
    damaged or no ledger, or cannot be written.
    """

    def __init__(self, path: Path | None, identity: Identity, space: SearchSpace, *, resume: bool = False) -> None:
        self._path = path
        self._entries: dict[bytes, Entry] = {}
        if path is not None and path.exists() and not resume:
            raise BadInput(f"{path} already holds a search; pass resume (--resume) to go on with it, or another folder")
        with _one_line(path):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path or ":memory:", isolation_level=None)
            try:
                self._open(identity, space)
            except BaseException:
                self._db.close()
                raise
        self._order = list(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def on_disk(self) -> bool:
        return self._path is not None

    def get(self, arch: bytes) -> Entry | None:
        """What is known of a candidate."""
        return self._entries.get(arch)

    def completed(self, position: int) -> bytes | None:
        """The candidate that finished at ``position``, from 0; None when there is none."""
        return self._order[position] if position < len(self._order) else None

    def record(self, entries: Iterable[Entry]) -> list[Entry]:
        """Commit finished candidates, all in one transaction; returns those that were new."""
        new = [e for e in entries if e.arch not in self._entries]
        rows = []
        for tell, e in enumerate(new, len(self._entries) + 1):
            values = {k: None if v != v else v for k, v in e.values.items()}
            rows.append((e.arch, e.ask, tell, msgspec.json.encode(values).decode(), e.violation, e.error, e.seconds))
        self._write("INSERT INTO evaluations VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        self._entries.update({e.arch: e for e in new})
        self._order += [e.arch for e in new]
        return new

    def finish(self, stopped: str) -> None:
        """Say why the search ended."""
        self._write("UPDATE meta SET stopped = ?", [(stopped,)])

    def close(self) -> None:
        """Close the file. What was recorded is on disk already."""
        self._db.close()

    def _open(self, identity: Identity, space: SearchSpace) -> None:
        # what was reported as finished survives a power cut: SQLite waits for the disk at every commit
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("BEGIN IMMEDIATE")  # one transaction: a kill here leaves an empty file, which counts as new
        if self._db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
            for table in _TABLES:
                self._db.execute(table)
            self._db.execute("INSERT INTO meta (identity) VALUES (?)", (msgspec.json.encode(identity).decode(),))
        else:
            there, _, entries = _contents(self._db)
            there.check_same(identity, self._path)
            _check_archs(entries, space)
            self._entries = {e.arch: e for e in entries}
            self._db.execute("UPDATE meta SET stopped = ''")
        self._db.execute("COMMIT")

    def _write(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        try:
            self._db.execute("BEGIN")
            self._db.executemany(statement, rows)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:  # a full disk
            raise BadInput(
                f"cannot write {self._path} ({error}); what finished before is kept, see to it and resume"
            ) from None


def read(path: Path, space: SearchSpace) -> tuple[Identity, str, list[Entry]]:
    """What a ledger holds: the identity of its search, why that ended ('' when it has not), the candidates in order.

    Changes nothing. Raises BadInput when there is none, it is damaged, or it is of another space.
    """
    if not path.is_file():
        raise BadInput(f"{path.parent} has no search: there is no file {path.name}")
    # a kill may have left half a transaction, which SQLite takes back first
    mode = "rw" if path.with_name(f"{path.name}-journal").exists() else "ro"
    with (
        _one_line(path),
        contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True)) as db,
    ):
        identity, stopped, entries = _contents(db)
        if identity.space != (here := space_text(space)):
            raise BadInput(f"{path} is a search of space {identity.space}, got {here}")
        _check_archs(entries, space)
        return identity, stopped, entries


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Candidates side by side.

    ``values (n, names)``: NaN where unknown or failed; ``violation (n,)``; ``error (n,)``; ``ask``: that proposed all.
    """

    archs: Archs
    values: Floats
    violation: Floats
    error: NDArray[np.object_]
    ask: int = 0

    @staticmethod
    def of(entries: Sequence[Entry], space: SearchSpace, names: Sequence[str]) -> Batch:
        """Entries, ``names`` giving the order of the values."""
        values = np.array([[e.values[n] for n in names] for e in entries], np.float64)
        return Batch(
            archs=np.frombuffer(b"".join(e.arch for e in entries), np.uint8).reshape(-1, space.genes),
            values=values.reshape(len(entries), len(names)),
            violation=np.array([e.violation for e in entries], dtype=np.float64),
            error=np.array([e.error for e in entries], dtype=object),
        )

    def __len__(self) -> int:
        return len(self.archs)

    def __getitem__(self, rows: Any) -> Batch:
        columns = {k: v[rows] for k, v in vars(self).items() if k != "ask"}
        return Batch(**columns, ask=self.ask)


def _contents(db: sqlite3.Connection) -> tuple[Identity, str, list[Entry]]:
    """Raises ValueError for what has no place in a ledger, besides sqlite3's own errors."""
    meta = db.execute("SELECT identity, stopped FROM meta").fetchall()
    [(identity_text, stopped)] = msgspec.convert(meta, list[tuple[str, str]])
    identity = msgspec.json.decode(identity_text, type=Identity)
    columns = ", ".join(_Row.__struct_fields__)
    rows = msgspec.convert(
        db.execute(f"SELECT {columns} FROM evaluations ORDER BY tell").fetchall(), list[_Row], strict=True
    )
    return identity, stopped, [_entry(row, position, identity) for position, row in enumerate(rows, 1)]


def _entry(row: _Row, position: int, identity: Identity) -> Entry:
    found = msgspec.json.decode(row.objectives, type=dict[str, float | None])
    values = {name: math.nan if value is None else value for name, value in found.items()}
    if row.tell != position or not math.isfinite(row.violation + row.seconds):
        raise ValueError(f"evaluation {position} is numbered {row.tell}, with violation {row.violation}")
    names = {o.name for o in identity.objectives} | {name for name, *_ in identity.constraints}
    if set(values) != names or not (row.error or all(map(math.isfinite, values.values()))):
        raise ValueError(f"evaluation {position} has values {row.objectives} and no error")
    for o in identity.objectives:
        if o.within and not math.isnan(values[o.name]) and not o.within[0] <= values[o.name] <= o.within[1]:
            raise ValueError(f"evaluation {position} has {o.name} {values[o.name]}, outside {o.within}")
    return Entry(
        arch=row.arch, ask=row.ask, values=values, violation=row.violation, error=row.error, seconds=row.seconds
    )


def _check_archs(entries: Sequence[Entry], space: SearchSpace) -> None:
    """Raises ValueError for what are no architectures of ``space``, each in its canonical form."""
    if wrong := [e.arch for e in entries if len(e.arch) != space.genes]:
        raise ValueError(f"an architecture of {len(wrong[0])} genes, {space.name} has {space.genes}")
    archs = Batch.of(entries, space, ()).archs
    wide = archs.astype(np.int64)
    if (wide >= space.sizes).any() or (space.canonical(archs) != archs).any():
        raise ValueError(f"an architecture that {space.name} does not have")


@contextlib.contextmanager
def _one_line(path: Path | None) -> Iterator[None]:
    try:
        yield
    except BadInput:
        raise
    except OSError as error:
        raise BadInput(f"cannot write {path} ({error.strerror}); choose a folder that can be written") from None
    except (sqlite3.Error, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        if "unable to open" in str(error) or "readonly" in str(error):
            raise BadInput(f"cannot write {path} ({error}); choose a folder that can be written") from None
        raise BadInput(
            f"{path} is not a usable ledger ({first_line(error)}); delete it, or choose another run folder"
        ) from None
