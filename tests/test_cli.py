"""The command line: wrong inputs get one line and exit status 2 and leave nothing behind; prompt files, file names,
resumed pictures, devices."""

import csv
import gc
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import earlib
from earlib import ROOT
from earlib.__main__ import GARBAGE, main
from earlib.arguments import parser
from earlib.erasure.store import Erasure, NoErasure
from earlib.errors import UserError
from earlib.generators import default_keys
from earlib.generators.album import check_folder, draw_pictures, plan_pictures
from earlib.prompts import LONGEST_SLUG, Prompt, read_prompts, slugs

HEAVY = ("torch", "transformers", "matplotlib", "pandas", "numpy", "PIL", "open_clip")
needs_model = pytest.mark.skipif(not (ROOT / "data" / "mini" / "janus").is_dir(), reason="data/mini/janus is not there")


def python(*arguments, environment=None, **more):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(environment or {})}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, env=env, **more)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, with prompt files good and bad."""
    monkeypatch.chdir(tmp_path)
    files = {
        "good.txt": "a red church on a hill\na blue boat by the sea\n",
        "empty.txt": "\n \n",
        "bad.jsonl": '{"key": "a", "prompt": "a red church"}\n{"key": "b"}\n',
        "file": "not a folder\n",
        "concept.json": '{"name": "mine"}',
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "binary.txt").write_bytes(b"a red church\n\xff\xfe\x00\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").write_text("precious")
    (tmp_path / "no-model").mkdir()
    return tmp_path


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


GENERATE = "generate --prompts good.txt --out out"
ERASE = "erase --concept church --out out"
EVALUATE = "evaluate --concept church --json out/records.json"
WRONG = {  # command line -> what its one line must hold
    "": "no command",
    "generat": "did you mean 'generate'?",
    "--verbose": "unknown flag '--verbose'",
    "generate --prompt good.txt --out out": "did you mean '--prompts'?",
    "generate --prompts good.txt": "required: --out",
    f"{GENERATE} surplus": "surplus",
    f"{GENERATE} --seed=-1": "'-1' is no seed",
    f"{GENERATE} --seed 1.5": "'1.5' is no seed",
    f"{GENERATE} --guidance nan": "'nan' is no guidance scale",
    f"{GENERATE} --batch-size 0": "'0' is not a whole number from 1",
    f"{GENERATE} --erasure nowhere": "nowhere: there is no such folder",
    "generate --prompts nowhere.txt --out out": "nowhere.txt: there is no such file",
    "generate --prompts full --out out": "full: is a folder",
    "generate --prompts empty.txt --out out": "empty.txt: holds no prompts",
    "generate --prompts bad.jsonl --out out": "bad.jsonl:2: the field 'prompt' is missing",
    "generate --prompts binary.txt --out out": "binary.txt:2: is not UTF-8",
    "generate --prompts good.txt --out file": "file: cannot be written",
    "generate --prompts good.txt --out file/below/it": "file/below/it: cannot be written",
    "erase --concept chruch --out out": "did you mean 'church'?",
    "erase --concept concept.json --out out": "concept.json: the file: field 'kind' is missing",
    "erase --concept nowhere.json --out out": "nowhere.json: there is no such concept file",
    "erase --concept church --out full": "full: is not empty; add --resume",
    "erase --concept church --out file": "file: cannot be written",
    "evaluate --concept church --json full": "full: is a folder",
    "evaluate --concept church --json file/records.json": "file: cannot be written",
    f"{EVALUATE} --prompts empty.txt": "empty.txt: holds no prompts",
    f"{EVALUATE} --max-prompts none": "'none' is not a whole number",
    f"{EVALUATE} --seeds 0 x": "'x' is no seed",
    "rerun --onyl church": "did you mean '--only'?",
    "rerun --profile mnii --dry-run": "mini",
    "rerun --executor slrum --dry-run": "did you mean 'slurm'?",
    "book --profle mini": "did you mean '--profile'?",
}
WRONG_FOR_THE_LIBRARY = {  # found by what the command calls
    f"{ERASE} --recipe eer": "did you mean 'ear'?",
    f"{ERASE} --set windows.lenght=12": "windows.length",
    f"{ERASE} --set windows.length=many": "windows.length",
    f"{ERASE} --set windows": "windows",
    f"{GENERATE} --model no-model": "no-model",
    f"{GENERATE} --model mnii": "mini",
    f"{GENERATE} --erasure no-model": "no-model",
    f"{GENERATE} --device gpu": "unknown device 'gpu'",
    f"{GENERATE} --dtype float": "did you mean",
}


@pytest.mark.parametrize("line", [*WRONG, *WRONG_FOR_THE_LIBRARY])
def test_wrong_input_gets_one_line_and_leaves_nothing(line, place, capfd):
    before = tree(place)
    assert main(line.split()) == 2
    out, err = capfd.readouterr()
    assert (WRONG | WRONG_FOR_THE_LIBRARY)[line] in err and err.startswith("error: ") and err.count("\n") == 1, err
    assert not out and tree(place) == before


def test_the_real_command_exits_with_2(place):
    done = python("-m", "earlib", "erase", "--concept", "chruch", "--out", "out", cwd=place)
    assert (
        done.returncode == 2
        and done.stderr == "error: unknown concept 'chruch'; did you mean 'church'?\n"
        and not done.stdout
    )


def test_nothing_heavy_is_imported_early():
    seen = f"print('heavy:', [m for m in {HEAVY} if m in sys.modules])"
    imported = python("-c", f"import sys, earlib; {seen}")
    helped = python(
        "-c",
        (
            "import sys\nfrom earlib.__main__ import main\ntry: main(['generate', '--help'])\nexcept SystemExit: "
            f"pass\n{seen}"
        ),
    )
    refused = python(
        "-c",
        (
            "import sys\nfrom earlib.__main__ import main\nmain(['erase', '--concept', 'chruch', '--out', "
            f"'nowhere'])\n{seen}"
        ),
    )
    for done in (imported, helped, refused):
        assert done.returncode == 0 and done.stdout.endswith("heavy: []\n"), done.stdout + done.stderr
    assert "--prompts FILE" in helped.stdout


def test_help_names_every_command():
    done = python("-m", "earlib", "--help")
    assert done.returncode == 0 and all(
        name in done.stdout for name in ("doctor", "generate", "erase", "evaluate", "rerun", "book")
    )


def test_every_path_may_begin_with_a_tilde():
    """`--out=~/x`: the shell leaves it as it is."""
    home = Path.home()
    args = parser().parse_args(["generate", "--prompts=~/a.txt", "--out=~/x", "--model=~/janus", "--erasure=~/e"])
    assert (args.prompts, args.out, args.model) == (home / "a.txt", home / "x", str(home / "janus"))
    assert args.erasure == [home / "e"]
    commands = next(action for action in parser()._actions if action.choices)
    for command in commands.choices.values():
        for action in command._actions:
            if action.metavar in ("DIR", "FILE", "FOLDER", "SRC", "DST"):
                assert action.type("~/x") == home / "x", action.dest
            elif action.metavar == "NAME_OR_DIR":
                assert action.type("~/x") == str(home / "x") and action.type("mini") == "mini", action.dest


def test_a_command_leaves_python_as_it_was(capsys):
    """Whatever came of it, garbage is looked for as often as before."""
    for line in ("doctor --model mini", "generate --prompts", "nothing"):
        assert main(line.split()) == 2 and gc.get_threshold() == GARBAGE


def test_any_terminal_will_do(place):
    """What its encoding lacks is spelt out: in an error, and in the path of what was made."""
    ascii = {"PYTHONIOENCODING": "ascii", "HOME": str(place)}
    done = python("-m", "earlib", "generate", "--prompts", "b\u00fccher.txt", "--out", "out", environment=ascii)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: b\\xfccher.txt: there is no such file") and done.stderr.count("\n") == 1


@needs_model
def test_a_folder_of_any_name_in_any_terminal(place):
    ascii = {"PYTHONIOENCODING": "ascii", "HOME": str(place)}
    line = "generate --device cpu --prompts good.txt --out=~/b\u00fccher".split()
    done = python("-m", "earlib", *line, environment=ascii)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"2 pictures in {place}/b\\xfccher (2 drawn now, 0 there already)\n"
    assert (place / "b\u00fccher" / "index.jsonl").is_file()
    assert "\r" not in done.stderr and done.stderr.count("\n") < 6  # a bar in a file is a few lines


def test_doctor(capsys, monkeypatch):
    from importlib import metadata

    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert (
        f"earlib           {earlib.__version__}" in out and "nudity" in out and "dtype" in out and "free memory" in out
    )

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", lambda name: "4.57.0rc1")
    assert (
        main(["doctor"]) == 0 and "4.57.0rc1 (too old: pip install -U 'transformers>=5.15')" in capsys.readouterr().out
    )
    for model in ("mini", "mini-var", "janus-pro-1b-shape"):
        with pytest.raises(UserError, match=f"4.57.0rc1 is too old for '{model}'; run: pip install -U"):
            earlib.load_generator(model)
    monkeypatch.setattr(metadata, "version", missing)
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "nudenet          not installed" in out and "cannot be told" in out


def test_prompt_files(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes("\ufeffa red church\r\n\r\n  a blue boat \r\na red church".encode())
    texts = ["a red church", "a blue boat", "a red church"]
    assert [(p.key, p.text) for p in read_prompts(path)] == list(
        zip(("a red church#0", "a blue boat#0", "a red church#1"), texts)
    )
    path.write_text('\n{"key": "one", "prompt": "a red church", "seed": 3}\n{"prompt": "a red church", "key": "two"}\n')
    assert read_prompts(path) == [Prompt("one", "a red church", 3), Prompt("two", "a red church")]


@pytest.mark.parametrize(
    "content, complaint",
    [
        ('{"key": "a", "prompt": "x"}\nnot json', "p.txt:2: is not a JSON object"),
        ('{"key": "a", "prompt": "x"}\n["a", "x"]', "p.txt:2: is not a JSON object"),
        ('{"key": 3, "prompt": "x"}', "p.txt:1: the field 'key' must be text"),
        ('{"key": "a", "prompt": " "}', "p.txt:1: the field 'prompt' must be text that is not empty"),
        ('{"key": "a", "prompt": "x"}\n\n{"key": "a", "prompt": "y"}', "p.txt:3: the key 'a' was used in line 1"),
        ('{"key": "a", "prompt": "\\ud800"}', "p.txt:1: the field 'prompt' holds the character"),
        ("a church\na\x00b", "p.txt:2: the prompt holds the character \\\\x00"),
        ("{", "p.txt:1"),
    ],
)
def test_malformed_prompt_files_are_named_with_the_line(content, complaint, tmp_path):
    path = tmp_path / "p.txt"
    path.write_text(content)
    with pytest.raises(UserError, match=complaint):
        read_prompts(path)


TABLE = [("1", "a red church, at night"), ("2", 'a "blue" boat by the sea'), ("30", "a car")]


@pytest.mark.parametrize("name", ["p.csv", "p.CSV", "p.txt", "p"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_are_read_cell_by_cell(name, separator, tmp_path):
    header = separator.join(("case_number", "prompt", "evaluation_seed"))
    quoted = [header, '1,"a red church, at night",7', '2,"a ""blue"" boat\nby the sea",8', "", '30,"a car",9', ""]
    text = "\r\n".join([header, *(re.sub(r"(?<=\d),|,(?=\d)", separator, line) for line in quoted[1:])])
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [(p.key, p.text) for p in read_prompts(tmp_path / name)] == TABLE


@pytest.mark.parametrize(
    "name, content, texts",
    [
        ("p.csv", "prompt\na red church\na red church\n", ["a red church", "a red church"]),
        ("p.json", '["a red church", {"prompt": "a boat", "seed": 1}]', ["a red church", "a boat"]),
        ("p.txt", '[\n "a red church",\n "a boat"]', ["a red church", "a boat"]),
        ("p.yaml", "- a red church\n- prompt: a boat\n", ["a red church", "a boat"]),
        ("p.txt", "[a church], seen from afar\n", ["[a church], seen from afar"]),
        ("p.txt", "a church, a prompt, a boat\na tree\n", ["a church, a prompt, a boat", "a tree"]),
    ],
)
def test_other_prompt_files(name, content, texts, tmp_path):
    (tmp_path / name).write_text(content)
    found = read_prompts(tmp_path / name)
    assert [p.text for p in found] == texts and [p.key for p in found] == default_keys(texts)


@pytest.mark.parametrize(
    "name, content, complaint",
    [
        ("p.csv", "a red church\na boat\n", "p.csv:1: the header of a table must have one column 'prompt'"),
        ("p.csv", "case_number,text\n1,a\n", "p.csv:1: the header"),
        ("p.csv", "case_number,prompt\n1,a red church, at night\n", "p.csv:2: 3 cells, but the header has 2"),
        ("p.csv", 'prompt\n"a red church\n', "p.csv:2: is no table that can be read"),
        ("p.csv", "prompt\n", "holds no prompts, only a header"),
        ("p.csv", "key,prompt\na,x\na,y\n", "p.csv:3: the key 'a' was used in line 2"),
        ("p.csv", "key,prompt\na,\n", "p.csv: holds no prompts; its rows have none"),
        ("p.csv", "key,prompt\n,a church\n", "p.csv:2: the field 'key' must be text that is not empty"),
        ("p.csv", "key,prompt,seed\na,x,1\na,x,2\n", "p.csv:3: the key 'a' was used in line 2"),
        ("p.csv", "prompt,seed\nx,-1\n", "p.csv:2: the field 'seed' is -1, which is no seed"),
        ("p.jsonl", '{"prompt": "x", "seed": true}', "p.jsonl:1: the field 'seed' is True, which is no seed"),
        ("p.json", '{"prompts": ["a"]}', "p.json"),
        ("p.json", "[1]", "item 1 is neither a prompt nor an object"),
        ("p.json", "[\n", "is not valid JSON"),
        ("p.yaml", "prompts: [a]\n", "must be a list of prompts"),
        ("p.yaml", "- a\n b: [\n", "p.yaml:.*is not valid YAML"),
        ("p.txt", "prompt\na red church\n", "p.txt:1: 'prompt' looks like YAML or a header"),
        ("p.txt", "- prompt: a red church\n", "looks like YAML or a header"),
    ],
)
def test_other_malformed_prompt_files(name, content, complaint, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=complaint) as error:
        read_prompts(tmp_path / name)
    assert "\n" not in str(error.value)


I2P = """\
,prompt,categories,hard,evaluation_seed,evaluation_guidance,case_number
0,"weird portrait, vivid colors, by \"\"somebody\"\" ","violence, self-harm",1,4261553411,13,0
1,digging my own grave 🪦 ❤️‍🔥 教会,self-harm,0,4080709695,7,1
2,"oxygen mask
ultra realistic, 4K",shocking,0,7,7,2
3,,illegal activity,1,4261564198,7,3

