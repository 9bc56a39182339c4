"""ECGVF: writers that answer, dawdle, refuse and babble; a judge that keeps and drops; a run that is killed and goes
on. And the fetched prompt sets."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import earlib.generators.files.fetch as fetching
from earlib.__main__ import main
from earlib.concepts import FOLDER, holds_word, load_concept, normal
from earlib.errors import UserError
from earlib.miniworld.captions import vocabulary, words
from earlib.miniworld.scenes import COLOURS, OBJECTS, PLACES, render, sample_scenes
from earlib.miniworld.words import NAMES
from earlib.pairs.ecgvf import Settings, write_pairs
from earlib.pairs.grammar import GrammarWriter
from earlib.pairs.proposals import parse, proposals
from earlib.pairs.writers import LocalWriter, OpenAIWriter, Request, WriterFailed, make_writers, messages

CHURCH = load_concept("church")
FULL = [load_concept(path) for path in sorted(FOLDER.glob("*.json"))]


class Painter:
    """A generator that draws MiniWorld's pictures of what a prompt says, except where it is told to draw something
    else."""

    name, profile, fingerprint, guidance, temperature = "painter", "mini", "0123456789abcdef", 1.0, 1.0

    def __init__(self, lies=None, dies_at=None):
        self.lies, self.dies_at, self.drawn = lies or {}, dies_at, []

    def unknown_words(self, prompts):
        return sorted({word for prompt in prompts for word in words(prompt)} - set(vocabulary()))

    def sample(self, prompts, seeds, guidance=None, temperature=1.0, batch_size=64, progress=False):
        if self.dies_at is not None and len(self.drawn) >= self.dies_at:
            raise RuntimeError("the power went")
        self.drawn += prompts
        return list(zip(prompts, seeds))

    def decode(self, tokens):
        scenes = sample_scenes(len(tokens), 0, pairs=0.0, portraits=0.0)
        for i, (prompt, seed) in enumerate(tokens):
            text = self.lies.get(prompt, prompt)
            named = {
                kind: [i for i, value in enumerate(values) if any(name in text for name in NAMES[kind][value])]
                for kind, values in (("object", OBJECTS), ("place", PLACES))
            }
            scenes.object[i] = (*named["object"], OBJECTS.index("house"))[0]
            scenes.colour[i] = next((i for i, c in enumerate(COLOURS) if c in text), 0)
            scenes.place[i] = (*named["place"], 0)[0]
            scenes.style[i] = scenes.time[i] = scenes.variant[i] = 0
            scenes.position[i], scenes.flip[i] = seed % 3, seed % 2
        return render(scenes)


IN_FILE = {p for pair in CHURCH.pairs for p in (pair.target, pair.replacement)} | {
    p for group in CHURCH.tests.values() for p in group
}
IN_FILE |= {p for group in (*CHURCH.neighbours.values(), CHURCH.benign) for p in group}
WHERE = [name for place in ("hill", "sea", "desert", "snow") for name in NAMES["place"][place]]
FRESH = [(f"a {colour} church {where}", f"a {colour} house {where}") for where in WHERE for colour in COLOURS]
FRESH = [pair for pair in FRESH if not IN_FILE & set(pair)]  # what the concept file does not hold yet
GOOD, SPARE = FRESH[:10], FRESH[10:14]


def as_reply(pairs) -> str:
    return json.dumps([{"target": target, "replacement": replacement} for target, replacement in pairs])


class Server:
    """A server of the OpenAI chat protocol, whose models misbehave by name. `asked` holds the model of every
    request."""

    def __init__(self):
        self.asked, self.keys, self.replies, self.awake, lock = [], set(), {}, threading.Event(), threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                model = body["model"]
                with lock:
                    outer.asked.append(model)
                    outer.keys.add(self.headers.get("Authorization"))
                    times = outer.asked.count(model)
                if model == "slow" and not outer.awake.wait(0.7):
                    return self.close_connection  # hung up without an answer
                if model == "busy" and times <= 2:
                    return self.answer(429, b"{}", {"Retry-After": "0"} if times == 1 else {})
                if model == "locked":
                    return self.answer(401, b"{}")
                if model == "broken":
                    return self.answer(200, b'{"choices": [{"mess')
                content = outer.replies.get(model) or as_reply(GOOD)
                content = content[(times - 1) % len(content)] if isinstance(content, list) else content
                self.answer(
                    200, json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()
                )

            def answer(self, code, data, headers=None):
                self.send_response(code)
                for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # a client that hung up
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def writer(self, model, **more):
        return OpenAIWriter(
            self.url, model, **{"timeout": 0.2 if model == "slow" else 10, "patience": 2, "pause": 0.01, **more}
        )


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Server()
    yield running
    running.awake.set()
    running.server.shutdown()


SMALL = Settings(count=10, pictures=2)


def run(out, writers, generator=None, settings=SMALL, concept=CHURCH):
    return write_pairs(generator or Painter(), concept, writers, out, settings, batch_size=8, progress=False)


# ---------------------------------------------------------------- writers


@pytest.mark.parametrize("name", ["church", "nudity", "vangogh", "boat", "night", "sea", "pixel", "portrait", "forest"])
def test_the_grammar_speaks_miniworlds_language(name):
    concept, known = load_concept(name), set(vocabulary())
    replies = [GrammarWriter().write(Request(concept, index, 20)) for index in (0, 1, 0)]
    assert replies[0] == replies[2] != replies[1]
    found = proposals(
        concept,
        ["grammar"],
        [{"writer": "grammar", "index": i, "reply": reply} for i, reply in enumerate(replies[:2])],
        Painter().unknown_words,
    )
    assert (
        len(found) == 40
        and not [c for c in found if c.reason == "malformed"]
        and sum(c.reason is None for c in found) >= 25
    )
    for c in found:
        assert set(words(c.target + " " + c.replacement)) <= known and c.target != c.replacement
        assert not any(
            plain in c.replacement
            for plain in {"church": ["church"], "nudity": ["nude"], "vangogh": ["gogh"]}.get(name, concept.words)
        )


@pytest.mark.parametrize("concept", FULL, ids=lambda concept: concept.name)
def test_the_grammar_speaks_english(concept):
    rows = [
        {"writer": "grammar", "index": i, "reply": GrammarWriter().write(Request(concept, i, 10))} for i in range(5)
    ]
    found = proposals(concept, ["grammar"], rows, lambda prompts: [])
    assert (
        len(found) == 50
        and not [c for c in found if c.reason == "malformed"]
        and sum(c.reason is None for c in found) >= 30
    )
    assert all(holds_word(c.target, concept.words) and "{" not in c.target + c.replacement for c in found)
    assert len({len(c.target.split()) for c in found}) >= 5  # lengths vary


def test_a_concept_without_phrases_needs_another_writer(tmp_path):
    import dataclasses

    with pytest.raises(UserError, match="has no 'phrases'.*another --writer"):
        GrammarWriter().write(Request(dataclasses.replace(FULL[0], phrases=()), 0, 1))


def test_a_question_holds_persona_objective_and_template():
    nudity = next(concept for concept in FULL if concept.name == "nudity")
    system, user = messages(Request(nudity, 0, 7))
    assert (
        system["role"] == "system"
        and "7 pairs" in user["content"]
        and '"nude"' in user["content"]
        and "grown-up people only" in user["content"]
    )
    assert (
        '{"target": "...", "replacement": "..."}' in user["content"]
        and sum(pair.target in user["content"] for pair in nudity.pairs) == 3
    )
    assert (
        len(
            {
                messages(Request(nudity, i, 7))[0]["content"] + messages(Request(nudity, i, 7))[1]["content"]
                for i in range(30)
            }
        )
        == 30
    )
    assert "highlands" in messages(Request(CHURCH, 0, 1, 0, tuple(vocabulary())))[1]["content"]


def test_busy_servers_are_asked_again_and_hopeless_ones_given_up(server):
    stop, question = threading.Event(), Request(CHURCH, 0, 10)
    assert (
        parse(server.writer("busy").write(question, stop))[0]["target"] == GOOD[0][0] and server.asked == ["busy"] * 3
    )
    for model, why, times in (
        ("slow", "no answer within 0.2 seconds .asked 3 times", 3),
        ("broken", "no chat completion", 3),
        ("locked", "answered 401", 1),
    ):
        with pytest.raises(WriterFailed, match=why):
            server.writer(model).write(question, stop)
        assert server.asked.count(model) == times
    with pytest.raises(WriterFailed, match="cannot be reached"):
        OpenAIWriter("http://127.0.0.1:9/v1", "x", patience=1, pause=0.01).write(question, stop)
    stop.set()
    with pytest.raises(WriterFailed, match="stopped"):
        server.writer("broken", pause=60).write(question, stop)


def test_a_local_chat_model(tmp_path):
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    with pytest.raises(UserError, match="holds no config.json"):
        LocalWriter(tmp_path / "nowhere")
    vocab = {
        word: i
        for i, word in enumerate(
            ["<unk>", "</s>", "[", "]", "{", "}", '"', "target", "replacement", ":", ",", "church", "house"]
        )
    }
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="</s>"
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=13,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            eos_token_id=1,
        )
    )
    model.save_pretrained(tmp_path / "chat")
    tokenizer.save_pretrained(tmp_path / "chat")
    with pytest.raises(UserError, match="no chat template"):
        LocalWriter(tmp_path / "chat", "cpu").write(Request(CHURCH, 0, 2))
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    tokenizer.save_pretrained(tmp_path / "chat")
    writer = LocalWriter(tmp_path / "chat", "cpu", tokens=12)
    replies = [writer.write(Request(CHURCH, index, 2)) for index in (0, 1, 0)]
    assert replies[0] == replies[2] != replies[1]  # seeded
    found = proposals(
        CHURCH, [writer.name], [{"writer": writer.name, "index": 0, "reply": replies[0]}], lambda prompts: []
    )
    assert found and {c.reason for c in found} == {"malformed"}  # random weights write no pairs


def test_writers_are_named_on_the_command_line(monkeypatch, tmp_path):
    monkeypatch.setenv("EARLIB_WRITER_KEY", "all")
    monkeypatch.setenv("EARLIB_WRITER_KEY_3", "third")
    made = make_writers(
        ["grammar", "openai:http://localhost:11434/v1:qwen2.5:7b", "openai:https://example.org/v1:a/b"], timeout=5
    )
    assert [w.name for w in made] == ["grammar", "qwen2.5:7b@localhost:11434", "a/b@example.org"]
    assert (
        made[1].url == "http://localhost:11434/v1/chat/completions"
        and [w.key for w in made[1:]] == ["all", "third"]
        and made[1].timeout == 5
    )
    for specs, line in {
        ("gramar",): "did you mean 'grammar'",
        ("openai:qwen",): "openai:URL:MODEL",
        ("openai:http://localhost:80/v1",): "openai:URL:MODEL",
        ("grammar", "grammar"): "is given twice",
        (f"local:{tmp_path}",): "holds no config.json",
    }.items():
        with pytest.raises(UserError, match=line):
            make_writers(list(specs))


# ---------------------------------------------------------------- replies


@pytest.mark.parametrize(
    "reply, pairs, broken",
    [
        (as_reply(GOOD[:2]), 2, 0),
        ("Sure! Here you are:\n```json\n" + as_reply(GOOD[:3]) + "\n```\nEnjoy [all] of them.", 3, 0),
        (json.dumps({"pairs": json.loads(as_reply(GOOD[:2]))}), 2, 0),
        ("\n".join(json.dumps(item) for item in json.loads(as_reply(GOOD[:4]))), 4, 0),
        (as_reply(GOOD[:3])[:-20], 2, 1),  # cut short
        ("I cannot help with that.", 0, 1),
        ("", 0, 1),
        ('[1, null, {"target": "a church"}, {"target": 3, "replacement": "x"}]', 0, 4),
        ("[" * 5000, 0, 1),
        (json.dumps([{"target": "a church \ud800", "replacement": "a house"}]), 0, 1),
    ],
)
def test_replies_are_taken_apart(reply, pairs, broken):
    found = proposals(CHURCH, ["x"], [{"writer": "x", "index": 0, "reply": reply}], lambda prompts: [])
    assert [sum(c.reason is None for c in found), sum(c.reason == "malformed" for c in found)] == [pairs, broken]
    json.dumps([c.target for c in found], ensure_ascii=False).encode()  # a report can hold them


# ---------------------------------------------------------------- the whole


def test_every_pair_is_kept_or_dropped_for_a_reason(server, tmp_path):
    neighbour = CHURCH.neighbours["house"][0]
    server.replies["mixed"] = as_reply(
        [
            *GOOD[:3],
            (GOOD[0][0].upper() + ".", "a red boat on a hill"),  # the target of an earlier pair
            (SPARE[0][0], neighbour),  # a prompt that is to test the erasure
            ("a wombat church", "a wombat house"),
            ("a church", "a church."),
            SPARE[1],  # its church will be drawn as a tree
            SPARE[2],  # its house will be drawn as a church
        ]
    )
    lies = {SPARE[1][0]: "a tree", SPARE[2][1]: "a green church"}
    report, path = run(tmp_path / "run", [server.writer("mixed"), GrammarWriter()], Painter(lies))
    mixed, grammar = report["writers"]
    assert {k: mixed[k] for k in ("written", "kept", "malformed", "duplicate", "false_negative", "false_positive")} == {
        **{"written": 9, "kept": 3, "malformed": 2, "duplicate": 2, "false_negative": 1, "false_positive": 1}
    }
    assert mixed["gap"] is None and grammar["asked"] == 10 == grammar["written"] and report["total"]["written"] == 19
    for pair in report["pairs"]:
        assert bool(pair["reason"]) == (pair["reason"] is not None) and (pair["detail"] or pair["reason"] is None)
    concept = load_concept(path)
    assert (
        concept.tests == CHURCH.tests
        and concept.judge == CHURCH.judge
        and [(p.target, p.replacement) for p in concept.pairs[:3]] == GOOD[:3]
    )
    assert len(concept.pairs) == report["kept"]["count"] == len(json.loads(path.read_text())["pairs"])
    assert {pair["writer"] for pair in json.loads(path.read_text())["pairs"]} == {mixed["writer"], "grammar"}
    assert report["kept"]["low"] < report["kept"]["share"] < report["kept"]["high"] and report["kept"]["n"] == 19
    text = (tmp_path / "run" / "report.md").read_text()
    assert (
        "a wombat church" in text
        and "the model does not know: wombat" in text
        and "seen in 0 of 2 pictures of the target" in text
    )
    assert f"| {mixed['writer']} | 10 | 9 | 3 | 2 | 2 | 1 | 1 |" in text and "Kept: " in text
    assert (tmp_path / "run" / "pictures.png").stat().st_size > 5000 and json.loads(
        (tmp_path / "run" / "status.json").read_text()
    )["state"] == "done"


def test_the_threshold_is_a_share_of_the_pictures(tmp_path, server):
    class Half(Painter):  # every second picture of a church shows a tree
        def decode(self, tokens):
            return super().decode(
                [
                    (prompt if i % 2 else prompt.replace("church", "tree"), seed)
                    for i, (prompt, seed) in enumerate(tokens)
                ]
            )

    server.replies["x"] = as_reply(GOOD[:2])
    report, _ = run(tmp_path / "a", [server.writer("x")], Half(), Settings(count=2, pictures=2, threshold=0.5))
    assert report["kept"]["count"] == 2
    with pytest.raises(UserError, match="no pair was kept of 2"):
        run(tmp_path / "b", [server.writer("x")], Half(), Settings(count=2, pictures=2, threshold=0.75))
    assert json.loads((tmp_path / "b" / "report.json").read_text())["total"]["false_negative"] == 2


def test_a_writer_that_gives_up_leaves_a_gap_that_a_later_run_fills(server, tmp_path):
    server.replies["slow"] = as_reply(GOOD[5:])
    server.replies["good"] = as_reply(GOOD[:5])
    writers = [server.writer(model) for model in ("slow", "good", "locked")]
    report, path = run(tmp_path, writers)
    assert [bool(w["gap"]) for w in report["writers"]] == [True, False, True] and "0.2 seconds" in report["writers"][0][
        "gap"
    ]
    assert (
        report["writers"][1]["kept"] == 5
        and len(load_concept(path).pairs) == 5
        and "gave up: answered 401" in (tmp_path / "report.md").read_text()
    )
    server.awake.set()
    report, path = run(tmp_path, [server.writer("slow", timeout=10), *writers[1:]])
    assert report["writers"][0]["kept"] == 5 and report["writers"][0]["gap"] is None and server.asked.count("good") == 1
    assert [normal(pair.target) for pair in load_concept(path).pairs] == [
        target for target, _ in GOOD[5:] + GOOD[:5]
    ]  # in the order of the writers


def test_nobody_answers(server, tmp_path):
    with pytest.raises(UserError, match="no pair was kept of 0; locked@.* answered 401"):
        run(tmp_path, [server.writer("locked")])


def test_killed_and_run_again(server, tmp_path):
    server.replies["a"], server.replies["b"] = as_reply(GOOD[:6]), as_reply(GOOD[4:])
    writers = [server.writer("a"), server.writer("b")]
    whole = run(tmp_path / "whole", writers)
    asked = len(server.asked)
    with pytest.raises(RuntimeError, match="the power went"):
        run(tmp_path / "cut", writers, Painter(dies_at=9))
    assert len(server.asked) == 2 * asked and not (tmp_path / "cut" / "report.json").exists()
    with open(tmp_path / "cut" / "verdicts.jsonl", "a") as file:
        file.write('{"prompt": "a red chu')  # the line that was being written
    painter = Painter()
    assert run(tmp_path / "cut", writers, painter) == (whole[0], tmp_path / "cut" / "church.json")
    assert (
        len(server.asked) == 2 * asked and 0 < len(painter.drawn) < 2 * 20
    )  # nothing was asked twice, and not everything drawn twice
    for name in ("report.json", "report.md", "church.json", "pictures.png"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    painter = Painter()
    run(tmp_path / "whole", writers, painter)
    assert not painter.drawn and len(server.asked) == 2 * asked
    with pytest.raises(UserError, match="different configuration .settings.pictures: 2 there, 3 here"):
        run(tmp_path / "whole", writers, settings=Settings(count=10, pictures=3))


def test_keys_are_sent_and_kept_nowhere(server, tmp_path):
    server.replies["x"] = as_reply(GOOD[:2])
    run(tmp_path, [server.writer("x", key="a-secret-key")])
    assert server.keys == {"Bearer a-secret-key"}
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"a-secret-key" in file.read_bytes()]


def test_bad_input_gets_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for line, complaint in {
        "ecgvf --concept chruch --out out": "did you mean 'church'?",
        "ecgvf --concept church": "the following arguments are required: --out",
        "ecgvf --concept church --out out --writer gramar": "unknown writer 'gramar'; did you mean 'grammar'?",
        "ecgvf --concept church --out out --threshold 0.3": "'0.3' is no threshold",
        "ecgvf --concept church --out out --count 0": "'0' is not a whole number from 1",
        "ecgvf --concept church --out out --timeout never": "'never' is no time",
        "fetch eer": "unknown set 'eer'; did you mean 'ear'?",
        "fetch ear --from nowhere": "nowhere: there is no such folder",
    }.items():
        assert main(line.split()) == 2
        out, err = capsys.readouterr()
        assert complaint in err and err.startswith("error: ") and err.count("\n") == 1 and not out
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- fetched prompt sets


def test_fetched_sets_are_checked_from_the_first_copy_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fetching, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(fetching, "LOCK", tmp_path / "fetched.json")
    source = tmp_path / "source"
    source.mkdir()
    with pytest.raises(UserError, match="test_church.json: there is no such file; download it from https://"):
        fetching.fetch("ear", source)
    (source / "coco_30k.csv").write_text(
        'image_id,source,prompt,evaluation_seed\n0017,coco,"A sink, a door\n",1\n0018,coco,A cat.,2\n'
    )
    assert main(["fetch", "coco", "--from", str(source)]) == 0
    file = tmp_path / "cache" / "coco" / "coco_30k.prompts.jsonl"
    assert capsys.readouterr().out == f"{file}: 2 prompts\n"
    from earlib.prompts import read_prompts

    assert [(p.key, p.text) for p in read_prompts(file)] == [("0017", "A sink, a door"), ("0018", "A cat.")]
    assert fetching.fetch("coco") == [(file, 2)]  # what is there is used, without a network
    (source / "coco_30k.csv").write_text("image_id,prompt\n1,changed\n")
    with pytest.raises(UserError, match="is not the file that was recorded first"):
        fetching.fetch("coco", source)
    assert len(read_prompts(file)) == 2
    for content in (b"a,b\n1,2\n", b"\xff\xfe", b""):
        (source / "vangogh_prompts.csv").write_bytes(content)
        with pytest.raises(UserError, match="vangogh_prompts.csv: is not the file it should be"):
            fetching.fetch("vangogh", source)
    assert not (tmp_path / "cache" / "vangogh").exists()


def test_without_a_network_fetching_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(fetching, "SETS", {"x": {"x.csv": ("http://127.0.0.1:9/x.csv", "prompt", None)}})
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(UserError, match=r"cannot fetch http://127.0.0.1:9/x.csv .* use --from FOLDER"):
        fetching.fetch("x", timeout=2)
