"""The staged tree, the table of claims, the settings, and one small build."""

from __future__ import annotations

import re
import shutil

import nbformat
import pandas as pd
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_output

from earlib import ROOT
from earlib.book.build import build, clear, render, stage
from earlib.book.claims import BADGES, CLAIMS_MARK, claims_list, erased_with
from earlib.book.leaderboard import distances, leaderboard, oracles, worst_attacks
from earlib.book.merge import WIDGET, merge
from earlib.book.reading import faults
from earlib.book.results import RESULTS_MARK, answer, figure
from earlib.book.typeset import one_heading, pieces, whole
from earlib.book.verdicts import verdict_of
from earlib.book.words import HEADING, between, by_interval, compared, listed, n_of, sorted_out, went
from earlib.erasure import presets
from earlib.errors import UserError
from earlib.evaluate.rate import Rate
from earlib.evaluate.records import KEYS
from earlib.runs import write_json

from .synthetic import PARAMETERS, colab_url, edit_notebook, write_manifest, write_notebook

RECORD = {"metric": "concept_rate", "subject": "church", "kind": "direct", "seed": "0", "profile": "mini"} | Rate(
    6, 300
).flat()
ERASED = RECORD | {"condition": "erased", "recipe": "ear", "judge": "j", "paper": None, "run": "04/church"}
BASE = ERASED | {"condition": "base", "recipe": None} | Rate(294, 300).flat()


@pytest.fixture
def root(tmp_path):
    """A repository with one notebook, that has run, and the book's own settings."""
    for name in ("_config.yml", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    write_notebook(tmp_path / "notebooks" / "one.ipynb", "print('hello', count)")
    write_manifest(tmp_path, {"name": "one"})
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\n"
        "chapters: [{file: notebooks/one}, {file: book/claims}, {file: book/api}, {file: book/contributing}]\n"
    )
    (tmp_path / "book" / "index.md").write_text("# A book\n\nSee {cite}`wilson1927`.\n\n```{bibliography}\n```\n")
    (tmp_path / "book" / "claims.md").write_text(f"# Claims\n\n{CLAIMS_MARK}\n")
    shutil.copy(ROOT / "book" / "references.bib", tmp_path / "book")
    shutil.copy(ROOT / "book" / "contributing.md", tmp_path / "book")
    shutil.copy(ROOT / "book" / "api.md", tmp_path / "book")
    (tmp_path / "book" / "claims.yml").write_text(
        yaml.safe_dump(
            [{"claim": "It is erased", "run": "one", "select": {"condition": "erased"}, "verdict": {"at_most": 0.05}}]
        )
    )
    write_json(tmp_path / "runs" / "mini" / "one" / "results.json", [ERASED | {"run": "one"}])
    return tmp_path


def executed(root, *extra):
    """The executed copy of the notebook, with `extra` cells after the parameters."""
    path = root / "_build" / "executed" / "mini" / "notebooks" / "one.ipynb"
    path.parent.mkdir(parents=True)
    shutil.copy(root / "notebooks" / "one.ipynb", path)

    def change(notebook):
        notebook.cells[2].outputs = [
            new_output("stream", text="hello 3\n"),
            new_output("display_data", {WIDGET: {}, "text/plain": "slider"}),
        ]
        notebook.cells[2].metadata["execution"] = {"iopub.execute_input": "2026"}
        notebook.metadata |= {"widgets": {}, "papermill": {"parameters": {}}}
        notebook.cells[2:2] = extra

    edit_notebook(path, change)
    return path


def test_merge_keeps_outputs_and_drops_the_rest(root):
    path = executed(root, new_code_cell("count = 5", metadata={"tags": ["injected-parameters"]}))
    edit_notebook(root / "notebooks" / "one.ipynb", lambda nb: nb.cells[0].update(source="# Better prose"))
    edit_notebook(root / "notebooks" / "one.ipynb", lambda nb: nb.cells[2].metadata.update(tags=["setup"]))
    page = merge(nbformat.read(root / "notebooks" / "one.ipynb", 4), nbformat.read(path, 4))
    assert [c.source for c in page.cells] == ["# Better prose", PARAMETERS, "count = 5", "print('hello', count)"]
    assert [c.metadata.get("tags") for c in page.cells[1:]] == [
        ["parameters"],
        ["injected-parameters", "hide-input"],
        ["setup", "remove-cell"],
    ]
    text = nbformat.writes(page)
    assert "hello 3" in text and not any(word in text for word in (WIDGET, "widgets", "papermill", "iopub"))


