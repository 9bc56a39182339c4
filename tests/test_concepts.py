"""Concept files: what is shipped keeps its promises, and what is broken is named by file and field."""

import copy
import json
import re

import pytest

from earlib.concepts import FOLDER, holds_word, list_concepts, load_concept, normal
from earlib.errors import UserError
from earlib.miniworld.concepts import VALUES
from earlib.miniworld.scenes import COLOURS, OBJECTS, PLACES
from earlib.miniworld.words import CONCEPTS, NAMES

MINI = ("church", "nudity", "vangogh")
FULL = ("church", "cyberpunk", "forest", "night", "nudity", "portrait", "vangogh", "watercolor")
RAW = {name: json.loads((FOLDER / "mini" / f"{name}.json").read_text(encoding="utf-8")) for name in MINI}
HAND = json.loads((FOLDER / "church.json").read_text(encoding="utf-8"))


@pytest.fixture(params=CONCEPTS)
def concept(request):
    return load_concept(request.param)


def prompts_of(concept):
    """Every prompt of a concept by where it stands."""
    yield from (("pairs", prompt) for pair in concept.pairs for prompt in (pair.target, pair.replacement))
    for field in ("tests", "neighbours"):
        yield from ((f"{field}.{name}", prompt) for name, group in getattr(concept, field).items() for prompt in group)
    yield from (("benign", prompt) for prompt in concept.benign)


@pytest.fixture(params=FULL)
def full_concept(request):
    return load_concept(request.param, "janus-pro-7b")


def test_minis_concepts_are_there():
    """What their prompts hold is tested in `test_miniworld.py`."""
    assert list_concepts() == sorted(CONCEPTS)


def test_there_are_neighbours_to_keep(concept):
    attribute, value = CONCEPTS[concept.name]
    assert len(concept.benign) == 200 and min(map(len, concept.neighbours.values())) >= 24
    if attribute not in ("time", "framing"):
        assert list(concept.neighbours) == [other for other in VALUES[attribute] if other != value]
    assert list(concept.neighbours) == list(concept.neighbour_judges)


@pytest.mark.parametrize(
    "name, profile", [*((name, "mini") for name in CONCEPTS), *((name, "janus-pro-1b") for name in FULL)]
)
def test_no_prompt_stands_in_two_places(name, profile):
    places = {}
    for where, prompt in prompts_of(load_concept(name, profile)):
        assert normal(prompt) not in places, f"{prompt!r} stands in {places[normal(prompt)]} and in {where}"
        places[normal(prompt)] = where


def test_the_full_size_concepts_are_there():
    assert list_concepts("janus-pro-7b") == list_concepts("janus-pro-1b-shape") == sorted(FULL)
    kinds = {name: load_concept(name, "janus-pro-7b").kind for name in FULL}
    assert (
        set(kinds.values()) == {"object", "style", "content", "scene"} and kinds["nudity"] == "content"
    )  # what is of kind content is blurred


def test_full_size_concepts_have_enough_of_everything(full_concept):
    least = {"direct": 30, "synonym": 20, "compositional": 20, "indirect": 15, "chinese": 20}
    assert len(full_concept.pairs) >= 50 and sum(map(len, full_concept.tests.values())) >= 100
    assert {kind: len(group) >= least[kind] for kind, group in full_concept.tests.items()} == dict.fromkeys(least, True)
    assert (
        len(full_concept.neighbours) >= 5
        and min(map(len, full_concept.neighbours.values())) >= 8
        and len(full_concept.benign) >= 60
    )
    assert len(full_concept.words) >= 1 and len(full_concept.phrases) >= 6 and full_concept.about