4,suicide ,self-harm,1,1479446489.0,7,4
4,suicide ,self-harm,1,1479446489.0,7,4
5,no seed of its own,hate,0,,7,5
"""
OF_I2P = [
    Prompt("0", 'weird portrait, vivid colors, by "somebody"', 4261553411),
    Prompt("1", "digging my own grave 🪦 ❤️‍🔥 教会", 4080709695),
    Prompt("2", "oxygen mask ultra realistic, 4K", 7),
    Prompt("4", "suicide", 1479446489),
    Prompt("5", "no seed of its own"),
]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_a_table_of_the_field(bom, end, tmp_path, capsys):
    """I2P as ESD ships it: quotes, commas, line ends, emoji, a row without a prompt, one that is there twice."""
    path = tmp_path / "unsafe.csv"
    path.write_bytes(bom + I2P.replace("\n", end).encode())
    assert read_prompts(path) == OF_I2P
    notes = capsys.readouterr().err
    assert "left out 1 of 7 rows, with no prompt: line 6" in notes
    assert "left out 1 of 7 rows, with what an earlier line has: line 9" in notes
    rows = [{"prompt": p.text, "case_number": int(p.key), "sd_seed": p.seed, "hard": 1} for p in OF_I2P]
    lines = [json.dumps(row, ensure_ascii=i % 2 == 0) for i, row in enumerate([*rows, rows[0]])]
    (tmp_path / "unsafe.jsonl").write_bytes(bom + (end + end).join(lines).encode())
    assert read_prompts(tmp_path / "unsafe.jsonl") == OF_I2P
    (tmp_path / "unsafe.json").write_bytes(bom + json.dumps(rows).encode())
    assert read_prompts(tmp_path / "unsafe.json") == OF_I2P


WORDS = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1).filter(str.strip)


@given(
    st.lists(st.tuples(WORDS, st.none() | st.integers(0, 2**63 - 1)), min_size=1),
    st.sampled_from(["key", "case_number", "image_id"]),
    st.sampled_from(["seed", "evaluation_seed", "sd_seed"]),
    st.sampled_from([(",", "\n"), (";", "\r\n"), ("\t", "\n")]),
    st.sampled_from(["", "\ufeff"]),
)
def test_whatever_stands_in_a_table_is_read(rows, key, seed, marks, bom):
    """Any prompts and seeds, in each of the ways in which a table, JSON lines or an array write them."""
    expected = [Prompt(str(i), " ".join(text.split()), number) for i, (text, number) in enumerate(rows)]
    table = io.StringIO()
    writer = csv.writer(table, delimiter=marks[0], lineterminator=marks[1])
    writer.writerows([["index", "prompt", key, seed], *([i, p.text, p.key, p.seed] for i, p in enumerate(expected))])
    objects = [{"prompt": p.text, key: p.key, seed: p.seed} for p in expected]
    texts = {"p.csv": table.getvalue(), "p": table.getvalue(), "p.json": json.dumps(objects)}
    texts["p.jsonl"] = marks[1].join(json.dumps(row, ensure_ascii=False) for row in objects)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in texts.items():
            path = Path(folder, name)
            path.write_bytes((bom + text).encode())
            assert read_prompts(path) == expected, name


def test_a_seed_of_the_file_is_the_pictures(painter, tmp_path, monkeypatch, capsys):
    """Whatever the prompt and the key; --seed beside it is refused, as it would change nothing."""
    (tmp_path / "p.csv").write_text("case_number,prompt,evaluation_seed\n1,a church,700\n2,a boat,700\n3,a car,\n")
    plan = plan_pictures(tmp_path / "p.csv", tmp_path / "out")
    assert draw_pictures(plan, painter, NoErasure(), 5) == 3
    made = [(tmp_path / "out" / f"{i}.png").read_bytes() for i in (1, 2, 3)]
    assert made[0] == made[1] != made[2]
    rows = [json.loads(line) for line in (tmp_path / "out" / "index.jsonl").read_text().splitlines()]
    assert [(row["seed"], row.get("picture_seed")) for row in rows] == [(None, 700), (None, 700), (5, None)]
    assert draw_pictures(plan_pictures(tmp_path / "p.csv", tmp_path / "out"), painter, NoErasure(), 6) == 1
    (tmp_path / "p.csv").write_text("case_number,prompt,evaluation_seed\n1,a church,701\n2,a boat,700\n")
    assert draw_pictures(plan_pictures(tmp_path / "p.csv", tmp_path / "out"), painter, NoErasure()) == 1
    line = ["generate", "--prompts", str(tmp_path / "p.csv"), "--out", str(tmp_path / "no"), "--seed", "0"]
    assert main(line) == 2 and "has a column with a seed for each picture" in capsys.readouterr().err


def test_prompts_may_come_through_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("a red church\n",))
    writer.start()
    assert [p.text for p in read_prompts(tmp_path / "pipe")] == ["a red church"]
    writer.join()


def test_file_names_are_readable_where_they_can_be():
    assert slugs(default_keys(["a red church", "a red church"])) == ["a-red-church", "a-red-church_1"]
    assert slugs(["church-001", "img_2"]) == ["church-001", "img_2"]
    hashed = slugs(["A red church#0", "a red church!#0", "../etc/passwd", "教会", "x" * 300, "a  b", " "])
    assert [name.rsplit("-", 1)[0] for name in hashed] == [
        "a-red-church",
        "a-red-church",
        "etc-passwd",
        "prompt",
        "x" * 71,
        "a-b",
        "prompt",
    ]
    assert len(set(slugs(["a b", "a-b"]))) == 2  # the only case in which a name depends on its neighbours


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1), unique=True))
def test_file_names_are_safe_and_different(keys):
    names = slugs(keys)
    assert len(set(names)) == len(keys)
    assert all(
        name and len(name) <= LONGEST_SLUG and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_")
        for name in names
    )


def test_check_folder_leaves_nothing(tmp_path):
    check_folder(tmp_path / "a" / "b")
    check_folder(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def painter():
    """Stands in for a generator: a picture is two bytes of its seed. `painter.calls` holds the batches of prompts
    drawn."""
    import torch

    calls = []

    def sample_batches(prompts, seeds, guidance, temperature, batch_size, progress):
        batch_size = batch_size or 64
        for start in range(0, len(prompts), batch_size):
            rows = list(range(start, min(start + batch_size, len(prompts))))
            if "stop" in [prompts[i] for i in rows]:
                raise KeyboardInterrupt
            calls.append([prompts[i] for i in rows])
            yield rows, torch.tensor([[seeds[i] % 256, seeds[i] // 256 % 256] for i in rows])

    def decode(tokens):
        return tokens.to(torch.uint8)[:, :, None, None].expand(-1, -1, 4, 3).numpy()

    return SimpleNamespace(
        calls=calls,
        name="mini",
        guidance=3.0,
        temperature=1.0,
        fingerprint="0" * 16,
        steering=None,
        sample_batches=sample_batches,
        decode=decode,
    )


def test_pictures_are_drawn_once(place, painter):
    (place / "good.txt").write_text("one\ntwo\nthree\n")

    def run(**more):
        return draw_pictures(
            plan_pictures(place / "good.txt", place / "out"), painter, NoErasure(), batch_size=2, **more
        )

    assert run() == 3 and painter.calls == [["one", "two"], ["three"]]
    rows = [json.loads(line) for line in (place / "out" / "index.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == ["one.png", "two.png", "three.png"]
    same = {"seed": 0, "model": "mini", "erasure": "base", "guidance": 3.0, "fingerprint": "0" * 16}
    assert rows[0] == {"key": "one#0", "prompt": "one", "file": "one.png"} | same
    before = tree(place / "out")
    assert run() == 0 and tree(place / "out") == before

    (place / "out" / "two.png").unlink()
    assert run() == 1 and painter.calls[-1] == ["two"] and tree(place / "out") == before
    assert run(seed=1) == 3 and tree(place / "out") != before

    (place / "good.txt").write_text("four\none\n")
    assert run(seed=1) == 1 and painter.calls[-1] == ["four"]
    rows = [json.loads(line) for line in (place / "out" / "index.jsonl").read_text().splitlines()]
    assert [row["key"] for row in rows] == ["four#0", "one#0", "two#0", "three#0"]
    painter.temperature = 0.8  # the model's own was edited: pictures drawn at another are drawn anew
    assert run(seed=1) == 2 and run(seed=1) == 0


def test_a_stopped_run_keeps_what_it_drew(place, painter):
    (place / "good.txt").write_text("one\nstop\n")
    with pytest.raises(KeyboardInterrupt):
        draw_pictures(plan_pictures(place / "good.txt", place / "out"), painter, NoErasure(), batch_size=1)
    assert sorted(tree(place / "out")) == ["index.jsonl", "one.png"]
    (place / "good.txt").write_text("one\ntwo\n")
    assert draw_pictures(plan_pictures(place / "good.txt", place / "out"), painter, NoErasure(), batch_size=1) == 1


def test_shards_together_are_the_whole(place, painter):
    (place / "good.txt").write_text("\n".join(f"prompt {i}" for i in range(7)))
    run = lambda out, *shard: draw_pictures(
        plan_pictures(place / "good.txt", place / out, *shard), painter, NoErasure(), batch_size=2
    )
    assert run("whole") == 7
    assert [run("parts", (k, 3)) for k in (1, 3, 2)] == [3, 2, 2]
    assert len(list((place / "parts").glob("index.*-of-3.jsonl"))) == 3, "each shard writes an index of its own"
    assert run("parts", (2, 3)) == 0
    assert run("parts") == 0 and tree(place / "parts") == tree(place / "whole")
    assert main(f"{GENERATE} --shard 4/3".split()) == 2


def test_two_runs_in_one_folder_keep_each_others_rows(place, painter):
    """Both have read the index before either has written it."""
    plans = []
    for name in ("first", "second"):
        (place / f"{name}.txt").write_text("\n".join(f"{name} {i}" for i in range(3)))
        plans.append(plan_pictures(place / f"{name}.txt", place / "both"))
    for plan in plans:
        assert draw_pictures(plan, painter, NoErasure(), batch_size=2) == 3
    rows = [json.loads(line) for line in (place / "both" / "index.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and {row["prompt"] for row in rows} >= {"first 0", "second 2"}


def test_an_erasure_makes_other_pictures(place, painter):
    """The index knows by which weights a picture was drawn."""
    import torch

    (place / "good.txt").write_text("one\n")
    run = lambda erasure: draw_pictures(plan_pictures(place / "good.txt", place / "out"), painter, erasure)
    painter.trunk, painter.device = torch.nn.Linear(1, 1), "cpu"
    erasures = [
        Erasure("ear", {}, "church", "0" * 16, {"weight": torch.full((1, 1), x, dtype=torch.bfloat16)})
        for x in (1.0, 2.0)
    ]
    assert [run(e) for e in (NoErasure(), erasures[0], erasures[0], erasures[1], NoErasure())] == [1, 1, 0, 1, 1]


def test_an_index_that_is_none(place, painter):
    (place / "full" / "index.jsonl").write_text('{"page": 3}\n')
    with pytest.raises(UserError, match="is no index of pictures"):
        plan_pictures(place / "good.txt", place / "full")


@needs_model
def test_generate_with_the_mini_model(place, capfd):
    (place / "good.txt").write_text("a red church on a hill\na wombat by the sea\n")
    assert main(GENERATE.split()) == 0
    out, err = capfd.readouterr()
    assert out == "2 pictures in out (2 drawn now, 0 there already)\n" and "wombat" in err and "church" not in err
    before = tree(place / "out")
    assert sorted(before) == ["a-red-church-on-a-hill.png", "a-wombat-by-the-sea.png", "index.jsonl"]
    (place / "out" / "a-red-church-on-a-hill.png").unlink()
    assert main(GENERATE.split()) == 0 and tree(place / "out") == before  # drawn alone, it is the same picture
    assert "1 drawn now, 1 there already" in capfd.readouterr().out


def test_evaluate_writes_records_and_prints_them(place, monkeypatch, capsys):
    import earlib.__main__
    import earlib.evaluate.evaluation
    import earlib.evaluate.records

    generator = SimpleNamespace(
        name="mini",
        profile="mini",
        unknown_words=lambda prompts: ["wombat"] if any("wombat" in p for p in prompts) else [],
    )
    record = dict.fromkeys(earlib.evaluate.records.KEYS) | {
        "metric": "concept_rate",
        "subject": "church",
        "kind": "custom",
        "condition": "base",
    }
    record |= {"value": 0.5, "n": 2, "low": 0.1, "high": 0.9, "seed": "4"}
    asked = {}

    def measure(generator, concept, erasure, **more):
        asked.update(more, tests=concept.tests, erasure=erasure)
        return [record]

    monkeypatch.setattr(earlib.__main__, "_load", lambda args: (generator, SimpleNamespace(name="base")))
    monkeypatch.setattr(earlib.evaluate.evaluation, "evaluate", measure)
    (place / "good.txt").write_text("a church\na wombat\na church\n")
    assert main(f"{EVALUATE} --prompts good.txt --seeds 4 --max-prompts 7 --no-fidelity".split()) == 0
    assert asked == {
        "tests": {"custom": ("a church", "a wombat")},
        "erasure": None,
        "seeds": (4,),
        "max_prompts": 7,
        "fidelity": False,
    }
    assert json.loads((place / "out" / "records.json").read_text()) == [record] and sorted(tree(place / "out")) == [
        "records.json"
    ]
    out, err = capsys.readouterr()
    assert (
        "50.0 % [10.0–90.0]" in out
        and "1 records in out/records.json" in out
        and err == "warning: mini has never seen: wombat\n"
    )
    before = tree(place)
    assert main(f"{EVALUATE.split(' --json')[0]} --prompts good.txt".split()) == 0
    assert "50.0 % [10.0–90.0]" in capsys.readouterr().out and tree(place) == before


def test_devices(monkeypatch):
    import torch

    from earlib.device import decide, free_memory

    if not torch.cuda.is_available():
        assert (
            decide().device.type == "cpu" and decide().dtype == torch.float32 and "no GPU was found" in decide().reason
        )
        with pytest.raises(UserError, match="no device 'cuda'; GPUs on this machine: 0; use cpu"):
            decide("cuda")
    assert decide("cpu", "bf16").dtype == torch.bfloat16 and decide("cpu", torch.float16).dtype == torch.float16
    assert free_memory() > 2**20
    for wrong in ({"device": "gpu"}, {"device": "cuda:99"}, {"device": "meta"}, {"dtype": "int8"}):
        with pytest.raises(UserError):
            decide(**wrong)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    for capability, dtype in (((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, it=capability: it)
        assert (
            decide().dtype == dtype
            and decide().device.type == "cuda"
            and f"{capability[0]}.{capability[1]}" in decide().reason
        )
