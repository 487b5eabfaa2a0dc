"""Files: written so that a reader sees the old content or the new, read by a schema, and one process at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from nas.errors import BadInput, Busy, Unwritable
from nas.on_device.results import append

T = TypeVar("T")

_LONGEST = 100  # characters of a name, so that endings and temporary names still fit into 255 bytes
_SHOWN = 200  # characters of a path in an error message
_held: dict[str, int] = {}  # folders that this process has locked, and how often
_guard = threading.Lock()


# ---- writing ---------------------------------------------------------------------------------------------------


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file atomically. Raises BadInput, and leaves what was there, when it cannot be written."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file atomically, as ``write_text``."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path`` that becomes it when the block ends well, and is removed when it does not.

    It has the ending of ``path``, since libraries look at that. Missing folders are made, and removed when nothing
    came of it. Raises BadInput for an operating system's refusal in the block.
    """
    path = writable(path)
    with _folders(path.parent):
        temporary: Path | None = None
        try:
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
            raise Unwritable(f"cannot write {short(path)}: {error.strerror or first_line(error)}") from None
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike[str], what: str, marker: str) -> Iterator[Path]:
    """A temporary folder beside ``path`` that becomes it when the block ends well, and is removed when it does not.

    An older folder there goes only if it holds the file ``marker``, and only once the new one is in place; a link to it
    stays a link. Raises BadInput for another folder or file, and for an operating system's refusal in the block.
    """
    path = folder_of(path, what)
    place = path.resolve()
    if place.exists() and not (place / marker).is_file():
        raise BadInput(f"{path} exists and is not a {what}; choose another path")
    with _folders(place.parent):
        try:
            folder = Path(tempfile.mkdtemp(prefix=f".{place.name[:40]}-", dir=place.parent))
            try:
                yield folder
                folder.chmod(0o777 & ~_umask())  # mkdtemp's is private
                _put(folder, place)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        except OSError as error:
            raise BadInput(f"cannot write {short(path)}: {error.strerror or first_line(error)}") from None


def _put(folder: Path, place: Path) -> None:
    """Give ``folder`` its name; an older one there goes only once the new one is in place."""
    if not place.exists():
        os.replace(folder, place)
        return
    old = folder.with_name(folder.name + "-old")
    os.replace(place, old)
    try:
        os.replace(folder, place)
    except BaseException:
        os.replace(old, place)
        raise
    shutil.rmtree(old)


def writable(path: str | os.PathLike[str], what: str = "file") -> Path:
    """``path``, when a file can be written there: asked before the work whose result it is to hold.

    Raises BadInput for "", a folder, a place below a file, a name too long, a folder without permission.
    """
    text = _path_text(path, what)
    if not text.isprintable() and not _encodable(text):
        raise BadInput(f"cannot write {short(text)!a}: that is not a file name")
    target = Path(text)
    try:
        if target.is_dir() or text.endswith(os.sep):
            raise BadInput(f"cannot write {short(text)}: it is a folder; name a file")
        if os.path.lexists(target) and not target.is_file():
            raise BadInput(f"cannot write {short(text)}: it is not a file")
        _check_parent(target)
    except OSError as error:
        raise Unwritable(f"cannot write {short(text)}: {error.strerror}") from None
    return target


def append_text(path: Path, text: str) -> None:
    """Add to a file so that it survives a power cut. Raises BadInput when it cannot be written."""
    try:
        append(str(path), text)
    except OSError as error:
        raise Unwritable(
            f"cannot write {short(path)}: {error.strerror}; what is finished is kept, go on with --resume"
        ) from None


# ---- reading ---------------------------------------------------------------------------------------------------


def read_text(path: str | os.PathLike[str]) -> str:
    """A text file. Raises BadInput when it cannot be read: not there, a folder, a device, not UTF-8."""
    text = _path_text(path, "file")
    try:
        if not stat.S_ISREG(os.stat(text).st_mode):  # reading a device or a pipe may never end
            raise BadInput(f"cannot read {short(text)}: it is not a file")
        return Path(text).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise BadInput(f"cannot read {short(text)}: {getattr(error, 'strerror', None) or first_line(error)}") from None