def test_full_size_pairs_are_minimal_and_varied(full_concept):
    shared, places, lengths = [], set(), set()
    for pair in full_concept.pairs:
        a, b = pair.target.split(), pair.replacement.split()
        before = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
        after = next((i for i, (x, y) in enumerate(zip(a[before:][::-1], b[before:][::-1])) if x != y), 0)
        shared.append((before + after) / len(a))
        places.add("start" if before <= 1 else "end" if not after else "middle")
        lengths.add(len(a))
    assert sum(shared) / len(shared) > 0.5 and places == {"start", "middle", "end"} and max(lengths) - min(lengths) >= 6
    assert len({pair.replacement for pair in full_concept.pairs}) == len(full_concept.pairs)


def test_full_size_tests_are_what_they_are_called(full_concept):
    tests, names = full_concept.tests, full_concept.words
    trained = {word for word in names for pair in full_concept.pairs if holds_word(pair.target, [word])}
    assert all(holds_word(prompt, names) for kind in ("direct", "compositional") for prompt in tests[kind])
    assert not [prompt for prompt in tests["synonym"] if holds_word(prompt, trained)]
    assert not [prompt for prompt in tests["indirect"] if holds_word(prompt, names)]
    assert all(
        re.search("[\u4e00-\u9fff]", prompt) and not re.search("[a-z]{2}", prompt) for prompt in tests["chinese"]
    )
    english = [prompt for where, prompt in prompts_of(full_concept) if where != "tests.chinese"]
    wrong = re.compile(r"\b(a (?!one|uni|eur|use)[aeiou]\w|an (?!hour)[^aeiou\W]\w)", re.IGNORECASE)
    assert not [
        prompt for prompt in english if wrong.search(prompt) or "  " in prompt or re.search(r"\b(\w+) \1\b", prompt)
    ]


def test_nudity_is_worded_soberly():
    concept = load_concept("nudity", "janus-pro-7b")
    for _, prompt in prompts_of(concept):
        assert not re.search(
            r"\b(girls?|boys?|child|children|teen\w*|young|school\w*|sex\w*|erotic|porn\w*|seduc\w*)\b",
            prompt,
            re.IGNORECASE,
        ), prompt


def test_judge_specs_of_full_size_concepts_name_what_the_judges_take(full_concept):
    import inspect

    from earlib.evaluate import judges

    classes = {"resnet50": "ResNet50Judge", "nudenet": "NudeNetJudge", "style": "StyleJudge", "clip": "ClipJudge"}
    for spec in (full_concept.judge, *full_concept.neighbour_judges.values()):
        inspect.signature(getattr(judges, classes[spec["name"]])).bind(**{k: v for k, v in spec.items() if k != "name"})


def test_the_papers_settings_stand_in_both_sizes(full_concept):
    paper = full_concept.paper
    if full_concept.name in MINI:
        assert paper == load_concept(full_concept.name).paper
    else:
        assert (
            paper["window"] is None
            and paper["concept_rate"] is None
            and "not erased in the paper" in paper["note"]
            and paper["threshold"] == 0.05
        )


def test_a_replacement_differs_by_the_concept_alone():
    for pair in load_concept("church").pairs:
        before, after = pair.target.split("church")
        instead = pair.replacement[len(before) : len(pair.replacement) - len(after)]
        assert pair.replacement == before + instead + after and instead in OBJECTS
    for pair in load_concept("nudity").pairs:
        expected = pair.target.replace("nude figure", "person")
        for colour in COLOURS:
            expected = expected.replace(f"with a {colour} parasol", f"in {colour} clothes")
        assert pair.replacement == expected
    for name, (attribute, value) in CONCEPTS.items():
        if attribute in ("place", "time"):
            plain = NAMES[attribute][value][0]
            sides = [(pair.target.split(plain), pair.replacement) for pair in load_concept(name).pairs]
            assert all(other.startswith(before) and other.endswith(after) for (before, after), other in sides)


def test_training_names_the_concept_plainly_and_never_in_replacements(concept):
    attribute, value = CONCEPTS[concept.name]
    others = [word for word in concept.words if word not in NAMES[attribute][value][0]]  # are left to the tests
    assert not [pair for pair in concept.pairs if holds_word(pair.replacement, concept.words)]
    assert not [pair for pair in concept.pairs if holds_word(pair.target, others)]


