"""Datasets: fetched over HTTP with interruptions, checked before anything is opened, unpacked with care."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from saddleflow.archives import unpack_reactions
from saddleflow.datasets import COLUMNS, fetch, read_datasets
from saddleflow.errors import DownloadError, InputError
from saddleflow.reactions import read_reactions

CONTENTS = {"singlets": 3, "doublets": 2}


def molecule(multiplicity: int, seed: int = 0, comment: str = "guess") -> str:
    """Water, or OH for doublets, slightly shaken."""
    positions = np.array([[0, 0, 0], [0, 0, 0.96], [0.93, 0, -0.24]])[: 4 - multiplicity]
    positions = positions + np.random.default_rng(seed).normal(scale=0.01, size=positions.shape)
    lines = [f"{s} {x!r} {y!r} {z!r}" for s, (x, y, z) in zip("OHH", positions.tolist(), strict=False)]
    return "\n".join([str(len(positions)), comment, *lines]) + "\n"


def zipped(members: dict[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return buffer.getvalue()


def usual(folder: str = "sella_si_data/{kind}/{number:03d}.xyz") -> dict[str, str | bytes]:
    return {
        folder.format(kind=kind, number=number): molecule(1 if kind == "singlets" else 2, number)
        for kind, count in CONTENTS.items()
        for number in range(count)
    }


ARCHIVE = zipped(usual() | {"sella_si_data/pad.bin": bytes(np.random.default_rng(1).bytes(200_000))})


@dataclass
class Server:
    """A local HTTP server whose faults a test chooses: `answer` gets (range start, number of the request)."""

    data: bytes
    answer: Callable[[Server, BaseHTTPRequestHandler, int], None] | None = None
    starts: list[int] = field(default_factory=list)
    url: str = ""

    def send(self, request: BaseHTTPRequestHandler, start: int, stop: int | None = None, total: int = 0):
        """Send bytes from `start`, breaking off at `stop` after having promised everything."""
        request.send_response(206 if start else 200)
        if start:
            size = len(self.data)
            request.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        request.send_header("Content-Length", str(total or len(self.data) - start))
        request.end_headers()
        request.wfile.write(self.data[start:stop])
        request.wfile.flush()
        request.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server(ARCHIVE)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range", "bytes=0-")
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            state.starts.append(start)
            (state.answer or (lambda s, request, at: s.send(request, at)))(state, self, start)

        def log_message(self, *_):
            pass

    daemon = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=daemon.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{daemon.server_port}/data.zip"
    yield state
    daemon.shutdown()
    daemon.server_close()
    thread.join()


@pytest.fixture
def get(server, tmp_path, monkeypatch):
    """Fetch from the server into a fresh cache; `data` is what the table promises."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def call(data: bytes = ARCHIVE, url: str = "", contents: str = "singlets=3 doublets=2") -> Path:
        table = tmp_path / "datasets.tsv"
        cells = ["tiny", "1", url or server.url, str(len(data)), hashlib.sha256(data).hexdigest(), contents]
        table.write_text("\t".join(COLUMNS) + "\n" + "\t".join([*cells, "CC0", "nobody", "none"]) + "\n")
        return fetch("tiny", tmp_path / "cache", table, pause=0.0)

    call.cache = tmp_path / "cache"
    return call


def test_fetch_once_and_read(server, get):
    folder = get()
    assert [r.name for r in read_reactions(folder)] == ["d000", "d001", "s000", "s001", "s002"]
    assert "cite: nobody" in (folder / "CITATION.txt").read_text()
    assert get() == folder
    assert server.starts == [0]
    assert {path.name for path in get.cache.iterdir()} == {"tiny-1", "tiny-1.zip", ".tiny-1.lock"}


def test_broken_connection_goes_on_where_it_stopped(server, get):
    def breaking(state, request, start):
        state.send(request, start, stop=start + 70_000)

    server.answer = breaking
    assert len(read_reactions(get())) == 5
    assert server.starts == [0, 70_000, 140_000]


def test_what_arrived_before_giving_up_serves_the_next_fetch(server, get):
    def dying(state, request, start):
        if start:
            request.send_error(503)
        else:
            state.send(request, 0, stop=100_000)

    server.answer = dying
    with pytest.raises(DownloadError, match=r"HTTP 503.*100000 of \d+ bytes are kept"):
        get()
    assert (get.cache / "tiny-1.zip.part").stat().st_size == 100_000
    server.answer, server.starts = None, []
    assert len(read_reactions(get())) == 5
    assert server.starts == [100_000]