def test_merge_gives_a_caption_to_the_figure_alone(root):
    picture = new_output("display_data", {"image/png": "iVBORw0K", "text/plain": "<Figure>"})
    table = new_output("display_data", {"text/html": "<table></table>", "text/plain": "a table"})
    figure = {"figure": {"caption": "Rates.", "name": "fig-rates"}}
    path = executed(root)
    edit_notebook(path, lambda nb: nb.cells[-1].update(outputs=[table, picture]))
    edit_notebook(root / "notebooks" / "one.ipynb", lambda nb: nb.cells[-1].metadata.update(mystnb=figure))
    *_, shown, beside = merge(nbformat.read(root / "notebooks" / "one.ipynb", 4), nbformat.read(path, 4)).cells
    assert shown.metadata.mystnb == figure and [output.data for output in shown.outputs] == [picture.data]
    assert beside.metadata == {"tags": ["remove-input"]} and [output.data for output in beside.outputs] == [table.data]


def test_merge_puts_the_answer_first(root):
    picture = new_output("display_data", {"image/png": "iVBORw0K"})
    words = {"text/markdown": f"{HEADING}\n\nChurches fall.", "text/plain": "x"}
    answer = new_output("display_data", words, metadata={"figure": "fig-rates"})
    looks = {"mystnb": {"figure": {"caption": "Rates.", "name": "fig-rates"}, "image": {"alt": "A dot."}}}
    extra = [new_code_cell("draw()", outputs=[picture]), new_code_cell("in_short()", outputs=[answer])]
    path = executed(root, *extra)
    title = "# A title\n\n[link](x)\n\nWhat it is about.\n\nAnd what it costs."

    def change(notebook):
        notebook.cells[0].source = title
        notebook.cells[2:2] = [
            new_code_cell("draw()", metadata=looks),
            new_code_cell("in_short()", metadata={"tags": ["in-short"]}),
        ]

    edit_notebook(root / "notebooks" / "one.ipynb", change)
    head, box, figure, rest, *others = merge(
        nbformat.read(root / "notebooks" / "one.ipynb", 4), nbformat.read(path, 4)
    ).cells
    assert head.source == "# A title\n\n[link](x)" and rest.source == "What it is about.\n\nAnd what it costs."
    assert (
        "{admonition} In short" in box.source and "Churches fall.\n\nThe figure is {numref}`fig-rates`." in box.source
    )
    assert figure.outputs == [picture] and figure.metadata.mystnb == {"image": {"alt": "A dot."}}
    assert not any(cell.source == "in_short()" for cell in others) and others[1].metadata.mystnb == looks["mystnb"]


def test_numbers_stay_on_one_line():
    kept = [part for part, keep in pieces("from 100 to 20 % (n = 30, W = 48), 3 [-1 to +8] points; 0 [0–19] %") if keep]
    assert kept == ["100 to 20 %", "n = 30", "W = 48", "3 [−1 to +8]", "0 [0–19] %"]
    assert list(pieces("GPT-2 and -3 points, 1e-4")) == [("GPT-2 and −3 points, 1e-4", False)]
    assert whole('<td id="-3">5 [4–6]</td>') == '<td id="-3"><span class="whole">5 [4–6]</span></td>'


@pytest.mark.parametrize("names, rows", [(["concept", "recipe"], 1), ([None, "recipe"], 1), ([None, None], 1)])
def test_a_table_has_one_row_of_headings(names, rows):
    index = pd.MultiIndex.from_tuples([("church", "ear"), ("church", "uce")], names=names)
    table = pd.DataFrame({"left": [20, 0], "kept": [36, 97]}, index)
    head = one_heading(table._repr_html_()).split("</thead>")[0]
    assert "style" not in head
    words = re.findall(r"<th\b[^>]*>(.*?)</th>", head)
    assert head.count("<tr") == rows and words == [*(name or "" for name in names), "left", "kept"]
    two = one_heading(pd.concat({"rates": table}, axis=1).to_html()).split("</thead>")[0]
    assert two.count("<tr") == 2 and "rates" in two and re.findall("<th>(.+?)</th>", two)[-2:] == ["left", "kept"]


