"""Reaction sets: everything that a person may hand over is read, or answered in one clear line."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saddleflow.errors import InputError
from saddleflow.reactions import Reaction, check_reaction, read_reactions

ROOT = Path(__file__).resolve().parents[2]
HCN = "3\nname=hcn charge=0 multiplicity=1\nC 0 0 0\nN 0 0 1.2\nH 1.0 0.2 0.4\n"
WATER = [("O", 0.0, 0.0, 0.0), ("H", 0.0, 0.0, 0.96), ("H", 0.93, 0.0, -0.24)]


def xyz(atoms, comment: str = "") -> str:
    return f"{len(atoms)}\n{comment}\n" + "".join(f"{s} {x} {y} {z}\n" for s, x, y, z in atoms)


def problems(path) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_reactions(path)
    assert all("\n" not in problem and problem for problem in caught.value.problems)
    return caught.value.problems


def one_problem(tmp_path: Path, content: str | bytes, name: str = "a.xyz") -> str:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    (problem,) = problems(tmp_path)
    assert str(file) in problem
    return problem


# ---------------------------------------------------------------- what must be accepted


def test_folder_with_subfolders_sorted_and_other_files_ignored(tmp_path):
    for folder, name in (("singlets", "s000"), ("doublets", "d000")):
        (tmp_path / folder).mkdir()
        multiplicity = 1 if name[0] == "s" else 2
        text = xyz(WATER[: 4 - multiplicity], f"name={name} charge=0 multiplicity={multiplicity}")
        (tmp_path / folder / "000.xyz").write_text(text)
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / ".hidden.xyz").write_text("broken")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.xyz").write_text("broken")
    reactions = read_reactions(tmp_path)
    assert [(r.name, r.multiplicity) for r in reactions] == [("d000", 2), ("s000", 1)]


def test_names_come_from_files_and_get_their_subfolder_only_where_needed(tmp_path):
    for path in ("singlets/000.xyz", "doublets/000.xyz", "doublets/001.xyz", "top.xyz"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(xyz(WATER))
    names = [r.name for r in read_reactions(str(tmp_path))]
    assert names == ["doublets_000", "001", "singlets_000", "top"]


def test_multi_frame_file_names_its_frames(tmp_path):
    file = tmp_path / "set.extxyz"
    file.write_text(xyz(WATER) + xyz(WATER, "name=second") + "\n\n" + xyz(WATER) + "\n \n")
    assert [r.name for r in read_reactions(file)] == ["set-000", "second", "set-002"]
    file.write_text(xyz(WATER))
    assert [r.name for r in read_reactions(file)] == ["set"]


@pytest.mark.parametrize(
    "text",
    [
        HCN,
        HCN.replace("\n", "\r\n"),
        HCN.replace("\n", "\r"),
        "\ufeff" + HCN,
        HCN.replace(" 0 0 ", "\t0\t 0\t"),
        HCN + "\n\n   \n",
        "\n" + HCN,
        HCN.rstrip("\n"),
        HCN.replace("C 0", "6 0").replace("H 1", "1 1"),
        HCN.replace("C 0", "c 0").replace("N 0", "n 0"),
        HCN.replace("1.0 0.2", "1.0D+00 +2.e-1"),
        HCN.replace("0.4\n", "0.4 17 -0.3 text\n"),
        HCN.replace("charge=0", 'energy=-92.9 Charge = +0 note="a=b, charge" '),
        HCN.replace("charge=0", "charge=0.0 Lattice='5 0 0 0 5 0 0 0 5'"),
    ],
)
def test_ways_of_writing_the_same_structure(tmp_path, text):
    (tmp_path / "a.XYZ").write_bytes(text.encode())
    (reaction,) = read_reactions(tmp_path)
    assert reaction.name == "hcn"
    assert reaction.symbols == ("C", "N", "H")
    assert reaction.positions.tolist() == [[0, 0, 0], [0, 0, 1.2], [1.0, 0.2, 0.4]]
    assert (reaction.charge, reaction.multiplicity) == (0, 1)


def test_properties_place_the_columns(tmp_path):
    comment = 'Properties=forces:R:3:Z:I:1:tag:S:1:pos:R:3 pbc="F F F" name=w'
    text = f"2\n{comment}\n9 9 9 1 t 0 0 0\n8 8 8 9 t 0 0 0.9\n"
    (tmp_path / "w.extxyz").write_text(text)
    (reaction,) = read_reactions(tmp_path)
    assert reaction.symbols == ("H", "F")
    assert reaction.positions[1].tolist() == [0, 0, 0.9]


def test_what_ase_writes_is_read_exactly(tmp_path):
    from ase import Atoms
    from ase.io import write

    positions = np.random.default_rng(3).normal(size=(3, 3))
    atoms = Atoms("OHH", positions=positions, info={"charge": -1, "multiplicity": 2, "name": "w"})
    write(tmp_path / "w.extxyz", atoms)
    write(tmp_path / "v.xyz", Atoms("OHH", positions=positions), format="xyz")
    plain, extended = read_reactions(tmp_path)
    assert (extended.charge, extended.multiplicity) == (-1, 2)
    assert np.allclose(extended.positions, positions, atol=1e-8)
    assert np.allclose(plain.positions, positions, atol=1e-8)


@pytest.mark.parametrize(
    ("comment", "charge", "multiplicity", "said"),
    [
        ("a free text of a person", 0, 1, "charge 0 assumed, multiplicity 1 assumed"),
        ("charge=1", 1, 2, "charge 1 from its comment line, multiplicity 2 assumed"),
        ("multiplicity=3", 0, 3, "charge 0 assumed, multiplicity 3 from its comment line"),
        ("mult=3 charge=-2", -2, 3, "multiplicity 3 from its comment line"),
    ],
)
def test_charge_and_multiplicity_are_given_or_assumed_and_said(
    tmp_path, caplog, comment, charge, multiplicity, said
):
    (tmp_path / "w.xyz").write_text(xyz(WATER, comment))
    with caplog.at_level(logging.INFO, "saddleflow"):
        (reaction,) = read_reactions(tmp_path)
    assert (reaction.charge, reaction.multiplicity) == (charge, multiplicity)
    assert said in reaction.source
    assert ("assumed" in said) == any("assumed" in r.getMessage() for r in caplog.records)
    assert check_reaction(reaction) == []


def test_round_trip_through_json_form(tmp_path):
    (tmp_path / "a.xyz").write_text(HCN)
    (reaction,) = read_reactions(tmp_path)
    again = Reaction.from_dict(replace(reaction, difference=np.ones((3, 3)) / 3).to_dict())
    assert np.array_equal(again.difference, np.ones((3, 3)) / 3)
    assert np.array_equal(again.positions, reaction.positions)
    assert again.source == reaction.source


def test_shipped_sets_are_sound():
    starter = {r.name: r for r in read_reactions(ROOT / "data" / "starter")}
    assert len(starter) >= 10
    assert all("assumed" not in r.source for r in starter.values())
    sizes = [len(r.symbols) for r in starter.values()]
    assert min(sizes) == 3
    assert max(sizes) >= 10
    assert {r.charge for r in starter.values()} == {-1, 0, 1}
    assert {r.multiplicity for r in starter.values()} == {1, 2}
    assert any(r.numbers.max() > 10 for r in starter.values())
    larger = read_reactions(ROOT / "data" / "larger")
    assert min(len(r.symbols) for r in larger) >= 16


# ---------------------------------------------------------------- tables


def table_folder(tmp_path: Path) -> Path:
    (tmp_path / "xyz").mkdir()
    (tmp_path / "xyz" / "w.xyz").write_text(xyz(WATER, "charge=0 multiplicity=1"))
    moved = [(s, x + 5, y, z + (0.4 if i == 1 else 0)) for i, (s, x, y, z) in enumerate(WATER)]
    (tmp_path / "xyz" / "p.xyz").write_text(xyz(moved))
    (tmp_path / "direction.txt").write_text("0 0 0\n0 0 1\n0 1 0\n")
    (tmp_path / "direction.xyz").write_text("3\n\nO 0 0 0\nh 0 0 1\n1 0 1 0\n")
    return tmp_path


@pytest.mark.parametrize(("suffix", "delimiter"), [("tsv", "\t"), ("csv", ","), ("csv", ";"), ("CSV", ",")])
def test_table(tmp_path, suffix, delimiter):
    rows = [
        "# my reactions",
        "name|file|charge|multiplicity|start_direction|reactant|product",
        "",
        "a|xyz/w.xyz|||direction.txt||",
        '"b"|xyz/w.xyz|1|2|direction.xyz|xyz/w.xyz|xyz/p.xyz',
        "|xyz/w.xyz",
    ]
    table = table_folder(tmp_path) / f"set.{suffix}"
    table.write_text("\ufeff" + "\r\n".join(rows).replace("|", delimiter), encoding="utf-8")
    a, b, w = read_reactions(table)
    assert [r.name for r in (a, b, w)] == ["a", "b", "w"]
    assert (a.charge, a.multiplicity, b.charge, b.multiplicity) == (0, 1, 1, 2)
    assert a.start_direction.tolist() == b.start_direction.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0]]
    # The shift by 5 A is no part of the difference, the stretched bond is.
    assert 0.1 < np.abs(b.difference).max() < 0.4
    assert w.difference is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name\tfil\na\tx\n", "unknown column 'fil'; did you mean 'file'"),
        ("name\tfile\tmultiplicty\na\tx\t1\n", "did you mean 'multiplicity'"),
        ("name\tfile\tqqqq\na\tx\t1\n", "known columns"),
        ("name,file\na,x\n", "separate the columns by a tab"),
        ("name\tfile\tname\na\tx\tb\n", "twice"),
        ("name\tcharge\na\t0\n", "'file' is missing"),
        ("file\treactant\nxyz/w.xyz\tx\n", "go together"),
        ("name\tfile\n", "no rows"),
        ("# nothing\n\n", "no rows"),
        ("name\tfile\na\t\n", "line 2: the cell under file is empty"),
        ("file\tname\nxyz/w.xyz\ta\tb\n", "line 2: 3 cells under 2 columns"),
        ("file\nxyz/nothing.xyz\n", "there is no such file"),
        ("file\tcharge\nxyz/w.xyz\tone\n", "line 2: charge 'one' is not a whole number"),
        ("file\tcharge\nxyz/w.xyz\t1\n", "multiplicity 1 is impossible with an odd number"),
        ("file\tmultiplicity\nxyz/w.xyz\t-1\n", "multiplicity -1 is impossible"),
        ("file\tstart_direction\nxyz/w.xyz\tshort.txt\n", "holds 2 vectors for 3 atoms"),
        ("file\tstart_direction\nxyz/w.xyz\tzero.txt\n", "is zero"),
        ("file\tstart_direction\nxyz/w.xyz\tnan.txt\n", "line 3: 'nan' is not a finite number"),
        ("file\tstart_direction\nxyz/w.xyz\telement.txt\n", "atom 1 of the structure is O"),
        ("file\tstart_direction\nxyz/w.xyz\twide.txt\n", "found 5 columns"),
        ("file\tstart_direction\nxyz/w.xyz\tcount.txt\n", "holds 0 vectors"),
        ("file\treactant\tproduct\nxyz/w.xyz\txyz/w.xyz\txyz/w.xyz\n", "difference is zero"),
        ("file\treactant\tproduct\nxyz/w.xyz\txyz/w.xyz\thcn.xyz\n", "line 3: atom 1 is C, in the guess O"),
        ("file\treactant\tproduct\nxyz/w.xyz\txyz/w.xyz\t\n", "the cell under product is empty"),
        ("file\tname\nxyz/w.xyz\ta/b\n", "name 'a/b' can't be used"),
        ('file\tname\n"xyz/w.xyz\ta\n', "quotes"),
        ("file\nmany.xyz\n", "holds 2 structures"),
        ("file\nxyz\n", "is a folder"),
    ],
)
def test_table_problems(tmp_path, text, words):
    folder = table_folder(tmp_path)
    (folder / "short.txt").write_text("0 0 1\n0 0 1\n")
    (folder / "zero.txt").write_text("0 0 0\n0 0 0\n0 0 0\n")
    (folder / "nan.txt").write_text("0 0 0\n0 0 1\n0 0 nan\n")
    (folder / "element.txt").write_text("C 0 0 1\nH 0 0 1\nH 0 0 1\n")
    (folder / "wide.txt").write_text("0 0 0\n0 0 0 1 2\n0 0 1\n")
    (folder / "count.txt").write_text("3\n")
    (folder / "hcn.xyz").write_text(HCN)
    (folder / "many.xyz").write_text(HCN + HCN)
    (folder / "set.tsv").write_text(text)
    (problem,) = problems(folder / "set.tsv")
    assert words in problem
    assert "set.tsv" in problem


# ---------------------------------------------------------------- what must be refused


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("hello\nworld\n", "line 1: the number of atoms"),
        ("C 0 0 0\nH 0 0 1\n", "line 1: the number of atoms"),
        ("3", "line 1: says 3 atoms, but 0 follow"),
        (HCN.replace("3", "4", 1), "line 1: says 4 atoms, but 3 follow"),
        (HCN.replace("3", "2", 1), "line 5: the number of atoms"),
        (HCN.replace("N 0 0 1.2\n", ""), "line 1: says 3 atoms, but 2 follow"),
        (HCN.replace("N 0 0 1.2\n", "\n"), "line 1: says 3 atoms, but 1 follow"),
        (HCN.replace("3", "-3", 1), "line 1: the number of atoms"),
        (HCN.replace("3", "0", 1), "line 1: 0 atoms"),
        (HCN.replace("3", "999999999", 1), "line 1: 999999999 atoms"),
        (HCN.replace("3", "9" * 5000, 1), "line 1: the number of atoms"),
        (HCN.replace("N 0", "Xx 0"), "line 4: unknown element 'Xx'"),
        (HCN.replace("N 0", "X 0"), "line 4: unknown element 'X'"),
        (HCN.replace("N 0", "0 0"), "no element with atomic number 0"),
        (HCN.replace("N 0", "119 0"), "no element with atomic number 119"),
        (HCN.replace("H 1", "H12 1"), "write 'H' without its label"),
        (HCN.replace("H 1", "D 1"), "write 'H'"),
        (HCN.replace("1.2", "1,2"), "line 4: '1,2' is not a number"),
        (HCN.replace("1.2", "1_2"), "line 4: '1_2' is not a number"),
        (HCN.replace("1.2", "\u0661"), "line 4: '\u0661' is not a number"),
        (HCN.replace("1.2", "NaN"), "line 4: 'NaN' is not a finite number"),
        (HCN.replace("1.2", "-inf"), "line 4: '-inf' is not a finite number"),
        (HCN.replace("1.2", "1e999"), "line 4: '1e999' is too large"),
        (HCN.replace("1.2", "1e9"), "line 4: coordinate 1e9 is too far away"),
        (HCN.replace("N 0 0 1.2", "N 0 0"), "line 4: an atom needs a symbol and three coordinates"),
        (HCN.replace("0 0 1.2", "0 0 0.05"), "atoms 1 (C) and 2 (N) are 0.05 A apart"),
        ("1\n\nH 0 0 0\n", "1 atom; a reaction needs 2"),
        (HCN.replace("multiplicity=1", "multiplicity=2"), "multiplicity 2 is impossible with an even number"),
        (HCN.replace("multiplicity=1", "multiplicity=0"), "multiplicity 0 is impossible"),
        (HCN.replace("multiplicity=1", "multiplicity=17"), "multiplicity 17 is impossible with 14 electrons"),
        (HCN.replace("charge=0", "charge=14"), "charge 14 is impossible with 14 protons"),
        (HCN.replace("charge=0", "charge=-60"), "charge -60 is impossible"),
        (HCN.replace("charge=0", "charge=zero"), "line 2: charge 'zero' is not a whole number"),
        (HCN.replace("charge=0", "charge=0.5"), "line 2: charge '0.5' is not a whole number"),
        (HCN.replace("charge=0", "charge=0 charge=1"), "line 2: the comment says charge= twice"),
        (HCN.replace("multiplicity=1", "multiplicty=3"), "did you mean multiplicity=?"),
        (HCN.replace("name=hcn", "name='../x; rm -rf ~'"), "name '../x; rm -rf ~' can't be used"),
        (HCN.replace("name=hcn", "name=a..b"), "name 'a..b' can't be used"),
        (HCN.replace("name=hcn", "name=-rf"), "write for example name=rf"),
        (HCN.replace("name=hcn", "name=.hidden"), "write for example name=hidden"),
        (HCN.replace("name=hcn", f"name={'n' * 81}"), "at most 80"),
        (HCN.replace("name=hcn", "name=''"), "name '' can't be used"),
        (HCN.replace("name=hcn", "name=caf\u00e9"), "can't be used"),
        (HCN.replace("name=hcn", "Properties=pos:R:3"), "lacks species:S:1 or pos:R:3"),
        (HCN.replace("name=hcn", "Properties=species:S"), "can't be read"),
        (HCN.replace("name=hcn", "Properties=species:S:1:x:R:7"), "lacks species:S:1 or pos"),
        (xyz(WATER) * 2, "holds 2 structures without names"),
        (HCN.encode()[:9] + b"\xff" + HCN.encode()[9:], "line 2: byte 0xff is not UTF-8"),
        (HCN.encode("utf-16"), "UTF-16"),
        (HCN.encode() + b"\0\0", "NUL byte"),
        (b"\x89HDF\r\n\x1a\n" + bytes(range(256)), "not UTF-8"),
        ("501\n\n" + "H 0 0 0\n" * 501, "501 atoms"),
    ],
)
def test_each_mistake_in_a_file_is_one_clear_line(tmp_path, text, words):
    start = time.perf_counter()
    assert words in one_problem(tmp_path, text)
    assert time.perf_counter() - start < 1.0


def test_all_problems_of_a_set_come_at_once(tmp_path):
    (tmp_path / "a.xyz").write_text(HCN.replace("N 0", "Xx 0").replace("0.4", "nan"))
    (tmp_path / "b.xyz").write_text(HCN.replace("multiplicity=1", "multiplicity=2"))
    (tmp_path / "c.xyz").write_text("")
    (tmp_path / "d.xyz").write_text(HCN)
    (tmp_path / "e.xyz").write_text(HCN.replace("name=hcn", "name=HCN"))
    found = problems(tmp_path)
    assert [Path(problem.split(",")[0].split(":")[0]).name for problem in found[:4]] == [
        "a.xyz",
        "a.xyz",
        "c.xyz",
        "b.xyz",
    ]
    assert len(found) == 5
    assert "'HCN' and 'hcn' is used 3 times" in found[4]
    assert all(str(tmp_path / name) in found[4] for name in ("b.xyz", "d.xyz", "e.xyz"))


def test_a_thoroughly_broken_file_does_not_flood(tmp_path):
    (tmp_path / "a.xyz").write_text("300\n\n" + "Xx 0 0 zero\n" * 300)
    found = problems(tmp_path)
    assert len(found) == 6
    assert "295 more" in found[-1]


def test_more_than_five_megabytes_are_refused_quickly(tmp_path):
    start = time.perf_counter()
    assert "larger than 5 MB" in one_problem(tmp_path, HCN * 200_000)
    assert time.perf_counter() - start < 1.0


def test_columns_beyond_the_line_are_one_problem_an_atom(tmp_path):
    (tmp_path / "a.xyz").write_text(HCN.replace("name=hcn", "Properties=species:S:1:x:R:7:pos:R:3"))
    found = problems(tmp_path)
    assert len(found) == 3
    assert all("an atom needs a symbol and three coordinates" in problem for problem in found)


def test_file_name_with_a_line_break_is_named_in_one_line(tmp_path):
    (tmp_path / "a\nb.xyz").write_text(HCN)
    assert "a\\nb.xyz" in problems(tmp_path)[0]


def test_missing_empty_and_strange_places(tmp_path):
    (tmp_path / "reactions").mkdir()
    assert "holds no .xyz" in problems(tmp_path / "reactions")[0]
    assert f"did you mean {tmp_path / 'reactions'}?" in problems(tmp_path / "reaction")[0]
    (tmp_path / "set.pdf").write_text("x")
    assert "neither a folder nor a file" in problems(tmp_path / "set.pdf")[0]
    assert "no such file" in problems(tmp_path / "none.xyz")[0]
    for odd in (
        "",
        "\0",
        "a\0.xyz",
        "x" * 5000,
        "x" * 5000 + ".xyz",
        "~nobody-here-at-all/x",
        "\ud800.xyz",
        " ",
        "dataset:",
    ):
        assert problems(odd)
    os.mkfifo(tmp_path / "reactions" / "pipe.xyz")
    (tmp_path / "reactions" / "gone.xyz").symlink_to(tmp_path / "nowhere")
    found = problems(tmp_path / "reactions")
    assert ["no such file" in found[0], "not a regular file" in found[1]] == [True, True]


def test_links_in_a_circle_are_followed_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "hcn.xyz").write_text(HCN)
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    assert [r.name for r in read_reactions(tmp_path)] == ["hcn"]


def test_unreadable_file_and_folder(tmp_path, monkeypatch):
    (tmp_path / "a.xyz").write_text(HCN)

    def denied(self, *_args, **_keywords):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", denied)
    assert "may not be read" in problems(tmp_path)[0]


def test_reactions_built_in_python_are_checked_too():
    good = Reaction("w", ("O", "H", "H"), np.array([[0, 0, 0], [0, 0, 0.96], [0.93, 0, -0.2]]))
    assert check_reaction(good) == []
    bad = {
        "shape": replace(good, positions=np.zeros((2, 3))),
        "finite": replace(good, positions=np.full((3, 3), np.nan)),
        "unknown element": replace(good, symbols=("O", "H", "Zz")),
        "start_direction is zero": replace(good, start_direction=np.zeros((3, 3))),
        "start_direction must be 3 x 3": replace(good, start_direction=np.ones(9)),
        "difference must be": replace(good, difference=np.full((3, 3), np.inf)),
        "can't be used": replace(good, name="a b"),
        "impossible": replace(good, multiplicity=2),
    }
    for words, reaction in bad.items():
        (problem,) = check_reaction(reaction)
        assert words in problem


LINES = st.lists(
    st.one_of(
        st.sampled_from(HCN.split("\n")),
        st.sampled_from(
            ["", " ", "3", "2", "H 0 0 0", "Properties=species:S:1:pos:R:3", "name=", 'a="b', "{=}"]
        ),
        st.text(max_size=30),
    ),
    max_size=12,
).map("\n".join)


@settings(max_examples=200, deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=200), LINES.map(lambda text: text.encode("utf-8", "replace"))))
def test_no_content_gives_anything_but_reactions_or_an_input_error(tmp_path, content):
    for name in ("a.xyz", "a.tsv", "a.csv"):
        (tmp_path / name).write_bytes(content)
        try:
            reactions = read_reactions(tmp_path / name)
        except InputError as error:
            assert error.problems
        else:
            assert all(not check_reaction(reaction) for reaction in reactions)


@settings(max_examples=100, deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=100), LINES.map(lambda text: text.encode("utf-8", "replace"))))
def test_no_direction_file_gives_anything_but_an_input_error(tmp_path, content):
    (tmp_path / "hcn.xyz").write_text(HCN)
    (tmp_path / "direction").write_bytes(content)
    (tmp_path / "set.tsv").write_text("file\tstart_direction\nhcn.xyz\tdirection\n")
    try:
        (reaction,) = read_reactions(tmp_path / "set.tsv")
    except InputError as error:
        assert error.problems
    else:
        assert np.isfinite(reaction.start_direction).all()