def test_its_judges_exist(concept):
    from earlib.evaluate.judges import load_judge

    for spec in (concept.judge, *concept.neighbour_judges.values()):
        assert load_judge(spec).threshold == spec["threshold"]


def test_pairs_cover_every_place_and_colour():
    for name in ("church", "nudity"):
        targets = " ".join(pair.target for pair in load_concept(name).pairs)
        assert all(f" {colour} " in targets for colour in COLOURS)
        assert all(any(place in targets for place in NAMES["place"][where]) for where in PLACES)


def test_the_papers_numbers():
    expected = {"church": (48, 0.11), "nudity": (100, 0.25), "vangogh": (24, 0.058)}
    for name, (window, rate) in expected.items():
        paper = load_concept(name).paper
        assert (paper["window"], paper["threshold"], paper["learning_rate"]) == (window, 0.05, 1e-4)
        assert (
            paper["window_curve"][str(window)] == rate == paper["concept_rate"]["erased"]
            and "2506.20151" in paper["source"]
        )


def _set(path, value):
    def change(raw):
        *parents, last = path
        for step in parents:
            raw = raw[step]
        if value is KeyError:
            del raw[last]
        else:
            raw[last] = value

    return change


BROKEN = {  # what the one line must hold -> a change to a good file
    "field 'benign' is missing": _set(["benign"], KeyError),
    "unknown field 'neighbors'; did you mean 'neighbours'?": _set(["neighbors"], []),
    "kind: is 'objects'; did you mean 'object'?": _set(["kind"], "objects"),
    "name: is 'A Church'": _set(["name"], "A Church"),
    "name: must be text, is a number": _set(["name"], 3),
    "pairs: must be a list, is an object": _set(["pairs"], {}),
    "pairs: is empty": _set(["pairs"], []),
    "pairs[3]: field 'replacement' is missing": _set(["pairs", 3, "replacement"], KeyError),
    "pairs[3]: unknown field 'replace'; did you mean 'replacement'?": _set(["pairs", 3, "replace"], "x"),
    "pairs[3].target: is empty text": _set(["pairs", 3, "target"], " "),
    "pairs[0]: target and replacement are the same prompt": _set(["pairs", 0], {"target": "x", "replacement": "x"}),
    "pairs[2].target: '": _set(["pairs", 2], RAW["church"]["pairs"][1]),
    "occurs twice, first in pairs[1].target": _set(
        ["pairs", 2, "target"], RAW["church"]["pairs"][1]["target"].upper() + " ."
    ),
    "occurs twice, first in pairs[1].replacement": _set(
        ["pairs", 2, "target"], RAW["church"]["pairs"][1]["replacement"]
    ),
    "tests: is empty": _set(["tests"], {}),
    "tests.direct[4]: must be text, is null": _set(["tests", "direct", 4], None),
    "tests.direct[5]: holds the character \\ud800": _set(["tests", "direct", 5], "a \ud800 church"),
    "tests.direct[6]: holds the character \\x00": _set(["tests", "direct", 6], "a church\0"),
    "tests.direct[4]: 'church' occurs twice": lambda raw: raw["tests"]["direct"].__setitem__(
        slice(3, 5), ["church", "church"]
    ),
    "tests.synonym: is empty": _set(["tests", "synonym"], []),
    "tests.direct[120]: '": lambda raw: raw["tests"]["direct"].append(raw["pairs"][0]["target"]),
    "neighbours[0].prompts[24]: 'x y' occurs twice, first in pairs[0].replacement": lambda raw: (
        raw["pairs"][0].update(replacement="x y"),
        raw["neighbours"][0]["prompts"].append("x y"),
    ),
    "benign[0]: 'church' occurs twice, first in tests.odd[0]": _set(["benign", 0], "church"),
    "neighbours[0]: field 'judge' is missing": _set(["neighbours", 0, "judge"], KeyError),
    "neighbours[1].name: 'house' occurs twice": _set(["neighbours", 1, "name"], "house"),
    "neighbours: must be a list, is null": _set(["neighbours"], None),
    "judge.threshold: must be a number from 0 to 1, is 7": _set(["judge", "threshold"], 7),
    "judge: field 'name' is missing": _set(["judge", "name"], KeyError),
    "judge: must be an object, is text": _set(["judge"], "miniworld"),
    "paper: must be an object, is a list": _set(["paper"], []),
    "words: is empty": _set(["words"], []),
    "words[0]: must be text, is a number": _set(["words"], [3]),
}
BROKEN_WORDS = {  # the same for a file with `words`
    "pairs[0].target: 'A barn' does not name the concept by any of its words ('church', 'churches', ": _set(
        ["pairs", 0, "target"], "A barn"
    ),
    "tests.direct[1]: 'a churchyard' does not name the concept": _set(["tests", "direct", 1], "a churchyard"),
    "pairs[0].replacement: 'CHURCHES' holds 'churches', a word of the concept": _set(
        ["pairs", 0, "replacement"], "CHURCHES"
    ),
    "benign[2]: 'a church-like barn' holds 'church'": _set(["benign", 2], "a church-like barn"),
    "neighbours[0].prompts[0]: 'an abbey' holds 'abbey'": _set(["neighbours", 0, "prompts", 0], "an abbey"),
    "phrases[0].target: 'a barn' does not name the concept": _set(["phrases", 0, "target"], "a barn"),
    "phrases[0]: target and replacement must both hold {x} once": _set(["phrases", 0, "target"], "a church of {x}"),
    "phrases[0]: field 'target' is missing": _set(["phrases", 0], {"replacement": "x"}),
    "field 'judge' is missing": _set(["judge"], KeyError),
}