def test_server_without_ranges_starts_again(server, get):
    def deaf(state, request, _start):
        state.send(request, 0, stop=70_000 if len(state.starts) == 1 else None)

    server.answer = deaf
    assert len(read_reactions(get())) == 5
    assert server.starts == [0, 70_000]


def test_part_that_the_server_does_not_know_is_dropped(server, get):
    def choosy(state, request, start):
        if start:
            request.send_error(416)
        else:
            state.send(request, 0)

    server.answer = choosy
    get.cache.mkdir()
    (get.cache / "tiny-1.zip.part").write_bytes(b"x" * 10)
    assert len(read_reactions(get())) == 5
    assert server.starts == [10, 0]


def test_wrong_part_range_is_not_appended(server, get):
    def lying(state, request, start):
        if len(state.starts) == 1:
            request.send_response(206)
            request.send_header("Content-Range", "bytes 3-9/10")
            request.end_headers()
            request.wfile.write(b"garbage")
        else:
            state.send(request, start)

    server.answer = lying
    get.cache.mkdir()
    (get.cache / "tiny-1.zip.part").write_bytes(ARCHIVE[:10])
    assert len(read_reactions(get())) == 5


def test_wrong_checksum_is_never_opened_and_thrown_away(server, get, monkeypatch):
    server.data = ARCHIVE[:-1] + b"!"
    monkeypatch.setattr("saddleflow.datasets.unpack_reactions", lambda *_: pytest.fail("opened"))
    with pytest.raises(DownloadError, match="another SHA-256"):
        get()
    assert [path.name for path in get.cache.iterdir()] == [".tiny-1.lock"]
    monkeypatch.undo()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server.data = ARCHIVE
    assert len(read_reactions(get())) == 5


def test_damaged_part_is_found_out_by_the_checksum(server, get):
    get.cache.mkdir()
    (get.cache / "tiny-1.zip.part").write_bytes(b"x" * 10)
    with pytest.raises(DownloadError, match="another SHA-256"):
        get()
    assert len(read_reactions(get())) == 5


def test_server_that_sends_too_much_is_stopped(server, get):
    server.data = ARCHIVE + b"more"
    with pytest.raises(DownloadError, match="more than the"):
        get()


def test_missing_file_is_not_tried_again(server, get):
    server.answer = lambda _state, request, _start: request.send_error(404)
    with pytest.raises(DownloadError, match=r"HTTP 404.*yourself"):
        get()
    assert len(server.starts) == 1


def test_no_server(get):
    with pytest.raises(DownloadError, match="refused"):
        get(url="http://127.0.0.1:9/data.zip")
    with pytest.raises(DownloadError, match="only http"):
        get(url="file:///etc/passwd")


def test_archive_put_there_by_hand_is_used(server, get):
    get.cache.mkdir()
    (get.cache / "tiny-1.zip").write_bytes(ARCHIVE)
    assert len(read_reactions(get())) == 5
    assert server.starts == []


def test_archive_with_the_wrong_contents_leaves_nothing_unpacked(get):
    with pytest.raises(InputError, match="expected one family of 4 singlets"):
        get(contents="singlets=4 doublets=2")
    assert {path.name for path in get.cache.iterdir()} == {"tiny-1.zip", ".tiny-1.lock"}


def test_shipped_table_and_unknown_names(tmp_path):
    hermes = read_datasets()["hermes500"]
    assert hermes.size == 254573
    assert hermes.sha256 == "ff51e679bc5499dfce73e59e5f90872a7f14dbfa66bf80762bb3efe739a0f00c"
    assert hermes.url.endswith("/360010e90bfededc5f6b413b391c310bb1c33f9a/data/sella_si_data.zip")
    assert hermes.contents == {"singlets": 265, "doublets": 235}
    assert hermes.licence
    assert "10.1021/acs.jctc.2c00395" in hermes.citation
    with pytest.raises(InputError, match="did you mean 'hermes500'"):
        fetch("hermes", tmp_path)
    with pytest.raises(InputError, match="known: hermes500"):
        read_reactions("dataset:../../etc")
    with pytest.raises(InputError, match="can't be read"):
        read_datasets(tmp_path / "none.tsv")
    (tmp_path / "bad.tsv").write_text("\t".join(COLUMNS) + "\nx\t1\n")
    with pytest.raises(InputError, match=r"bad.tsv, line 2"):
        read_datasets(tmp_path / "bad.tsv")


