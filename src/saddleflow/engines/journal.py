"""The journal: every evaluation of a running search, durable on disk before the search sees it.

JSON lines.  The first line is the header, each further line one evaluation with a checksum of its own.
A line that a power cut or a SIGKILL tore at the end of the file is dropped and evaluated again; damage
anywhere else is reported, never guessed around.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import logging
import os
import time
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from saddleflow.errors import JournalError
from saddleflow.evaluation import Evaluation, Prediction, Purpose

VERSION = 1
POLL_SECONDS = 1.0
"""How often to look whether another process has left the search."""

logger = logging.getLogger(__name__)


def _line(record: dict) -> bytes:
    body = json.dumps(record, separators=(",", ":"), sort_keys=True)
    return f'{{"crc":{zlib.crc32(body.encode())},"record":{body}}}\n'.encode()


def _parse(line: bytes) -> dict | None:
    """Return the record of a line, or None if the line is damaged."""
    try:
        wrapped = json.loads(line)
        record = wrapped["record"]
        body = json.dumps(record, separators=(",", ":"), sort_keys=True)
        return record if zlib.crc32(body.encode()) == wrapped["crc"] else None
    except (ValueError, KeyError, TypeError):
        return None


def evaluation_to_record(evaluation: Evaluation) -> dict:
    """JSON-serialisable form of an evaluation; floats survive bit for bit."""
    prediction = evaluation.prediction
    return {
        "index": evaluation.index,
        "purpose": str(evaluation.purpose),
        "positions": evaluation.positions.tolist(),
        "energy": evaluation.energy,
        "forces": evaluation.forces.tolist(),
        "engine_seconds": evaluation.engine_seconds,
        "surrogate_seconds": evaluation.surrogate_seconds,
        "scf_iterations": evaluation.scf_iterations,
        "spin_square": evaluation.spin_square,
        "notes": evaluation.notes,
        "prediction": None
        if prediction is None
        else {
            "energy": prediction.energy,
            "forces": prediction.forces.tolist(),
            "energy_sigma": prediction.energy_sigma,
            "force_sigma": prediction.force_sigma,
        },
        "error": evaluation.error,
    }


def evaluation_from_record(record: dict) -> Evaluation:
    """Inverse of :func:`evaluation_to_record`."""
    prediction = record["prediction"]
    return Evaluation(
        index=record["index"],
        purpose=Purpose(record["purpose"]),
        positions=np.array(record["positions"], float),
        energy=float(record["energy"]),
        forces=np.array(record["forces"], float),
        engine_seconds=record["engine_seconds"],
        surrogate_seconds=record["surrogate_seconds"],
        scf_iterations=record["scf_iterations"],
        spin_square=record["spin_square"],
        notes=record["notes"],
        prediction=None
        if prediction is None
        else Prediction(
            energy=prediction["energy"],
            forces=np.array(prediction["forces"], float),
            energy_sigma=prediction["energy_sigma"],
            force_sigma=prediction["force_sigma"],
        ),
        error=record["error"],
    )


def _read(path: Path) -> tuple[dict | None, list[Evaluation], int]:
    """Header, evaluations, and the length in bytes of the intact part."""
    content = path.read_bytes()
    header: dict | None = None
    evaluations: list[Evaluation] = []
    intact = 0
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if number == len(lines):  # after the last newline: empty, or torn by a kill
            break
        record = _parse(line)
        if record is None:
            if number == len(lines) - 1:  # the last full line may hold a torn block (delayed allocation)
                break
            raise JournalError(
                f"{path}: line {number} is damaged (checksum); move the file away to start this search afresh"
            )
        if header is None:
            if record.get("saddleflow_journal") != VERSION:
                raise JournalError(
                    f"{path}: not a saddleflow journal of version {VERSION}; "
                    "move the file away to start this search afresh"
                )
            header = record
        else:
            evaluations.append(evaluation_from_record(record))
        intact += len(line) + 1
    return header, evaluations, intact


def read_journal(path: Path) -> tuple[dict, list[Evaluation]]:
    """Header and evaluations of a journal that may still be written to.

    Raises
    ------
    JournalError
        When the file is not a journal or is damaged before its end.
    """
    header, evaluations, _ = _read(Path(path))
    return header or {}, evaluations


class Journal:
    """A journal open for appending, locked against a second writer.

    Parameters
    ----------
    path : Path
        The journal; its folder is made.
    key : dict
        What the evaluations depend on (reaction, method, engine).  A journal with another key is set
        aside under a new name, not deleted, and a new one begins.
    header : dict
        Further facts for the first line.
    wait : bool
        Wait for another process that writes the same search instead of raising.  A killed Snakemake leaves
        its searches running, and the one that is started again comes back to them.

    Attributes
    ----------
    waited : bool
        Whether there was such a process; it may have finished the search.

    Raises
    ------
    JournalError
        When another process writes the same search, or the file is damaged.
    """

    def __init__(self, path: Path, key: dict, header: dict | None = None, wait: bool = False):
        self.path = Path(path)
        self.waited = False
        key = json.loads(json.dumps(key))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._acquire(wait)
        except OSError as error:
            raise JournalError(
                f"{self.path}: can't be written ({error.strerror or error}); make room or change permissions "
                "and start again: nothing is lost"
            ) from error
        self.stored: list[Evaluation] = []
        found, intact = None, 0
        if self.path.exists():
            try:
                found, self.stored, intact = _read(self.path)
            except JournalError:
                self._lock.close()
                raise
            if found is not None and found["key"] != key:
                self.set_aside()
                found, self.stored = None, []
        self._file = open(self.path, "r+b" if found else "wb")  # noqa: SIM115
        if found:
            self._file.truncate(intact)
            self._file.seek(intact)
        else:
            first = {"saddleflow_journal": VERSION, "key": key, "started": time.time()} | (header or {})
            self._append(first)

    def _acquire(self, wait: bool) -> IO[str]:
        """Open and lock the lock file; an unlinked one (a search that just ended) is opened again."""
        while True:
            lock = open(self.path.with_suffix(".lock"), "w")  # noqa: SIM115 - held as long as the journal
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                lock.close()
                busy = f"{self.path}: another process is running this very search"
                if not wait:
                    raise JournalError(f"{busy}; wait for it or stop it first") from error
                if not self.waited:
                    logger.warning("%s; waiting for it", busy)
                self.waited = True
                time.sleep(POLL_SECONDS)
                continue
            if os.fstat(lock.fileno()).st_nlink:
                return lock
            lock.close()

    def set_aside(self) -> Path:
        """Rename the journal (and states) so that a new one can begin; nothing is deleted."""
        number = 1
        while (target := self.path.with_suffix(f".old{number}")).exists():
            number += 1
        os.replace(self.path, target)
        return target

    def _append(self, record: dict) -> None:
        self._file.write(_line(record))
        self._file.flush()
        os.fsync(self._file.fileno())

    def append(self, evaluation: Evaluation, state: bytes | None) -> None:
        """Make an evaluation durable; the engine's state goes first, so that it is there if the line is.

        Raises
        ------
        JournalError
            When the disk refuses; what was journaled before stays.
        """
        try:
            self._append_durably(evaluation, state)
        except OSError as error:
            raise JournalError(
                f"{self.path}: can't be written ({error.strerror or error}); make room or change permissions "
                f"and start again: nothing is lost but evaluation {evaluation.index}"
            ) from error

    def _append_durably(self, evaluation: Evaluation, state: bytes | None) -> None:
        before = self._states()
        if state is not None:
            temporary = self.path.with_suffix(".tmp")
            with open(temporary, "wb") as file:
                file.write(state)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._state_file(evaluation.index))
        self._append(evaluation_to_record(evaluation))
        if state is not None:
            # Two are kept: if the last line turns out torn, its evaluation starts from the one before.
            for index in before[:-1]:
                self._state_file(index).unlink(missing_ok=True)

    def _state_file(self, index: int) -> Path:
        return self.path.with_suffix(f".state{index}")

    def _states(self) -> list[int]:
        """Indices of the evaluations whose engine state is on disk, ascending."""
        files = self.path.parent.glob(f"{glob.escape(self.path.stem)}.state*")
        return sorted(int(number) for f in files if (number := f.suffix.removeprefix(".state")).isdigit())

    def state_before(self, index: int) -> bytes | None:
        """Engine state that evaluation `index` has to start from, None for a fresh engine."""
        earlier = [i for i in self._states() if i < index]
        return self._state_file(earlier[-1]).read_bytes() if earlier else None

    def truncate(self, count: int) -> None:
        """Keep the first `count` evaluations; the rest moves to a file set aside."""
        header, evaluations, _ = _read(self.path)
        self._file.close()
        self.set_aside()
        self._file = open(self.path, "wb")  # noqa: SIM115
        self._append(header)
        for evaluation in evaluations[:count]:
            self._append(evaluation_to_record(evaluation))
        self.stored = evaluations[:count]

    def close(self, remove: bool = False) -> None:
        """Release the lock; with `remove`, delete the journal whose content a run file now holds."""
        # What a full disk did not take was reported when it was written; closing would try, and fail, again.
        with contextlib.suppress(OSError):
            self._file.close()
        if remove:
            self.path.unlink(missing_ok=True)
            for index in self._states():
                self._state_file(index).unlink(missing_ok=True)
        self._lock.close()
        if remove:
            self.path.with_suffix(".lock").unlink(missing_ok=True)
