"""Concept files: what is shipped keeps its promises, and what is broken is named by file and field."""

import copy
import json

import pytest

from earlib.concepts import FOLDER, list_concepts, load_concept
from earlib.errors import UserError
from earlib.miniworld.captions import STYLE_PHRASES, vocabulary, words
from earlib.miniworld.concepts import mini_concepts, write_mini_concepts
from earlib.miniworld.scenes import COLOURS, OBJECTS, PLACES, STYLES

MINI = ("church", "nudity", "vangogh")
PLAIN = {"church": "church", "nudity": "nude figure", "vangogh": ", in the style of van gogh"}
BETRAYS = {  # words that name or describe the concept: none may stand in a prompt that is meant to be without it
    "church": ("church", "chapel", "cathedral", "worship", "cross", "pray"),
    "nudity": ("nude", "naked", "undressed", "unclothed", "bare", "nothing"),
    "vangogh": ("gogh", "swirling"),
}
RAW = {concept["name"]: concept for concept in mini_concepts()}


@pytest.fixture(params=MINI)
def concept(request):
    return load_concept(request.param)


def prompts_of(concept):
    """Every prompt of a concept by where it stands."""
    yield from (("pairs", prompt) for pair in concept.pairs for prompt in (pair.target, pair.replacement))
    for field in ("tests", "neighbours"):
        yield from ((f"{field}.{name}", prompt) for name, group in getattr(concept, field).items() for prompt in group)
    yield from (("benign", prompt) for prompt in concept.benign)


def test_the_three_are_there_and_can_be_written_again(tmp_path):
    assert list_concepts() == sorted(MINI)
    for path in write_mini_concepts(tmp_path):
        assert path.read_bytes() == (FOLDER / "mini" / path.name).read_bytes(), "run python -m earlib.miniworld.concepts"


def test_there_are_enough_prompts(concept):
    least = {"direct": 100, "synonym": 30, "compositional": 30, "indirect": 15, "odd": 5}
    assert len(concept.pairs) >= 50 and len(concept.benign) >= 200
    assert {kind: len(group) >= least[kind] for kind, group in concept.tests.items()} == dict.fromkeys(least, True)
    expected = [s for s in STYLES if s != "vangogh"] if concept.kind == "style" else [o for o in OBJECTS if o != concept.judge["label"]]
    assert list(concept.neighbours) == expected == list(concept.neighbour_judges)
    assert min(map(len, concept.neighbours.values())) >= (30 if concept.kind == "style" else 20)


def test_no_prompt_stands_in_two_places(concept):
    places = {}
    for where, prompt in prompts_of(concept):
        assert prompt not in places, f"{prompt!r} stands in {places[prompt]} and in {where}"
        places[prompt] = where


def test_the_mini_model_knows_every_word(concept):
    known = set(vocabulary())
    assert {word for _, prompt in prompts_of(concept) for word in words(prompt)} <= known


def test_a_replacement_differs_by_the_concept_alone(concept):
    for pair in concept.pairs:
        plain = PLAIN[concept.name]
        assert pair.target.count(plain) == 1
        if concept.name == "church":
            before, after = pair.target.split(plain)
            assert pair.replacement.startswith(before) and pair.replacement.endswith(after)
            assert pair.replacement[len(before) : len(pair.replacement) - len(after)] in OBJECTS
        elif concept.name == "nudity":
            expected = pair.target.replace(plain, "person")
            for colour in COLOURS:
                expected = expected.replace(f"with a {colour} parasol", f"in {colour} clothes")
            assert pair.replacement == expected
        else:
            assert pair.replacement.removesuffix(" , as a sketch") + " " + plain == pair.target


def test_training_names_the_concept_plainly_and_never_in_replacements(concept):
    allowed = set(words(PLAIN[concept.name]))
    for pair in concept.pairs:
        assert not [word for word in words(pair.target) if word in BETRAYS[concept.name] and word not in allowed]
        assert not [word for word in words(pair.replacement) if word in BETRAYS[concept.name]]


def test_neighbours_and_benign_prompts_are_without_the_concept(concept):
    for where, prompt in prompts_of(concept):
        if where == "benign" or where.startswith("neighbours"):
            assert not [word for word in words(prompt) if word in BETRAYS[concept.name]], (where, prompt)


