"""A download that survives a broken line: what has arrived is kept and the next try goes on from there."""

from __future__ import annotations

import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

from saddleflow import __version__
from saddleflow.errors import DownloadError

CHUNK = 1 << 16
_RANGE = re.compile(r"bytes (\d{1,18})-")
PERMANENT = (400, 401, 403, 404, 405, 410, 451)
"""HTTP answers that another try would not change."""


def download(
    url: str,
    target: Path,
    size: int,
    tries: int = 4,
    timeout_seconds: float = 30.0,
    pause_seconds: float = 1.0,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Fetch `url` into `target`, which may already hold the first part of it.

    Each try that fails is followed by a pause twice as long as the one before.  The content is not checked
    here beyond its length.

    Parameters
    ----------
    url : str
        http or https.
    target : Path
        Grows while the data arrive; holds exactly `size` bytes afterwards.
    size : int
        Length in bytes that is known beforehand.
    tries : int
        Tries without any new byte between them before giving up.
    timeout_seconds : float
        Longest silence of the server in one try.
    pause_seconds : float
        Pause after the first failed try.
    sleep : callable
        Waits so many seconds.

    Raises
    ------
    DownloadError
        The server can't be reached, refuses, breaks off again and again, or sends more than `size` bytes.
    """
    failures = 0
    while True:
        have = target.stat().st_size if target.exists() else 0
        if have == size:
            return
        try:
            _continue(url, target, have, size, timeout_seconds)
            reason = "the connection ended too early"
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            if error.code in PERMANENT:
                raise DownloadError(f"{url}: {reason}") from None
            if error.code == 416:  # what we hold is not a beginning of what the server has
                target.unlink(missing_ok=True)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        now = target.stat().st_size if target.exists() else 0
        if now == size:
            return
        failures = 1 if now > have else failures + 1
        if failures >= tries:
            kept = f"; {now} of {size} bytes are kept in {target} and the next try goes on from there"
            raise DownloadError(f"{url}: {reason} ({tries} tries){kept if now else ''}")
        sleep(pause_seconds * 2 ** (failures - 1))


def _continue(url: str, target: Path, have: int, size: int, timeout_seconds: float) -> None:
    """One try: ask for what is missing and append it (or begin again where the server knows no ranges)."""
    if not url.lower().startswith(("http://", "https://")):
        raise DownloadError(f"{url}: only http and https addresses are fetched")
    # An encoded (compressed) answer would have other offsets.
    headers = {"User-Agent": f"saddleflow/{__version__}", "Accept-Encoding": "identity"}
    if 0 < have < size:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=timeout_seconds) as answer:
        begins = _RANGE.match(answer.headers.get("Content-Range", ""))
        resumed = answer.status == 206 and begins is not None and int(begins[1]) == have
        if answer.status == 206 and not resumed:
            target.unlink(missing_ok=True)
            raise ValueError("the server answered with another part than it was asked for")
        with target.open("ab" if resumed else "wb") as stream:
            _copy(answer, stream, have if resumed else 0, size, url)


def _copy(answer: http.client.HTTPResponse, stream: IO[bytes], have: int, size: int, url: str) -> None:
    while chunk := answer.read(CHUNK):
        have += len(chunk)
        if have > size:
            stream.truncate(0)
            raise DownloadError(f"{url}: the server sends more than the {size} bytes of the dataset table")
        stream.write(chunk)