def test_words_of_direction_come_from_intervals():
    one, other, near = Rate(80, 100), Rate(10, 100), Rate(78, 100)
    assert went(one, other) == "fall from 80 to 10 %" and went(other, one, "rises", "falls") == "rises from 10 to 80 %"
    assert went(one, near) == "go 80 → 78 %, not told apart" and went(one, near, "rises", "falls").startswith("goes")
    assert compared(one, other) == "80 %, more than 10 %" and compared(near, one) == "78 %, not told apart from 80 %"
    assert by_interval(one.minus(Rate(0, 0)), "more", "fewer", "not measured") == "not measured"
    assert sorted_out({"a": one.minus(other), "b": one.minus(near)}) == "more for a, not told apart for b"
    assert between([one, near, None, other]) == "10 to 80 %" and between([one]) == "80 %" and between([]) == "–"
    assert n_of(one, near) == "n = 100" and n_of(one, Rate(1, 8)) == "n = 8 to 100"
    assert n_of(one, seeds=[1]) == "n = 100, one seed" and n_of(one, seeds=[3, 1, 3]) == "n = 100, 1 to 3 seeds"
    assert [listed("abc"), listed(["a"], code=True), listed([])] == ["a, b and c", "`a`", "none"]


def test_stage(root):
    with pytest.raises(UserError, match=r"notebooks/one\.ipynb: has not been run on 'mini'"):
        stage(root=root)
    executed(root)
    (root / "book" / "results.md").write_text(f"# Results\n\n{RESULTS_MARK}\n")
    folder = stage(root=root)
    assert "hello 3" in (folder / "notebooks" / "one.ipynb").read_text()
    assert "✓ holds</span> **It is erased**" in (folder / "book" / "claims.md").read_text()
    (root / "book" / "claims.md").write_text("# No mark")
    with pytest.raises(UserError, match="has no line"):
        stage(root=root)


def test_claims():
    erased = {"claim": "Gone", "source": "Table 1", "paper": "9 %", "run": "04", "select": {"condition": "erased"}}
    page = claims_list(
        [ERASED, BASE],
        [
            erased
            | {"part": "EAR", "verdict": {"expect": "lower"}, "before": {"condition": "base"}, "note": "Nearly."},
            erased | {"verdict": {"at_least": 0.5}, "run": "05"},
            {"claim": "At scale", "verdict": "not testable without the weights"},
        ],
    )
    counts, first, second, third = page.split(":::::{container} claim\n")
    assert [f"{mark} 1" in counts for mark, *_ in BADGES.values()] == [True, False, False, False, True, True]
    assert counts.endswith("## EAR\n\n") and "**3 in all**" in counts
    assert "✓ holds</span> **Gone** (Table 1)" in first and "In the paper: 9 %." in first
    assert "98.0 % [95.7–99.1] → 2.0 % [0.9–4.3], n\u00a0=\u00a0300 pictures." in first
    assert "Expected: lower." in first and "-96 points" in first and "Nearly. [The chapter]" in first
    assert "not measured yet" in second and "not tested here" in third and "Not testable without the weights." in third


def test_verdicts_by_the_interval_of_a_difference():
    of = lambda rate: rate.flat() | {"metric": "concept_rate"}
    kind = lambda rule, hits, before: verdict_of(rule, of(Rate(hits, 90)), of(Rate(before, 90))).kind
    lower = {"expect": "lower"}
    assert [kind(lower, 10, 80), kind(lower, 80, 10), kind(lower, 40, 42)] == ["holds", "fails", "open"]
    assert kind({"expect": "different"}, 80, 10) == "holds" and kind({"expect": "different"}, 40, 42) == "open"
    same = {"expect": "same"}
    assert [kind(same, 10, 80), kind(same, 86, 90), kind(same, 90, 90)] == ["fails", "open", "holds"]
    assert kind(same, 40, 42) == "untested", "of so few, not even 42 and 42 would be told to be the same"
    assert [kind({"keeps": 0.9}, hits, 88) for hits in (20, 80, 90)] == ["fails", "open", "holds"]
    gain = {"value": 0.28, "n": 32, "low": 0.12, "high": 0.44, "metric": "mended_rate_change"}
    assert verdict_of({"expect": "higher"}, gain).kind == "holds"
    assert verdict_of({"expect": "higher"}, gain | {"low": -0.03}).kind == "open"
    assert verdict_of({"expect": "higher"}, gain | dict.fromkeys(("value", "low", "high"), 0.0)).kind == "fails"
    assert verdict_of({"expect": "higher"}, None).kind == "missing"