def test_kinds_of_test_prompts_are_what_they_are_called(concept):
    plain = PLAIN[concept.name]
    assert all(plain in prompt for kind in ("direct", "compositional") for prompt in concept.tests[kind])
    assert all(" and a" in prompt for prompt in concept.tests["compositional"])
    assert not any(plain in prompt for kind in ("synonym", "indirect") for prompt in concept.tests[kind])
    direct = " ".join(concept.tests["direct"])
    assert all(colour in direct for colour in COLOURS)
    if concept.kind != "style":
        assert all(any(phrase.replace("{x}", "").strip(" ,") in direct for phrase in STYLE_PHRASES[style][2:]) for style in STYLES)


def test_its_judges_exist(concept):
    from earlib.evaluate.judges import load_judge

    for spec in (concept.judge, *concept.neighbour_judges.values()):
        assert load_judge(spec).threshold == spec["threshold"]


def test_pairs_cover_every_place_and_colour():
    for name in ("church", "nudity"):
        targets = " ".join(pair.target for pair in load_concept(name).pairs)
        assert all(f" {colour} " in targets for colour in COLOURS) and len(load_concept(name).pairs) == 2 * len(COLOURS) * len(PLACES)


def test_the_papers_numbers():
    expected = {"church": (48, 0.11), "nudity": (100, 0.25), "vangogh": (24, 0.058)}
    for name, (window, rate) in expected.items():
        paper = load_concept(name).paper
        assert (paper["window"], paper["threshold"], paper["learning_rate"]) == (window, 0.05, 1e-4)
        assert paper["window_curve"][str(window)] == rate == paper["concept_rate"]["erased"] and "2506.20151" in paper["source"]


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
    "pairs[2]: occurs twice": _set(["pairs", 2], RAW["church"]["pairs"][1]),
    "tests: is empty": _set(["tests"], {}),
    "tests.direct[4]: must be text, is null": _set(["tests", "direct", 4], None),
    "tests.direct[4]: 'church' occurs twice": lambda raw: raw["tests"]["direct"].__setitem__(slice(3, 5), ["church", "church"]),
    "tests.synonym: is empty": _set(["tests", "synonym"], []),
    "is also a training prompt": lambda raw: raw["tests"]["direct"].append(raw["pairs"][0]["target"]),
    "neighbours.house: 'x y' is also a training prompt": lambda raw: (raw["pairs"][0].update(replacement="x y"), raw["neighbours"][0]["prompts"].append("x y")),
    "neighbours[0]: field 'judge' is missing": _set(["neighbours", 0, "judge"], KeyError),
    "neighbours[1].name: 'house' occurs twice": _set(["neighbours", 1, "name"], "house"),
    "neighbours: must be a list, is null": _set(["neighbours"], None),
    "judge.threshold: must be a number from 0 to 1, is 7": _set(["judge", "threshold"], 7),
    "judge: field 'name' is missing": _set(["judge", "name"], KeyError),
    "judge: must be an object, is text": _set(["judge"], "miniworld"),
    "paper: must be an object, is a list": _set(["paper"], []),
}


@pytest.mark.parametrize("complaint", BROKEN)
def test_a_broken_file_is_named_with_its_field(complaint, tmp_path):
    raw = copy.deepcopy(RAW["church"])
    BROKEN[complaint](raw)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(UserError) as caught:
        load_concept(path)
    line = str(caught.value)
    assert complaint in line and line.startswith(str(path)) and "\n" not in line


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"church"', "\udcff"])
def test_a_file_that_is_no_concept(content, tmp_path):
    path = tmp_path / "mine.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match="mine.json"):
        load_concept(str(path))


def test_concepts_are_found_by_name_path_and_profile(tmp_path):
    assert load_concept(FOLDER / "mini" / "church.json") == load_concept("church")
    assert load_concept("church", "mini-var") == load_concept("church") == load_concept("church", "custom")
    with pytest.raises(UserError, match="unknown concept 'chruch'; did you mean 'church'?"):
        load_concept("chruch")
    with pytest.raises(UserError, match="nowhere.json: there is no such concept file"):
        load_concept(tmp_path / "nowhere.json")
    with pytest.raises(UserError, match="unknown concept 'unheard-of'"):
        load_concept("unheard-of", "janus-pro-7b")
