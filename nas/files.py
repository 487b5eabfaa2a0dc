"""Files: written so that a reader sees the old content or the new, read by a schema, and one process at a time."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from nas.errors import BadInput

T = TypeVar("T")

_LONGEST = 100  # characters of a name, so that endings and temporary names still fit into 255 bytes
_held: dict[str, int] = {}  # folders that this process has locked, and how often
_guard = threading.Lock()


# ---- writing ---------------------------------------------------------------------------------------------------


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file atomically. Raises BadInput, and leaves what was there, when it cannot be written."""
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file atomically, as ``write_text``."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path`` that becomes it when the block ends well, and is removed when it does not.

    It has the ending of ``path``, since libraries look at that. Missing folders are made. Raises BadInput for an
    operating system's refusal in the block.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        if path.is_dir():
            raise BadInput(f"cannot write {path}: it is a folder; name a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        # the start of the name only: the whole of a long one and the random part would be too long together
        handle, name = tempfile.mkstemp(prefix=f".{path.stem[:40]}.", suffix=f".tmp{path.suffix}", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        temporary.chmod(0o666 & ~_umask())
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror or first_line(error)}") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def append_text(path: Path, text: str) -> None:
    """Add to a file so that it survives a power cut. Raises BadInput when it cannot be written."""
    try:
        with path.open("a") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BadInput(
            f"cannot write {path}: {error.strerror}; what is finished is kept, go on with --resume"
        ) from None


# ---- reading ---------------------------------------------------------------------------------------------------


def read_text(path: str | os.PathLike[str]) -> str:
    """A text file. Raises BadInput when it cannot be read."""
    try:
        return Path(path).read_text()
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a name with a zero byte
        raise BadInput(f"cannot read {path}: {getattr(error, 'strerror', None) or first_line(error)}") from None


def read_json(path: str | os.PathLike[str], schema: type[T]) -> T:
    """A JSON file as ``schema`` (a dataclass, or any type msgspec knows). Raises BadInput naming the field that is wrong."""
    try:
        return msgspec.json.decode(read_text(path), type=schema)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise BadInput(f"{path} is damaged: {first_line(error)}") from None
    except (TypeError, ValueError) as error:  # a dataclass' own check
        raise BadInput(f"{path} is damaged: {first_line(error)}") from None


# ---- names -----------------------------------------------------------------------------------------------------


def file_name(text: str, what: str) -> str:
    """``text``, when it may become (part of) one file name. Raises BadInput for separators, dots at the start and the like."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+=,@-]*", text) or len(text) > _LONGEST:
        raise BadInput(
            f"{what} becomes a file name: up to {_LONGEST} letters, digits, '.', '_', '+', '=', ',', '@' and '-', "
            f"got {' '.join(text[:60].split())!r}"
        )
    return text


def folder_of(path: str | os.PathLike[str], what: str = "run folder") -> Path:
    """``path``, when a folder is there or could be made. Raises BadInput for "", a file, a loop of links, a name too long."""
    text = os.fspath(path)
    if not text or "\0" in text:
        raise BadInput(f"the {what} is a path, got {text!r}")
    folder = Path(text)
    try:
        if folder.exists() and not folder.is_dir():
            raise BadInput(f"the {what} {folder} is a file; name a folder")
        if not folder.exists() and folder.is_symlink():
            raise BadInput(f"the {what} {folder} is a link that leads nowhere")
        there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        if not there.is_dir():
            raise BadInput(f"the {what} {folder} lies below a file, {there}; name a folder")
        os.stat(there / folder.name)  # a name that is too long for this file system
    except FileNotFoundError:
        pass
    except OSError as error:
        raise BadInput(
            f"the {what} {text[:60]}{'...' if len(text) > 60 else ''} cannot be used: {error.strerror}"
        ) from None
    return folder


def first_line(error: BaseException | str, longest: int = 200) -> str:
    """What an error says, on one line: its first line that is not empty, or its kind."""
    text = str(error)
    line = next((" ".join(line.split()) for line in text.splitlines() if line.strip()), "")
    return line[:longest] or type(error).__name__


# ---- one process at a time -------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only this process works in ``folder`` meanwhile; nesting is fine. A crash releases it.

    Raises BadInput with the other process' number when one is at work there.
    """
    key = os.path.realpath(folder)
    with _guard:
        _held[key] = _held.get(key, 0) + 1
        first = _held[key] == 1
    try:
        with _flock(folder) if first else contextlib.nullcontext():
            yield
    finally:
        with _guard:
            _held[key] -= 1


@contextlib.contextmanager
def _flock(folder: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")  # noqa: SIM115
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            pid = file.read().strip() or "unknown"
            raise BadInput(
                f"another process (pid {pid}) is at work in {folder}; wait for it, or choose another run folder"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
