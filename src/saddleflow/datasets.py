"""Known datasets: a table with checksum, licence and citation; fetched once, checked, then unpacked."""

from __future__ import annotations

import csv
import difflib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from saddleflow.archives import unpack_reactions
from saddleflow.downloads import download
from saddleflow.errors import DownloadError, InputError

TABLE = Path("config/datasets.tsv")
CACHE = Path("data/downloads")
COLUMNS = ("name", "version", "url", "bytes", "sha256", "contents", "licence", "citation", "notes")
_CONTENTS = re.compile(r"(singlets|doublets)=([0-9]{1,6})\Z")


@dataclass(frozen=True)
class Dataset:
    """One row of the dataset table.

    Parameters
    ----------
    name, version : str
        Together the name of the folder that it is unpacked into.
    url : str
        Address of a zip archive.
    size : int
        Length of the archive in bytes.
    sha256 : str
        Its checksum, 64 hexadecimal digits.
    contents : dict of str to int
        How many structures of which kind (``singlets``, ``doublets``) it must hold.
    licence, citation, notes : str
        For people.
    """

    name: str
    version: str
    url: str
    size: int
    sha256: str
    contents: dict[str, int]
    licence: str
    citation: str
    notes: str


def read_datasets(table: Path | None = None) -> dict[str, Dataset]:
    """Read the dataset table.

    Parameters
    ----------
    table : Path, optional
        A .tsv file; by default ``config/datasets.tsv`` here or in the source tree of this package.

    Raises
    ------
    InputError
        It is missing or a row is wrong.
    """
    if table is None:
        places = [TABLE, Path(__file__).resolve().parents[2] / TABLE]
        table = next((place for place in places if place.is_file()), TABLE)
    try:
        with table.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t", restkey="?"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{table}: can't be read ({reason}); run this in saddleflow's folder") from None
    datasets = {}
    for line, row in enumerate(rows, 2):
        try:
            dataset = _dataset(row)
        except ValueError as error:
            raise InputError(f"{table}, line {line}: {error}") from None
        datasets[dataset.name] = dataset
    return datasets


def _dataset(row: dict[str, str]) -> Dataset:
    if set(row) != set(COLUMNS) or None in row.values():
        raise ValueError(f"needs one cell for each of {', '.join(COLUMNS)}, separated by tabs")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", row["name"]) or not re.fullmatch(r"[\w.-]+", row["version"]):
        raise ValueError("name and version are made of letters, digits and ._-")
    if not re.fullmatch(r"[0-9a-f]{64}", row["sha256"]) or not re.fullmatch(r"[0-9]{1,12}", row["bytes"]):
        raise ValueError("sha256 needs 64 hexadecimal digits in lower case, bytes a whole number")
    contents = [_CONTENTS.match(word) for word in row["contents"].split()]
    if not contents or not all(contents):
        raise ValueError("contents is written like singlets=265 doublets=235")
    return Dataset(
        name=row["name"],
        version=row["version"],
        url=row["url"],
        size=int(row["bytes"]),
        sha256=row["sha256"],
        contents={match[1]: int(match[2]) for match in contents if match},
        licence=row["licence"],
        citation=row["citation"],
        notes=row["notes"],
    )


def fetch(name: str, cache_folder: str | Path = CACHE, table: Path | None = None, pause: float = 1.0) -> Path:
    """Folder of the structures of a known dataset, fetched, checked and unpacked if it is not there yet.

    An archive that was put into the cache folder by hand under the right name is used like a fetched one.

    Parameters
    ----------
    name : str
        Name in the dataset table.
    cache_folder : str or Path
        Where archives and unpacked folders are kept.
    table : Path, optional
        See :func:`read_datasets`.
    pause : float
        Seconds to wait after the first failed try.

    Returns
    -------
    Path
        Folder with ``singlets/*.xyz`` and ``doublets/*.xyz``.

    Raises
    ------
    InputError
        There is no such dataset, or the archive does not hold what the table says.
    DownloadError
        It can't be fetched.
    """
    datasets = read_datasets(table)
    if name not in datasets:
        close = difflib.get_close_matches(name, datasets, 1, 0.5)
        advice = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(datasets)}"
        raise InputError(f"dataset {name[:60]!r} is not in {TABLE}; {advice}")
    dataset = datasets[name]
    cache = Path(cache_folder)
    folder = cache / f"{name}-{dataset.version}"
    if folder.is_dir():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _alone(cache / f".{folder.name}.lock"):
            if not folder.is_dir():
                _unpack(_archive(dataset, cache, pause), folder, dataset)
    except OSError as error:
        raise InputError(f"{error.filename or cache}: can't be written ({error.strerror})") from None
    return folder


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait until no other process fetches the same dataset."""
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _archive(dataset: Dataset, cache: Path, pause: float) -> Path:
    """The checked archive in the cache; nothing opens it before its checksum is right."""
    import pooch

    archive = cache / f"{dataset.name}-{dataset.version}.zip"
    part = archive.with_suffix(".zip.part")

    def fetch_part(url: str, output_file: str, _: object) -> None:
        try:
            download(url, part, dataset.size, pause_seconds=pause)
        except DownloadError as error:
            raise DownloadError(_by_hand(str(error), dataset, archive)) from None
        # Whatever the checksum says, the part has served: a wrong one must not be continued.
        os.replace(part, output_file)

    pooch.get_logger().setLevel("WARNING")
    try:
        pooch.retrieve(
            dataset.url,
            known_hash=f"sha256:{dataset.sha256}",
            fname=archive.name,
            path=cache,
            downloader=fetch_part,
        )
    except ValueError:  # pooch's word for a wrong checksum; it keeps nothing then
        reason = (
            f"{dataset.url}: what arrived has another SHA-256 than the dataset table says; it was thrown away"
        )
        raise DownloadError(_by_hand(reason, dataset, archive)) from None
    return archive


def _by_hand(reason: str, dataset: Dataset, archive: Path) -> str:
    hand = f"try again, or put the archive (SHA-256 {dataset.sha256[:12]}...) at {archive} yourself"
    return f"dataset {dataset.name}: {reason}; {hand}, or give reactions: FOLDER"


def _unpack(archive: Path, folder: Path, dataset: Dataset) -> None:
    """Unpack beside `folder` and rename, so that it is there whole or not at all."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        unpack_reactions(archive, temporary, dataset.contents)
        cite = f"{dataset.name} {dataset.version}\nfrom: {dataset.url}\nlicence: {dataset.licence}\n"
        (temporary / "CITATION.txt").write_text(f"{cite}cite: {dataset.citation}\n", encoding="utf-8")
        temporary.chmod(0o755)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