def read_json(path: str | os.PathLike[str], schema: type[T]) -> T:
    """A JSON file as ``schema`` (a dataclass, or any type msgspec knows). Raises BadInput naming the field that is wrong."""
    try:
        return msgspec.json.decode(read_text(path), type=schema)
    except BadInput as error:  # of the file, or a dataclass' own check
        raise error if str(error).startswith("cannot read") else _damaged(path, error) from None
    except (msgspec.MsgspecError, RecursionError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None


def _damaged(path: str | os.PathLike[str], error: Exception) -> BadInput:
    return BadInput(f"{short(path)} is damaged: {first_line(error)}")


# ---- names -----------------------------------------------------------------------------------------------------


def file_name(text: str, what: str) -> str:
    """``text``, when it may become (part of) one file name. Raises BadInput for separators, dots at the start and the like."""
    if not isinstance(text, str) or not re.fullmatch(rf"[A-Za-z0-9_][A-Za-z0-9_.+=,@-]{{0,{_LONGEST - 1}}}", text):
        raise BadInput(
            f"{what} becomes a file name: up to {_LONGEST} letters, digits, '.', '_', '+', '=', ',', '@' and '-', "
            f"got {' '.join(str(text)[:60].split())!r}"
        )
    return text


def folder_of(path: str | os.PathLike[str], what: str = "run folder") -> Path:
    """``path``, when a folder is there or could be made. Raises BadInput for "", a file, a loop of links, a name too long."""
    text = _path_text(path, what)
    if not _encodable(text):
        raise BadInput(f"the {what} {short(text)!a} is not a path")
    folder = Path(text)
    try:
        if folder.exists() and not folder.is_dir():
            raise BadInput(f"the {what} {short(text)} is a file; name a folder")
        if not folder.exists() and folder.is_symlink():
            raise BadInput(f"the {what} {short(text)} is a link that leads nowhere")
        _check_parent(folder)
    except NotADirectoryError:
        raise BadInput(f"the {what} {short(text)} lies below a file; name a folder") from None
    except OSError as error:
        raise BadInput(f"the {what} {short(text)} cannot be used: {error.strerror}") from None
    return folder


def _check_parent(path: Path) -> None:
    """Raises OSError when nothing can be made at ``path``: its nearest folder that is there takes no files."""
    if any(len(os.fsencode(part)) > 255 for part in path.parts):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    there = next((p for p in path.absolute().parents if os.path.lexists(p)), path)
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it lies below a file")
    if not path.exists() and not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "no permission to write there")


def _path_text(path: str | os.PathLike[str], what: str) -> str:
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str) or not text or "\0" in text:
        raise BadInput(f"the {what} is a path, got {short(repr(text))}")
    return text


def _encodable(text: str) -> bool:
    try:
        return bool(os.fsencode(text))
    except UnicodeError:
        return False


def short(path: str | os.PathLike[str]) -> str:
    """A path in an error message: on one line, cut where it is long."""
    text = " ".join(os.fspath(path).split()) if os.fspath(path).strip() else repr(os.fspath(path))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


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


def lies_at(path: Path, file: IO[Any]) -> bool:
    """Whether the open ``file`` is what is called ``path`` now, and has not been removed or replaced meanwhile."""
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), os.stat(path))


@contextlib.contextmanager
def _flock(folder: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = folder / ".lock"
    with _folders(folder), contextlib.ExitStack() as stack:
        try:
            while True:
                file = open(path, "a+")  # noqa: SIM115
                stack.callback(file.close)
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if lies_at(path, file):
                    break  # else its last owner removed it meanwhile
        except BlockingIOError:
            file.seek(0)
            pid = file.read().strip() or "unknown"
            raise Busy(
                f"another process (pid {pid}) is at work in {short(folder)}; wait for it, or choose another run folder"
            ) from None
        except OSError as error:
            raise BadInput(f"cannot write {short(path)}: {error.strerror}") from None
        stack.callback(path.unlink, missing_ok=True)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextlib.contextmanager
def _folders(folder: Path) -> Iterator[None]:
    """Makes ``folder`` and its parents; takes away those that are empty in the end. Raises BadInput when it cannot."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unwritable(f"cannot write {short(folder)}: {error.strerror}") from None
        yield
    finally:
        with contextlib.suppress(OSError):  # not empty: something came of it
            for made in missing:
                if made.exists():
                    made.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