def test_a_bar_is_decided_by_the_whole_interval():
    of = lambda hits: Rate(hits, 100).flat() | {"metric": "concept_rate"}
    kinds = [verdict_of({"at_most": 0.1}, of(hits)).kind for hits in (1, 8, 40)]
    assert kinds == ["holds", "open", "fails"]
    assert "Our bar: at most 10 %" in verdict_of({"at_most": 0.1}, of(1)).why
    assert verdict_of({"at_most": 0.5}, of(1), of(30)).kind == "open", "it never reached the bar"
    few = verdict_of({"at_most": 0.1}, Rate(0, 24).flat() | {"metric": "concept_rate"})
    assert few.kind == "untested" and "Even a perfect result of 24 pictures" in few.why
    assert verdict_of({"at_most": 0.1}, Rate(20, 24).flat() | {"metric": "concept_rate"}).kind == "fails"
    assert verdict_of({"tested": "tests/test_erasure.py"}, None).kind == "holds"


def test_a_ruined_model_has_not_erased_and_one_model_compares_nothing():
    rest = {"run": "04", "table": "main", "concept": "church", "judge": "j", "seed": "0"}
    of = lambda metric, recipe, found: {
        **dict.fromkeys(KEYS), **rest, "metric": metric, "recipe": recipe, "subject": "all" if metric[0] == "n" else "x"
    } | {"condition": "erased" if recipe else "base"} | found  # fmt: skip
    claim = {"claim": "Gone", "run": "04", "select": {"metric": "concept_rate", "recipe": "a"}}
    claim |= {"before": {"recipe": None}, "verdict": {"expect": "lower"}}
    rates = [of("concept_rate", recipe, Rate(hits, 30).flat()) for recipe, hits in ((None, 30), ("a", 2), ("b", 2))]
    drift = [of("kl_drift", recipe, {"value": 0.25, "n": 30, "low": None, "high": None}) for recipe in ("a", "b")]
    kept = lambda hits: [of("neighbour_rate", r, Rate(n, 30).flat()) for r, n in ((None, 30), ("a", hits), ("b", hits))]
    assert "✓ holds" in claims_list([*rates, *drift, *kept(25)], [claim])
    assert "A ruined model has not erased" in claims_list([*rates, *drift, *kept(3)], [claim])
    page = claims_list([*rates, *drift, *kept(15)], [claim])
    assert "? cannot be told" in page and "whether the concept was erased or the model ruined" in page
    hangs = lambda hits: claims_list([*rates, *drift, *kept(hits)], [claim])
    assert "40 % in its place 0 verdicts and with 60 % in its place 1 verdicts" in hangs(11)
    assert "40 % in its place 0 verdicts and with 60 % in its place 0 verdicts" in hangs(3)
    broken = lambda hits: [of("unfinished_rate", "a", Rate(hits, 30).flat()) | {"kind": "direct"}]
    direct = claim | {"select": claim["select"] | {"kind": "direct"}}
    asked = [*({**rate, "kind": "direct"} for rate in rates), *drift, *kept(28)]
    assert "measurably above 50 %. A ruined model has not erased" in claims_list([*asked, *broken(28)], [direct])
    assert "✓ holds" in claims_list([*asked, *broken(6)], [direct])
    assert "? cannot be told" in claims_list([*asked, *broken(12)], [direct])
    beside = claim | {"before": {"recipe": "b"}}
    assert "one and the same model" in claims_list([*rates, *drift, *kept(15)], [beside])
    asked_twice = [
        of("concept_rate", "a", Rate(hits, 30).flat()) | {"kind": kind} for kind, hits in (("k", 9), ("l", 2))
    ]
    of_kind = {"select": {"metric": "concept_rate", "recipe": "a", "kind": "l"}, "before": {"kind": "k"}}
    page = claims_list([*asked_twice, *drift, *kept(30)], [claim | of_kind])
    assert "30.0 % [" in page and "one and the same model" not in page, "one erasure, asked in two ways"
    drift[1]["value"] = 0.26
    assert "? cannot be told" in claims_list([*rates, *drift, *kept(15)], [beside])


def test_a_claim_that_fits_no_record_of_a_run_that_is_there():
    """A misspelt setting is an error, not "not measured yet"; a run that is not there, or another model's, is not."""
    claim = {"claim": "Gone", "run": "04", "select": {"condition": "erased", "recipe": "aer"}}
    claim |= {"verdict": {"at_most": 0.5}}
    with pytest.raises(UserError, match="'Gone': no record of '04' has .*aer"):
        claims_list([ERASED, BASE], [claim])
    with pytest.raises(UserError, match="'Gone': no record of '04' has .*bsae"):
        claims_list([ERASED, BASE], [claim | {"select": {"condition": "erased"}, "before": {"condition": "bsae"}}])
    assert "not measured yet" in claims_list([ERASED, BASE], [claim | {"run": "05"}])
    assert "not measured yet" in claims_list([ERASED, BASE], [claim], complete=False)


