"""Results appear whole or not at all: atomic writing, and HDF5 files that carry a schema version.

An HDF5 file is built in memory and written in one go, so that a full disk or a kill can't leave half of one.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np

from saddleflow.errors import RunFileError, one_line


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) durably to `path`, replacing what was there in one step.

    The folder is made if it is missing.  After an error the target is as it was and no temporary file stays.

    Raises
    ------
    OSError
        When the folder can't be written or the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(data.encode() if isinstance(data, str) else data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The rename itself is durable only when the folder is; some file systems can't sync a folder.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_hdf5(path: str | Path, schema: str, fill: Callable[[h5py.File], None]) -> None:
    """Write an HDF5 file atomically.

    Parameters
    ----------
    path : path
        Target.
    schema : str
        Kind and version, such as ``run/1``; becomes the root attribute ``saddleflow_schema``.
    fill : callable
        Gets the open file and puts groups, datasets and attributes into it.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["saddleflow_schema"] = schema
        fill(file)
    write_atomically(path, buffer.getvalue())


def put_array(group: h5py.Group, name: str, values: np.ndarray, unit: str = "") -> None:
    """Store an array exactly, with its unit; a checksum makes damage to it an error at reading."""
    values = np.asarray(values)
    options = (
        {"fletcher32": True, "compression": "gzip", "shuffle": True} if values.size and values.ndim else {}
    )
    dataset = group.create_dataset(name, data=values, **options)
    if unit:
        dataset.attrs["unit"] = unit


def put_texts(group: h5py.Group, name: str, texts: list[str] | str) -> None:
    """Store one text or a list of texts as UTF-8."""
    group.create_dataset(name, data=texts, dtype=h5py.string_dtype("utf-8"))


def get_texts(group: h5py.Group, name: str) -> list[str]:
    """Read what :func:`put_texts` stored of a list."""
    return [str(text) for text in group[name].asstr()[...]]


@contextlib.contextmanager
def open_hdf5(path: str | Path, schema: str, remedy: str) -> Iterator[h5py.File]:
    """Open an HDF5 file of exactly this schema; any fault inside the block becomes one clear line.

    Parameters
    ----------
    path : path
        File to read.
    schema : str
        Expected kind and version, such as ``run/1``.
    remedy : str
        What the user can do when the file is damaged.

    Raises
    ------
    RunFileError
        When the file is missing, damaged, not written by saddleflow, or of another schema.
    """
    path = Path(path)
    if not path.is_file():
        raise RunFileError(f"{path}: no such file")
    try:
        with h5py.File(path, "r", locking=False) as file:  # files are replaced, never changed
            found = file.attrs.get("saddleflow_schema")
            if found is None:
                raise RunFileError(
                    f"{path}: an HDF5 file, but not one of saddleflow's (no saddleflow_schema)"
                )
            if found != schema:
                writer = file.attrs.get("saddleflow_version", "unknown")
                raise RunFileError(
                    f"{path}: found schema {found!r} (written by saddleflow {writer}), expected {schema!r}; "
                    "read it with the version that wrote it, or " + remedy
                )
            yield file
    except PermissionError as error:
        raise RunFileError(f"{path}: may not be read ({error.strerror}); change its permissions") from error
    except (
        OSError,
        KeyError,
        ValueError,
        TypeError,
        IndexError,
        AttributeError,
        RuntimeError,
        ArithmeticError,
        MemoryError,
    ) as error:
        reason = one_line(error)
        raise RunFileError(f"{path}: truncated or damaged ({reason}); {remedy}") from error
