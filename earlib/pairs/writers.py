"""Writers of prompt pairs: servers that speak the OpenAI chat protocol and local chat models. The offline one is in
`grammar.py`.

A writer is asked for some pairs at a time (`Request`) and answers with text: a JSON array of {"target", "replacement"},
if all goes well. The pattern of the question (persona, objective, template) follows the description of ECGVF in EAR
(arXiv 2506.20151); its wording is ours, the authors' is not released. What becomes of a reply is in `ecgvf.py`.
"""

from __future__ import annotations

import json
import os
import re
import threading
from dataclasses import asdict
from pathlib import Path

from ..errors import UserError, nearest
from .grammar import GrammarWriter
from .proposals import Request, Writer, WriterFailed

PERSONAS = (
    "You write captions for a picture agency. Your sentences are plain and say what can be seen.",
    "You are a landscape photographer who notes down light, weather and distance.",
    "You illustrate books and think in scenes with a foreground and a background.",
    "You are a museum guide who describes pictures to people who cannot see them.",
    "You travel a lot and describe places in few words.",
    "You are a film director who describes single shots.",
)
MANNERS = (  # so that lengths and the concept's place in the sentence vary
    "Use at most eight words a prompt.",
    "Let the concept come at the very end of the prompt.",
    "Let the concept come at the very beginning of the prompt.",
    "Use 15 to 25 words a prompt, with details of light, weather or material.",
    "Name a medium (photograph, oil painting, sketch, ...) in every prompt.",
    "Put a second thing or a person into every prompt, in both prompts of the pair.",
)
LONGEST_REPLY = 200_000  # characters