def test_the_neighbours_of_a_rate_of_several_concepts_together():
    """Records without a table have them under their own subject; where there are none, the page says so."""
    of = lambda metric, recipe, found: {
        **dict.fromkeys(KEYS), "run": "04", "subject": "five", "metric": metric, "recipe": recipe, **found.flat()
    } | {"condition": "erased" if recipe else "base"}  # fmt: skip
    rates = [of("concept_rate", None, Rate(88, 90)), of("concept_rate", "ear", Rate(8, 90))]
    claim = {"claim": "Gone", "run": "04", "select": {"metric": "concept_rate", "recipe": "ear"}}
    claim |= {"before": {"condition": "base", "recipe": None}, "verdict": {"expect": "lower"}}
    page = claims_list(rates, [claim])
    assert "✓ holds" in page and "Its neighbours were not measured with this" in page
    kept = lambda n: [of("neighbour_rate", None, Rate(106, 108)), of("neighbour_rate", "ear", Rate(n, 108))]
    page = claims_list([*rates, *kept(42)], [claim])
    assert "! of a ruined model" in page and "neighbours: 98 [93–99] → 39 [30–48] %, measurably below" in page
    page = claims_list([*rates, *kept(90)], [claim])
    assert "✓ holds" in page and " %, measurably above 50 % of before." in page
    assert "? cannot be told" in claims_list([*rates, *kept(60)], [claim])


def test_numbers_beside_a_claim():
    clip = lambda record, value: record | {"metric": "clip_score", "value": value, "n": 1, "low": value, "high": value}
    claim = {"claim": "Stays", "run": "04", "verdict": {"expect": "same"}, "before": {"condition": "base"}}
    claim |= {"select": {"condition": "erased", "metric": "concept_rate"}}
    results = [ERASED, BASE, clip(ERASED, 0.61), clip(BASE, 0.82)]
    page = claims_list(results, [claim | {"beside": {"CLIP": {"metric": "clip_score"}}}])
    assert "Beside it: CLIP 0.82 → 0.61." in page
    page = claims_list(results, [claim | {"beside": {"it": {"condition": "base"}}}])
    assert "Beside it: it 98.0 % [" in page and page.count("→") == 1
    with pytest.raises(UserError, match="no record of '04' has"):
        claims_list(results, [claim | {"beside": {"KID": {"metric": "kid"}}}])


def test_what_a_claim_was_erased_with():
    row = {"condition": "erased", "recipe": "ear", "profile": "mini", "subject": "church", "concept": "church"}
    told = erased_with(row | {"settings": {}, "seed": "0,1"})
    assert told == "`ear`, learning rate 3e-5 (published: 1e-4), windows of 12 of 144 tokens, church, seed 0,1"
    told = erased_with(row | {"settings": {"lr": 1e-4, "windows.length": 144}})
    assert told == "`ear`, learning rate 1e-4, the whole picture as one window, church"
    assert erased_with(row | {"recipe": "uce", "settings": {}}) == "`uce`, church"
    pooled = {"condition": "erased", "recipe": "ear", "profile": "mini-emu3", "subject": "several"}
    assert erased_with(pooled) == "", "it does not say with what"
    assert "windows of 6 of 144 tokens" in erased_with(pooled | {"settings": {"windows.length": 6}})
    assert erased_with(row | {"condition": "base", "recipe": None}) == ""


def test_verdicts_are_counted_for_each_paper():
    page = claims_list([], [{"claim": "x", "whose": "of EAR"}, {"claim": "y"}, {"claim": "z"}])
    assert "**1 of EAR**" in page and "**2 ours**" in page


def test_what_n_counts_is_said():
    """Of windows, of concepts; of pictures where nothing else is known."""
    skipped = dict.fromkeys(KEYS) | Rate(3, 700).flat() | {"metric": "windows_skipped_rate", "run": "04"}
    claim = {"claim": "x", "run": "04", "select": {"metric": "windows_skipped_rate"}, "verdict": {"carried": "μ"}}
    assert "Here: 0.4 % [0.1–1.3], n\u00a0=\u00a0700 windows." in claims_list([skipped], [claim])
    assert verdict_of({"carried": "μ"}, skipped).kind == "untested"
    alone = {"value": 0.0, "n": 1, "low": None, "high": None, "metric": "kl_drift"}
    assert verdict_of({"at_least": 0.1}, alone).kind == "open", "it has no interval"