# ---------------------------------------------------------------- archives


def unpack(tmp_path: Path, members: dict[str, str | bytes] | bytes) -> list[str]:
    archive = tmp_path / "a.zip"
    archive.write_bytes(members if isinstance(members, bytes) else zipped(members))
    target = tmp_path / "out"
    target.mkdir()
    unpack_reactions(archive, target, CONTENTS)
    return [f"{r.name}:{r.charge}:{r.multiplicity}" for r in read_reactions(target)]


EXPECTED = ["d000:0:2", "d001:0:2", "s000:0:1", "s001:0:1", "s002:0:1"]


@pytest.mark.parametrize(
    "members",
    [
        usual(),
        usual("{kind}/{number}.xyz"),
        usual("a/b 12/Set_{kind}/{number:03d}/init.XYZ"),
        usual("{kind}/guess_{number:02d}.extxyz"),
        {name.replace("lets/", "let/"): text for name, text in usual().items()},
        usual() | {"__MACOSX/singlets/._000.xyz": b"\0", "singlets/readme.txt": "x", "singlets/.x.xyz": ""},
        usual() | {f"sella_si_data/singlets/{i:03d}_end.xyz": molecule(1) for i in range(2)},
        usual() | {"reference/water.xyz": molecule(1)},
        {
            "all/singlets.xyz": "".join(molecule(1, i) for i in range(3)),
            "all/doublets.xyz": "".join(molecule(2, i) for i in range(2)),
        },
    ],
    ids=["usual", "flat", "folder-each", "prefix", "singular", "litter", "more", "unrelated", "multi-frame"],
)
def test_layouts_of_the_archive(tmp_path, members):
    assert unpack(tmp_path, members) == EXPECTED


def test_coordinates_and_charges_survive_exactly(tmp_path):
    members = usual()
    members["sella_si_data/singlets/001.xyz"] = molecule(1, 1, "charge=2 multiplicity=1")
    assert "s001:2:1" in unpack(tmp_path, members)
    (reaction,) = read_reactions(tmp_path / "out" / "singlets" / "002.xyz")
    expected = [float(word) for word in molecule(1, 2).splitlines()[3].split()[1:]]
    assert reaction.positions[1].tolist() == expected


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (b"PK no zip", "not a sound zip"),
        (zipped(usual())[:300], "not a sound zip"),
        ({}, "found no .xyz file"),
        ({"readme.txt": "x"}, "found no .xyz file"),
        (usual("{kind}/{number}.txt"), "found no .xyz file"),
        ({"set/000.xyz": molecule(1)}, "neither singlets nor doublets"),
        ({k: v for k, v in usual().items() if "002" not in k}, "singlets/#.xyz (2, singlets)"),
        (usual() | usual("again/{kind}/{number}.xyz"), "expected one family of 3 singlets + 2 doublets"),
        (usual("{kind}/a{number}/0.xyz"), "more than once"),
        ({"../evil.xyz": molecule(1)}, "points outside"),
        ({"/evil.xyz": molecule(1)}, "points outside"),
        ({"C:\\evil.xyz": molecule(1)}, "points outside"),
        (usual() | {"sella_si_data/singlets/000.xyz": "3\n\nO 0 0 zero\n"}, "says 3 atoms"),
        (usual() | {"sella_si_data/singlets/000.xyz": molecule(1, 0, "multiplicity=3")}, "multiplicity=3"),
        (
            usual() | {"sella_si_data/singlets/000.xyz": molecule(1, 0, "charge=x")},
            "'x' is not a whole number",
        ),
        (usual() | {"sella_si_data/singlets/000.xyz": b" " * 6_000_000}, "larger than 5 MB"),
    ],
)
def test_archives_that_are_refused(tmp_path, members, words):
    with pytest.raises(InputError) as caught:
        unpack(tmp_path, members)
    assert words in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "out"}


def test_damaged_member_is_one_clear_line(tmp_path):
    data = bytearray(zipped(usual()))
    data[60:70] = bytes(10)
    with pytest.raises(InputError, match="not a sound zip"):
        unpack(tmp_path, bytes(data))
