"""A helper process that answers JSON lines: start, ask with a time limit, kill, remove its scratch folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

PREFIX = "saddleflow-worker-"
LONGEST_ANSWER = 1 << 28
"""Bytes; orbitals of 60 atoms take a hundredth of this, so a process that writes more has gone wild."""


class WorkerDied(Exception):
    """The process ended or answered nonsense; the message holds the end of what it printed."""


class WorkerTimeout(Exception):
    """The process did not answer in time and was killed."""


class WorkerProcess:
    """One running helper process with a scratch folder of its own.

    Parameters
    ----------
    command : list of str
        Program and arguments.
    environment : dict of str to str
        Its whole environment; ``PSI_SCRATCH`` is set to the scratch folder.
    timeout : float
        Seconds within which it has to greet with a first line.

    Raises
    ------
    WorkerDied, WorkerTimeout
        When it does not greet.
    """

    def __init__(self, command: list[str], environment: dict[str, str], timeout: float):
        sweep_scratch()
        self.scratch = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = _locked(self.scratch)
        self.calls = 0
        self._buffer = bytearray()
        try:
            with (self.scratch / "stderr.log").open("wb") as log:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=self.scratch,
                    env={**environment, "PSI_SCRATCH": str(self.scratch)},
                    start_new_session=True,
                )
        except OSError as error:
            self._remove_scratch()
            raise WorkerDied(f"can't be started: {error}") from error
        self.greeting = self._read(timeout)

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    def ask(self, request: dict, timeout: float) -> dict:
        """Send one request and wait for its answer.

        Raises
        ------
        WorkerDied, WorkerTimeout
            The process is gone afterwards and its scratch removed.
        """
        self.calls += 1
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise self._death() from error
        return self._read(timeout)

    def close(self) -> None:
        """Kill the process if it still runs and remove its scratch folder; may be called again."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                stream.close()
        self._remove_scratch()

    def _read(self, timeout: float) -> dict:
        deadline = time.monotonic() + timeout
        descriptor = self.process.stdout.fileno()
        searched = 0
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while self._buffer.find(b"\n", searched) < 0:
                searched = len(self._buffer)
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    self.close()
                    raise WorkerTimeout(f"no answer within {timeout:g} s")
                chunk = os.read(descriptor, 1 << 20)
                if not chunk:
                    raise self._death()
                self._buffer += chunk
                if len(self._buffer) > LONGEST_ANSWER:
                    self.close()
                    raise WorkerDied(f"answered more than {LONGEST_ANSWER >> 20} MB without an end")
        line, self._buffer = self._buffer.split(b"\n", 1)
        try:
            return json.loads(line)
        except ValueError as error:
            self.close()
            raise WorkerDied(f"answered nonsense: {bytes(line[:200])!r}") from error

    def _death(self) -> WorkerDied:
        """Kill what is left and describe the end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        status = self.process.poll()
        said = ""
        with contextlib.suppress(OSError):
            text = (self.scratch / "stderr.log").read_text(errors="replace").strip()
            said = " | ".join(text.splitlines()[-3:])[-400:]
        self.close()
        how = f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"
        return WorkerDied(f"process ended ({how})" + (f": {said}" if said else ""))

    def _remove_scratch(self) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _locked(folder: Path) -> int:
    """Open lock that says the folder's owner lives; the kernel drops it when the owner dies."""
    descriptor = os.open(folder / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def sweep_scratch(minimum_age: float = 60.0) -> list[Path]:
    """Remove scratch folders whose owner was killed before it could.

    Parameters
    ----------
    minimum_age : float
        Folders younger than so many seconds are left alone: their owner may not hold its lock yet.

    Returns
    -------
    list of Path
        What was removed.
    """
    removed = []
    for folder in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        try:
            status = folder.lstat()
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < minimum_age:
                continue
            descriptor = os.open(folder / "owner.lock", os.O_RDWR)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
        except OSError:
            pass
        finally:
            os.close(descriptor)
    return removed
