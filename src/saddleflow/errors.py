"""The one exception tree: each class says whether a retry can help.

Errors are caught at the edges only: the command line prints them as one line, a search turns those that
belong to the chemistry (:class:`ScfError`, :class:`GeometryError`) into an outcome.
"""

from __future__ import annotations


class SaddleflowError(Exception):
    """Base of all errors that saddleflow raises on purpose.

    Attributes
    ----------
    retry : str
        ``"never"`` (change the input first), ``"as-is"`` (the same call may succeed), or
        ``"elsewhere"`` (needs another machine or more resources).
    exit_code : int
        What the command line returns when this error reaches it.
    """

    retry = "never"
    exit_code = 1


class InputError(SaddleflowError):
    """The user's input is wrong.

    Parameters
    ----------
    problems : str or list of str
        One line a problem; each names the file, the line or key, what is wrong and what to do.
    """

    exit_code = 2

    def __init__(self, problems: str | list[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class EngineUnavailable(SaddleflowError):
    """The program behind an engine is missing or unusable on this machine; the message says how to get it."""

    retry = "elsewhere"
    exit_code = 2


class EngineError(SaddleflowError):
    """An energy and force evaluation failed."""


class ScfError(EngineError):
    """The self-consistent field did not converge at this geometry with any of the starts."""


class GeometryError(EngineError):
    """The geometry can't be evaluated: atoms too close, or numbers that are not finite."""


class EngineCrashed(EngineError):
    """The engine's process died or answered nonsense, also after it was started again."""

    retry = "as-is"


class EngineTimeout(EngineError):
    """The engine did not answer within its time limit and was stopped."""

    retry = "elsewhere"


class JournalError(SaddleflowError):
    """A journal of evaluations can't be used; the message says what to do with it."""


class RunFileError(SaddleflowError):
    """A run file is missing, damaged or of another schema version."""


class DownloadError(SaddleflowError):
    """A dataset could not be fetched; what arrived is kept and the next try goes on from there."""

    retry = "as-is"


def one_line(error: Exception) -> str:
    """Message of an error with its line breaks taken out."""
    return " ".join(str(error).split())