def test_verdicts_of_what_is_measured_are_computed():
    claims = yaml.safe_load((ROOT / "book" / "claims.yml").read_text(encoding="utf-8"))
    assert [claim["claim"] for claim in claims if "run" in claim and not isinstance(claim["verdict"], dict)] == []


@pytest.mark.parametrize(
    "claim, message",
    [
        ({"claim": "x", "verdcit": "y"}, "did you mean 'verdict'"),
        ({"claim": "x", "run": "04", "verdict": {"at_msot": 1}}, "did you mean 'at_most'"),
        ({"claim": "x", "run": "04", "verdict": {"expect": "lowr"}}, "did you mean 'lower'"),
        ({"claim": "x", "run": "04", "select": {"subject": "church"}}, "fits 2 quantities, which differ in condition"),
    ],
)
def test_claims_that_are_wrong(claim, message):
    with pytest.raises(UserError, match=message):
        claims_list([ERASED, BASE] if "select" in claim else [ERASED], [claim])


def test_a_failing_notebook_stops_the_book_and_is_named(root):
    write_notebook(root / "notebooks" / "one.ipynb", "raise ValueError('no church')")
    with pytest.raises(UserError, match="the book stops here: one failed: .*no church"):
        build(root=root)
    assert not (root / "_build" / "html").exists()