def messages(request: Request) -> list[dict]:
    """Persona, objective and template, as chat messages."""
    concept = request.concept
    names = ", ".join(f'"{word}"' for word in concept.words) or f'"{concept.name}"'
    examples = [asdict(concept.pairs[i]) for i in request.rng.permutation(len(concept.pairs))[:3]]
    shown = json.dumps(examples, ensure_ascii=False)
    manner = (request.index + request.index // len(PERSONAS)) % len(MANNERS)  # every persona meets every manner in time
    lines = [
        f"Write {request.count} pairs of prompts for a text-to-image model. "
        f"The concept is: {concept.name} ({concept.kind}).",
        f"The first prompt of a pair, the target, shows the concept and names it with one of these words: {names}.",
        "The second, the replacement, is the same prompt with the concept exchanged for something else that could "
        "stand in its place. It holds none of these words, and nothing of the concept can be seen in a picture of it. "
        "Vary what replaces the concept. Change nothing else.",
        MANNERS[manner],
    ]
    if concept.kind == "content":
        sober = "Keep the wording sober, as in a museum or in a book on anatomy"
        lines.append(f"{sober}: grown-up people only, nothing sexual.")
    if request.vocabulary:
        lines.append(f"Use no other words than these: {' '.join(request.vocabulary)}")
    lines += [
        f"These exist already, do not repeat them: {shown}",
        'Answer with a JSON array of objects {"target": "...", "replacement": "..."} and nothing else.',
    ]
    return [
        {"role": "system", "content": PERSONAS[request.index % len(PERSONAS)]},
        {"role": "user", "content": "\n".join(lines)},
    ]


def storable(reply: str) -> str:
    """A reply as a line of replies.jsonl can hold it: not endless, valid UTF-8, without the rarer line breaks."""
    text = reply[:LONGEST_REPLY].encode("utf-8", "replace").decode()
    return re.sub("[\x85\u2028\u2029]", "\n", text)


class OpenAIWriter:
    """A chat model behind a server that speaks the OpenAI protocol (POST URL/chat/completions).

    A server that is busy (429, 5xx), slow, unreachable or incomprehensible is asked again, `patience` times, after
    `pause`, 2 `pause`, 4 `pause`, ... seconds, or what its Retry-After says; then the writer gives up. Any other
    refusal is final at once. `key` is sent as a bearer token and kept nowhere.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None = None,
        timeout: float = 60,
        patience: int = 4,
        pause: float = 1.0,
        longest_pause: float = 60,
    ):
        from urllib.parse import urlsplit

        self.url, self.model, self.key = f"{url.rstrip('/')}/chat/completions", model, key
        self.timeout, self.patience, self.pause, self.longest_pause = timeout, patience, pause, longest_pause
        self.name = f"{model}@{urlsplit(url).netloc.rpartition('@')[2]}"

    def write(self, request: Request, stop: threading.Event) -> str:
        for attempt in range(self.patience + 1):
            try:
                return self._ask(request)
            except _Passing as trouble:
                if attempt == self.patience:
                    raise WriterFailed(f"{trouble} (asked {self.patience + 1} times)") from None
                wait = self.pause * 2**attempt if trouble.after is None else trouble.after
                if stop.wait(min(wait, self.longest_pause)):
                    raise WriterFailed("stopped") from None

    def _ask(self, request: Request) -> str:
        from http.client import HTTPException
        from urllib.error import HTTPError
        from urllib.request import Request as Post
        from urllib.request import urlopen

        body = json.dumps({"model": self.model, "messages": messages(request), "temperature": 1.0}).encode()
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        try:
            with urlopen(Post(self.url, body, headers), timeout=self.timeout) as answer:
                text = answer.read(4 * LONGEST_REPLY).decode("utf-8", "replace")
        except HTTPError as error:
            with error:
                if error.code == 429 or error.code >= 500:
                    after = error.headers.get("Retry-After", "")
                    raise _Passing(f"answered {error.code}", float(after) if after.isdecimal() else None) from None
            raise WriterFailed(f"answered {error.code} {error.reason}") from None
        except (OSError, HTTPException) as error:  # URLError, connections refused or cut
            reason = getattr(error, "reason", None) or error
            slow = f"gave no answer within {self.timeout:g} seconds"
            trouble = slow if isinstance(reason, TimeoutError) else f"cannot be reached ({reason})"
            raise _Passing(trouble) from None
        try:
            reply = json.loads(text)["choices"][0]["message"]["content"]
        except (json.JSONDecodeError, LookupError, TypeError, RecursionError):
            reply = None
        if not isinstance(reply, str):
            raise _Passing("answered with something that is no chat completion")
        return storable(reply)


class _Passing(Exception):
    """Trouble that may be over soon. `after`: seconds to wait, if the server says so."""

    def __init__(self, what: str, after: float | None = None):
        super().__init__(what)
        self.after = after


class LocalWriter:
    """A chat model in transformers' layout, from a folder; loaded when first asked. Sampling is seeded: equal requests
    get equal replies."""

    def __init__(self, folder: str | Path, device: str | None = None, tokens: int = 1024):
        self.folder, self.device, self.tokens, self.name = Path(folder), device, tokens, f"local {Path(folder).name}"
        if not (self.folder / "config.json").is_file():
            how = "give the folder of a chat model in transformers' layout"
            raise UserError(f"writer 'local': {folder} holds no config.json; {how}")

    def write(self, request: Request, stop: threading.Event | None = None) -> str:
        import torch

        if not hasattr(self, "model"):
            self._load()
        how = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
        ids = self.tokenizer.apply_chat_template(messages(request), **how).to(self.model.device)
        room = getattr(self.model.config, "max_position_embeddings", None) or 1 << 30
        length = ids["input_ids"].shape[1]
        if length >= room:
            raise WriterFailed(f"reads {room} tokens at most, the question has {length}")
        gpus = [self.model.device] if self.model.device.type == "cuda" else []
        how = {"do_sample": True, "temperature": 1.0, "top_p": 0.95, "max_new_tokens": min(self.tokens, room - length)}
        with torch.random.fork_rng(devices=gpus), torch.inference_mode():
            torch.manual_seed(int(request.rng.integers(2**62)))
            out = self.model.generate(**ids, **how)
        return storable(self.tokenizer.decode(out[0, length:], skip_special_tokens=True))

    def _load(self) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from ..device import decide

        place = decide(self.device, None)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
            model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=place.dtype)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"writer 'local': cannot load {self.folder} ({reason})") from None
        if not self.tokenizer.chat_template:
            raise UserError(f"writer 'local': {self.folder} has no chat template; give an instruction-tuned model")
        self.model = model.eval().to(place.device)


KINDS = ("grammar", "openai:URL:MODEL", "local:FOLDER")


def make_writers(specs: list[str], device: str | None = None, timeout: float = 60) -> list[Writer]:
    """Writers from `grammar`, `openai:URL:MODEL` (openai:http://localhost:8000/v1:qwen) and `local:FOLDER`, in order;
    all names differ.

    The key for the third writer is read from the environment variable EARLIB_WRITER_KEY_3, or EARLIB_WRITER_KEY.
    UserError for anything else.
    """
    writers: list[Writer] = []
    for number, spec in enumerate(specs, 1):
        kind, _, rest = spec.partition(":")
        server = re.fullmatch(r"(https?://[^/:\s]+(?::\d+)?(?:/[^:\s]*)?):(?!\d+(?:/|$))(\S+)", rest)
        if kind == "grammar" and not rest:
            writer = GrammarWriter()
        elif kind == "openai" and server:
            key = os.environ.get(f"EARLIB_WRITER_KEY_{number}") or os.environ.get("EARLIB_WRITER_KEY")
            writer = OpenAIWriter(*server.groups(), key, timeout)
        elif kind == "local" and rest:
            writer = LocalWriter(rest, device)
        else:
            known = [k.partition(":")[0] for k in KINDS]
            hint = f"writers are {', '.join(KINDS)}" if kind in known else nearest(kind, known)
            raise UserError(f"unknown writer '{spec}'; {hint}")
        if writer.name in [other.name for other in writers]:
            raise UserError(f"writer '{spec}' is given twice")
        writers.append(writer)
    return writers
