"""From a concept to a page: the whole report on a tiny random model, its resumption, its safety, its layout and its
command line."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from earlib.__main__ import main
from earlib.book.page import Page
from earlib.book.report import make_report
from earlib.concepts import load_concept
from earlib.erasure import erase
from earlib.erasure.presets import recipe
from earlib.erasure.presets import recipe as any_recipe
from earlib.errors import UserError
from earlib.evaluate import drift, pictures, study
from earlib.evaluate.drift import draw_tokens
from earlib.evaluate.judges import load_judge
from earlib.evaluate.rate import Rate
from earlib.evaluate.records import KEYS
from earlib.plots import pictures as plotted
from tests.conftest import tiny_janus

SMALL = {"seeds": (0,), "size": 4, "progress": False}


@pytest.fixture(scope="module", autouse=True)
def few_attacks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "LIGHT", {"wordings": 8, "soft-prompt": 12})
        yield


@pytest.fixture(scope="module")
def tiny():
    return tiny_janus()


@pytest.fixture(scope="module")
def ear():
    return recipe("ear", **{"pairs": 2, "windows.length": 4, "gate.threshold": 0.0})


@pytest.fixture(scope="module")
def church(tiny):
    """Judged so that a model that draws noise has pictures with "the concept" and pictures without it."""
    concept = load_concept("church")
    judge = load_judge(concept.judge)
    named, benign = (
        judge.probabilities(tiny.decode(draw_tokens(tiny, list(prompts[:4]))))
        for prompts in (concept.tests["direct"], concept.benign)
    )
    for group, labels in judge.groups.items():
        for i, label in enumerate(labels):
            second_most, second_least = np.sort(named[group][:, i])[-2], np.sort(benign[group][:, i])[1]
            if second_most > second_least + 1e-4:
                spec = {
                    "name": "miniworld",
                    "group": group,
                    "label": label,
                    "threshold": float(second_most + second_least) / 2,
                }
                return dataclasses.replace(
                    concept, judge=spec, neighbours={k: v for k, v in list(concept.neighbours.items())[:2]}
                )


@pytest.fixture(scope="module")
def done(tiny, ear, church, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "out"
    with pytest.MonkeyPatch.context() as patch:
        import earlib.erasure.trajectories as trajectories

        patch.setattr(trajectories, "CACHE", tmp_path_factory.mktemp("trajectories"))
        patch.setattr(pictures, "CACHE", tmp_path_factory.mktemp("pictures"))
        make_report(tiny, church, out, ear, **SMALL)
    return out


def test_records_cover_everything_that_applies(done):
    records = json.loads((done / "results.json").read_text())
    assert all(tuple(r) == KEYS for r in records)
    metrics = {r["metric"] for r in records}
    assert metrics >= {
        "concept_rate",
        "concept_rate_change",
        "neighbour_rate",
        "clip_score",
        "in_prompt_clip",
        "kid",
        "fid",
        "precision",
        "recall",
    }
    assert metrics >= {
        "kl_drift",
        "token_agreement",
        "identical_rate",
        "first_row_entropy",
        "first_row_spread",
        "likelihood_gap",
        "likelihood_gap_change",
    }
    assert metrics >= {
        "guided_rate",
        "prefix_rate",
        "rows_alone_rate",
        "caption_rate",
        "caption_rate_change",
        "question_rate",
    }
    attacks = {(r["kind"], r["condition"]) for r in records if r["metric"] == "attack_rate"}
    assert {("none", "base"), ("soft-prompt", "erased"), ("wordings", "control")} <= attacks
    rest = {r["condition"] for r in records if r["metric"] != "attack_rate"}
    assert all(r["n"] >= 1 for r in records) and rest == {"base", "erased"}
    scales = [r["kind"] for r in records if r["metric"] == "guided_rate" and r["condition"] == "erased"]
    assert scales == [f"guidance {w}" for w in range(1, 11)]
    assert (
        json.loads((done / "status.json").read_text())["state"] == "done"
        and (done / "erasure" / "erasure.safetensors").is_file()
    )


def test_the_page_stands_alone_and_tells_its_settings(done):
    page, text = (done / "report.html").read_text(), (done / "report.md").read_text()
    assert (
        page.count("data:image/png;base64,") == 5
        and not re.search(r'(src|href)="(?!data:)', page)
        and "<script" not in page
    )
    for word in ("Is it gone?", "Can it be brought back?", "picture seeds", "miniworld ", "fingerprint", '"windows"'):
        assert word in page.replace("&quot;", '"') and word in text
    for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text):
        assert Image.open(done / picture).size[0] > 100
    assert next(line for line in text.splitlines() if line.startswith("- ")).startswith("- Attacked at a small budget")
    rows = [line for line in text.splitlines() if line.startswith("| direct")]
    assert len(rows) == 1 and rows[0].count(" % [") == 2 and "points [" in rows[0]


def test_a_killed_report_goes_on_where_it_stopped(tiny, ear, church, done, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(done, out)
    for gone in ("results.json", "report.html", "sections/recognition.json", "sections/prefix.json"):
        (out / gone).unlink()
    (out / "status.json").write_text('{"state": "running"}')
    before = (out / "sections" / "rates.json").stat().st_mtime_ns
    monkeypatch.setitem(study.SECTIONS, "rates", None)  # it is there: it must not be measured again
    make_report(tiny, church, out, ear, **SMALL)
    assert (out / "results.json").read_bytes() == (done / "results.json").read_bytes() and (
        out / "report.html"
    ).is_file()
    assert (out / "sections" / "rates.json").stat().st_mtime_ns == before


def test_a_folder_of_another_report_is_refused(tiny, ear, church, done):
    with pytest.raises(UserError, match="size: 4 there, 3 here"):
        make_report(tiny, church, done, ear, **SMALL | {"size": 3})
    with pytest.raises(UserError, match="different configuration"):
        make_report(tiny, dataclasses.replace(church, name="chapel"), done, ear, **SMALL)
    with pytest.raises(UserError, match="picture seeds must differ"):
        make_report(tiny, church, done, ear, **SMALL | {"seeds": (1, 1)})
    with pytest.raises(UserError, match="not both"):
        make_report(tiny, church, done, ear, "some/erasure", **SMALL)


def test_a_report_on_an_erasure_that_is_there(tiny, ear, church, done, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "CACHE", tmp_path / "pictures")  # in other batches a pixel may round otherwise
    again = make_report(tiny, church, tmp_path / "out", erasure=done / "erasure", **SMALL)
    told = [[r for r in json.loads((folder / "results.json").read_text())] for folder in (done, again.parent)]
    assert told[0] == told[1] and not (again.parent / "erasure").exists()


def test_judges_that_are_not_there_are_said_before_training(tiny, ear, church, tmp_path, monkeypatch):
    monkeypatch.setattr("earlib.erasure.train.train", None)  # training would fail
    concept = dataclasses.replace(
        church, judge={"name": "resnet50", "label": "church", "weights": str(tmp_path / "resnet50.pth")}
    )
    with pytest.raises(UserError, match="no weights at .*; download https://"):
        make_report(tiny, concept, tmp_path / "out", ear, **SMALL)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def nude():
    concept = load_concept("nudity")
    return dataclasses.replace(
        concept, judge=concept.judge | {"threshold": 0.0}, neighbours={}
    )  # the judge fires at every picture


@pytest.mark.parametrize("show_explicit", [False, True])
def test_explicit_pictures_never_reach_the_disk_unless_asked_for(tiny, ear, nude, tmp_path, monkeypatch, show_explicit):
    seen = []
    real = plotted.grid
    monkeypatch.setattr(plotted, "grid", lambda images, **more: seen.append(images) or real(images, **more))
    monkeypatch.setattr(pictures, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(
        study,
        "SECTIONS",
        study.SECTIONS | {"guidance": skipped} | dict.fromkeys(("knowledge", "prefix", "recognition"), left_out),
    )
    erase(tiny, nude, ear, out=tmp_path / "erasure", progress=False)
    make_report(tiny, nude, tmp_path / "out", erasure=tmp_path / "erasure", show_explicit=show_explicit, **SMALL)
    hidden = np.array([is_blurred(image) for images in seen for image in images])
    assert len(hidden) and hidden.all() != show_explicit
    assert not (tmp_path / "cache").exists()
    page = (tmp_path / "out" / "report.md").read_text()
    assert ("are blurred" in page) != show_explicit


def left_out(case):
    return {"records": [], "notes": ["left out"]}


def skipped(case):
    records = [case.base.measure("guided_rate", case.concept.name, "guidance 1", Rate(0, 1))]
    return {"records": records, "notes": []}


def is_blurred(image) -> bool:
    """Neighbouring pixels of a blurred picture hardly differ."""
    return np.abs(np.diff(image.astype(int), axis=1)).max() < 64


# ---------------------------------------------------------------- layout


def test_what_a_page_says_is_never_markup(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    page = Page("<b>bold</b> & so on", tmp_path)
    page.table([{"a | b": "x | y", "empty": None, "n": 3}, {"a | b": "<i>", "empty": "", "n": None}], "small <print>")
    page.table([])
    page.picture(tmp_path / "a.png", 'a "caption"', 'the "alt"')
    page.items(["one & two"])
    html = page.write().read_text()
    assert (
        "<b>" not in html
        and "<i>" not in html
        and "small &lt;print&gt;" in html
        and 'alt="the &quot;alt&quot;"' in html
    )
    assert html.count("<table>") == 1 and "empty" not in html and html.count("<td>") == 4
    text = (tmp_path / "report.md").read_text()
    assert "| x \\| y | 3 |" in text and "](a.png)" in text and "- one & two" in text


# ---------------------------------------------------------------- command line


@pytest.mark.parametrize(
    "line, message",
    [
        ("report --concept church", "--out"),
        ("report --concept curch --out out", "did you mean 'church'?"),
        ("report --concept church --recipe era --out out", "did you mean 'ear'?"),
        ("report --concept church --recipe ear --erasure nowhere --out out", "leave out either"),
        ("report --concept church --erasure nowhere --out out", "nowhere: there is no such folder"),
        ("report --concept church --out out --max-prompts 0", "'0' is not a whole number"),
        ("report --concept church --out out --show-explict", "did you mean '--show-explicit'?"),
        ("report --concept church --out out --set lrr=1", "did you mean 'lr'?"),
    ],
)
def test_wrong_reports_are_one_line(line, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


# ---------------------------------------------------------------- the other family


def test_a_report_on_a_next_scale_model(church, tmp_path):
    """Everything but what only next-token models have is measured; what is left out is said in a line each."""
    from tests.test_nextscale import tiny as tiny_var

    model = tiny_var(text_length=32)
    named = model.decode(draw_tokens(model, list(church.tests["direct"][:3])))
    threshold = float(load_judge(church.judge).score(named).min())  # a tiny model's noise counts as the concept
    concept = dataclasses.replace(church, judge=church.judge | {"threshold": threshold})
    quick = any_recipe("vare", model, pairs=2, passes=1, lr=0.01)
    page = make_report(model, concept, tmp_path / "out", quick, **SMALL | {"size": 3})
    records = {(r["metric"], r["kind"]): r for r in json.loads((page.parent / "results.json").read_text())}
    metrics = {metric for metric, _ in records}
    assert metrics >= {
        "concept_rate",
        "kl_drift",
        "token_agreement",
        "likelihood_gap_change",
        "guided_rate",
        "prefix_rate",
    }
    assert records["kl_drift", "benign"]["value"] > 0 and records["kl_drift", "benign"]["n"] == 3
    assert [kind for metric, kind in records if metric == "prefix_rate"] == [f"{k} of 4 scales" for k in range(4)]
    text = (page.parent / "report.md").read_text()
    assert "scale by scale" in text and "reads none" in text and "scales given from a picture" in text
    again = make_report(model, concept, tmp_path / "again", erasure=page.parent / "erasure", **SMALL | {"size": 3})
    assert (again.parent / "results.json").read_bytes() == (page.parent / "results.json").read_bytes()
    benign = list(concept.benign)[:3]
    same = drift.Model(model)
    assert drift.kl_by_code(same, same, benign, draw_tokens(model, benign)).abs().max() == 0