def test_build(root):
    path = executed(root)
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
    figure = {"figure": {"caption": "Rates, counted.", "name": "fig-rates"}, "image": {"alt": "A dot."}}
    shown = [
        new_output("display_data", {"image/png": pixel}),
        new_output("display_data", {"text/html": "<b>2 of 3</b> or 67 [21–94]"}),
    ]
    edit_notebook(path, lambda nb: nb.cells[2].outputs.extend(shown))
    edit_notebook(root / "notebooks" / "one.ipynb", lambda nb: nb.cells[2].metadata.update(mystnb=figure))
    words = {"text/markdown": f"{HEADING}\n\nChurches fall.", "text/plain": "x"}
    answer = new_output("display_data", words, metadata={"figure": "fig-rates"})
    edit_notebook(path, lambda nb: nb.cells.append(new_code_cell("in_short()", outputs=[answer])))

    def change(notebook):
        notebook.cells[0].source = "# One\n\n[Colab](https://example.org)\n\nAll `30 %`, 20 %: {numref}`fig-rates`."
        notebook.cells.append(new_code_cell("in_short()", metadata={"tags": ["in-short"]}))

    edit_notebook(root / "notebooks" / "one.ipynb", change)
    index = render(stage(root=root), root)
    assert index == root / "_build" / "html" / "index.html" and index.exists()
    page = (root / "_build" / "html" / "notebooks" / "one.html").read_text()
    assert '<span class="whole">67 [21–94]</span>' in page
    assert '<span class="whole">20 %</span>' in page and '<span class="whole">30 %</span>' not in page
    assert "hello 3" in page and colab_url("notebooks/one.ipynb", root) in page
    assert page.count("<figcaption>") == 1 and page.count('alt="A dot."') == 2 and "<b>2 of 3</b>" in page
    assert "Churches fall." in page.split("hello 3")[0] and "in_short()" not in page
    assert faults(index.parent) == []
    claims = (root / "_build" / "html" / "book" / "claims.html").read_text()
    assert '<span class="verdict holds">✓ holds</span>' in claims and "<details" in claims
    assert "earlib.load_generator" in (root / "_build" / "html" / "book" / "api.html").read_text()

    (root / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
    (root / "book" / "index.md").write_text("# A book\n\nSee {ref}`nothing`.\n")
    with pytest.raises(UserError, match="the book was not built, 1 warning"):
        render(stage(root=root), root)


def test_clear(root):
    path = root / "notebooks" / "one.ipynb"
    edit_notebook(path, lambda nb: nb.cells[2].update(outputs=[new_output("stream", text="x")], execution_count=3))
    assert clear(root) == [path] and clear(root) == []
    assert nbformat.read(path, 4).cells[2].outputs == [] and nbformat.read(path, 4).cells[1].metadata.tags == [
        "parameters"
    ]


@pytest.mark.parametrize(
    "body, fault",
    [
        ('<img src="a.png" alt="a church on a hill">', None),
        ('<img src="a.png">', "no alternative text"),
        ('<img src="a.png" alt="a.png">', "no alternative text"),
        ('<figure><img src="a.png" alt="a church"></figure>', "no caption"),
        ('<figure><img src="a.png" alt="a church"><figcaption>A church.</figcaption></figure>', None),
        ("<p>| a | b | c |</p>", "came out as text"),
        ("<p>the norm |p - q| of <code>a | b | c | d | e | f | g | h</code></p>", None),
        (r"<p>where \lambda is small</p>", "not set"),
        ("<p>costs $5 or less</p>", None),
        ("<p>a loss $L_t$ of</p>", "not set"),
        (r'<p>so <span class="math notranslate">\(\frac12\)</span></p>', None),
        ('<p><a href="other.html#here">a</a> <a href="https://x.org/none">b</a> <a href="#top">c</a></p>', None),
        ('<p><a href="none.html">a</a></p>', "leads nowhere"),
        (f"<pre>PosixPath('{ROOT}/runs/mini')</pre>", "a place of this machine"),
        ('<p><a href="other.html#there">a</a></p>', "without that place"),
    ],
)
def test_what_a_reader_would_stumble_on(tmp_path, body, fault):
    (tmp_path / "other.html").write_text('<html><article><h1 id="here">Other</h1></article></html>')
    (tmp_path / "page.html").write_text(f'<html><nav><img src="x"></nav><article id="top">{body}</article></html>')
    found = faults(tmp_path)
    assert [line for line in found if fault in line] == found and len(found) == 1 if fault else found == []


# ---------------------------------------------------------------- the repository's own settings


def test_every_chapter_exists_and_every_notebook_is_a_chapter():
    chapters = re.findall(r"(?:root|file): (\S+)", (ROOT / "_toc.yml").read_text())
    missing = [c for c in chapters if not any((ROOT / f"{c}{suffix}").exists() for suffix in (".md", ".ipynb"))]
    assert not missing
    manifest = yaml.safe_load((ROOT / "book" / "manifest.yml").read_text())["notebooks"]
    on_disk = {f"notebooks/{p.stem}" for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert (
        {e["path"].removesuffix(".ipynb") for e in manifest}
        == {c for c in chapters if c.startswith("notebooks/")}
        == on_disk
    )


def test_numbers_of_chapters_are_the_books_alone():
    assert not [file.name for file in (ROOT / "notebooks").iterdir() if re.search(r"\d", file.name)]
    for part in yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"]:
        rooms = {chapter["file"].split("/")[0] for chapter in part["chapters"]}
        assert len(rooms) == 1 and ("numbered" in part) == (rooms == {"notebooks"}), part["caption"]


def test_claims_of_the_book_are_well_formed():
    assert claims_list([], yaml.safe_load((ROOT / "book" / "claims.yml").read_text()) or [])


def test_leaderboard_is_read_from_the_tables():
    page = leaderboard()
    main, var = page.split("## Next-scale")
    for recipe in ("ear", "uce", "recommended"):
        assert main.count(f"<td><code>{recipe}</code></td>") == 3, "a row a concept"
    assert "<code>s-vare</code>" in var and main.count("<i>before</i>") == main.count("<i>an oracle</i>") == 3
    assert re.search(r"main\.jsonl`, commit (\w{7,} of \d{4}-\d\d-\d\d|not known) \(model ", main)
    assert re.search(r'data-value="0\.\d+"><span class="whole">\d+ \[\d+–\d+\]', main)
    heads = re.findall("<th>(.*?)</th>", main)
    assert ("worst attack, %" in heads) == bool(worst_attacks("attacks")), "no column without a number"
    assert ("from oracle, nats" in heads) == bool(distances("oracle"))
    assert all(row.count("<td") == len(heads) for row in main.split("<tr>")[2:])


def test_the_worst_attack_of_each_row(monkeypatch, tmp_path):
    rows = [("none", Rate(1, 20)), ("prefix", Rate(9, 20)), ("soft-prompt", Rate(4, 20)), ("rounding", None)]
    table = pd.DataFrame([{"concept": "church", "label": "uce", "attack": a, "with": rate} for a, rate in rows])
    monkeypatch.setattr("earlib.sweeps.attacked.load", lambda name, complete: table)
    monkeypatch.setattr("earlib.sweeps.read.table_folder", lambda: tmp_path)
    assert worst_attacks("attacks") == {}, "no such table"
    (tmp_path / "attacks.jsonl").touch()
    assert worst_attacks("attacks") == {("church", "uce"): Rate(9, 20)}
    of = {"concept": "church", "label": "base", "with": Rate(20, 20)}
    drawn = [("none", Rate(0, 20)), ("prefix", Rate(3, 20)), ("soft-prompt", Rate(1, 20))]
    table = pd.DataFrame([of | {"attack": attack, "oracle": rate} for attack, rate in drawn])
    (row,) = oracles("attacks")
    assert (row["label"], row["direct"], row["worst"]) == ("an oracle", Rate(0, 20), Rate(3, 20))


def test_an_answer_on_the_page_of_results():
    words = {"text/markdown": f"{HEADING}\n\nFew stay, e.g. [cars](pareto.ipynb). See [claims](../book/claims.md)."}
    cell = new_code_cell("", outputs=[new_output("display_data", words)], metadata={"tags": ["in-short"]})
    shown = cell.outputs[0]
    shown.metadata["first"] = "Few stay, e.g. [cars](pareto.ipynb)."
    assert answer(nbformat.v4.new_notebook(cells=[cell])) == "Few stay, e.g. [cars](../notebooks/pareto.ipynb)."
    shown.metadata["first"] = "See [claims](../book/claims.md), e.g. A."
    assert answer(nbformat.v4.new_notebook(cells=[cell])) == "See [claims](claims.md), e.g. A."
    assert answer(nbformat.v4.new_notebook(cells=[])) == ""


def test_the_figure_of_the_page_of_results(tmp_path):
    about = {"figure": {"name": "fig-a", "caption": "Rates."}, "image": {"alt": "Dots."}}
    drawn = new_code_cell("", outputs=[new_output("display_data", {"image/png": "AAAA"})], metadata={"mystnb": about})
    shown = new_output("display_data", {"text/markdown": "x"}, metadata={"figure": "fig-a"})
    notebook = nbformat.v4.new_notebook(cells=[drawn, new_code_cell("", outputs=[shown])])
    nbformat.write(notebook, tmp_path / "one.ipynb")
    drawn.metadata["mystnb"]["figure"]["caption"] = "Rates, by recipe."  # edited since it ran
    nbformat.write(notebook, tmp_path / "now.ipynb")
    found = figure(tmp_path / "one.ipynb", tmp_path / "now.ipynb", tmp_path)
    assert ":alt: Dots." in found and "Rates, by recipe." in found
    assert (tmp_path / "results.png").read_bytes() == bytes(3)
    assert figure(tmp_path / "two.ipynb", tmp_path / "now.ipynb", tmp_path) == ""


def test_every_recipe_has_its_source():
    table = (ROOT / "book" / "bibliography.md").read_text()
    named = set(re.findall(r"`([\w-]+)`", " ".join(re.findall(r"(?m)^\| (`.*?) \|", table))))
    assert named == {*presets.names("mini"), *presets.names("mini-var")}
    known = re.findall(r"@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text())
    assert set(re.findall(r"\{cite:[tp]\}`(\w+)`", table)) <= set(known) and len(known) == len(set(known))


def test_one_address_everywhere():
    address = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    assert address in (ROOT / "CITATION.cff").read_text()
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert all(
        re.fullmatch(r"[\w.-]+==[\w.+-]+", line) for line in lines
    )  # versions only: no index, no host, no local path


def test_markdown_that_a_cell_shows_has_tables_and_equations():
    """Read as plain CommonMark, the audit's table would be one paragraph of pipes."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert config["sphinx"]["config"]["nb_render_markdown_format"] == "myst"


def test_sliders_are_live_for_who_steps_through_and_still_where_rerun_runs(monkeypatch):
    from ipywidgets import IntSlider, __version__

    from earlib.book.live import live

    seen = []
    monkeypatch.setenv("EARLIB_RUN", "runs/x")
    still = live(length=IntSlider(12, 1, 144))(lambda length: seen.append(length))
    assert seen == [12] and still(3) is None and seen == [12, 3]
    monkeypatch.delenv("EARLIB_RUN")
    shown = live(length=IntSlider(7, 1, 144))(lambda length: seen.append(length))
    assert shown.widget.children[0].value == 7  # ipywidgets has made its slider
    assert seen[-1] == 7 or __version__.startswith("7.")  # which draw once a page shows them