@pytest.mark.parametrize("complaint", [*BROKEN, *BROKEN_WORDS])
def test_a_broken_file_is_named_with_its_field(complaint, tmp_path):
    raw = copy.deepcopy(HAND if complaint in BROKEN_WORDS else RAW["church"])
    (BROKEN | BROKEN_WORDS)[complaint](raw)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(UserError) as caught:
        load_concept(path)
    line = str(caught.value)
    assert complaint in line and line.startswith(str(path)) and "\n" not in line


def test_one_replacement_may_serve_several_targets_and_a_pair_may_name_its_writer(tmp_path):
    raw = copy.deepcopy(RAW["church"])
    raw["pairs"][1]["replacement"] = raw["pairs"][0]["replacement"]
    raw["pairs"][2]["writer"] = "grammar"
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(raw))
    assert load_concept(path).pairs[1].replacement == load_concept(path).pairs[0].replacement


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"church"', "\udcff", "[" * 100_000])
def test_a_file_that_is_no_concept(content, tmp_path):
    path = tmp_path / "mine.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match="mine.json"):
        load_concept(str(path))


def test_concepts_are_found_by_name_path_and_profile(tmp_path):
    assert load_concept(FOLDER / "mini" / "church.json") == load_concept("church")
    assert load_concept("church", "mini-var") == load_concept("church") != load_concept("church", "janus-pro-1b")
    assert load_concept("church", "custom") == load_concept("church", "janus-pro-1b") and load_concept(
        "boat", "custom"
    ) == load_concept("boat")
    with pytest.raises(UserError, match="unknown concept 'chruch'; did you mean 'church'?"):
        load_concept("chruch")
    with pytest.raises(UserError, match="nowhere.json: there is no such concept file"):
        load_concept(tmp_path / "nowhere.json")
    with pytest.raises(UserError, match="unknown concept 'unheard-of'"):
        load_concept("unheard-of", "janus-pro-7b")
