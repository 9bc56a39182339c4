"""Look over the built pages for what a reader would stumble on: links that lead nowhere, pictures without words, tables
that came out as text, equations that were not set, folders of the machine that built them."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .. import ROOT

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
SKIPPED = {"script", "style", "pre", "code", "head", "nav", "footer"}
TEX = re.compile(r"\\(?:frac|sum|mathbb|mathrm|text|hat|tilde|lambda|theta|gamma)\b|(?<![\w$])\$[^$\s][^$]{0,80}\$")


class Page(HTMLParser):
    """One page's article: its anchors, links, pictures and paragraphs.

    Attributes:
        anchors: every id on the page.
        links: addresses of `a` in the article.
        pictures: (source, alternative text) of every `img` in the article.
        uncaptioned: pictures of `figure`s without a caption.
        paragraphs: the text of each paragraph, without code and equations.
    """

    def __init__(self, text: str):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.pictures: list[tuple[str, str]] = []
        self.uncaptioned: list[str] = []
        self.paragraphs: list[str] = []
        self._open: list[str] = []
        self._figure: list[str] | None = None
        self._skip = 0  # depth of what is no prose
        self._article = False
        self._text: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        if "id" in said:
            self.anchors.add(said["id"])
        self._article |= tag == "article"
        if tag == "img" and self._article and not self._skip:
            self.pictures.append((said.get("src", ""), said.get("alt", "")))
            if self._figure is not None:
                self._figure.append(said.get("src", ""))
        if tag == "a" and self._article and not self._skip and "href" in said:
            self.links.append(said["href"])
        if tag in VOID:
            return
        prose = not (tag in SKIPPED or "math" in said.get("class", "").split())
        self._open.append(tag if prose else f"!{tag}")
        self._skip += not prose
        if tag == "figure":
            self._figure = []
        elif tag == "figcaption":
            self._figure = None
        elif tag == "p" and self._article:
            self._text = []

    def handle_endtag(self, tag: str) -> None:
        while self._open:
            name = self._open.pop()
            self._skip -= name.startswith("!")
            if name.removeprefix("!") == tag:
                break
        if tag == "figure" and self._figure:
            self.uncaptioned += self._figure
            self._figure = None
        elif tag == "article":
            self._article = False
        elif tag == "p" and self._text is not None:
            self.paragraphs.append("".join(self._text))
            self._text = None

    def handle_data(self, data: str) -> None:
        if self._text is not None and not self._skip:
            self._text.append(data)


def faults(folder: Path) -> list[str]:
    """What a reader would stumble on in the pages under `folder` (HTML), one line each, with the page's name."""
    texts = {path.resolve(): path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.html"))}
    pages = {path: Page(text) for path, text in texts.items()}
    found = []
    for path, page in pages.items():
        name = path.relative_to(folder.resolve()).as_posix()
        if name.startswith("_"):
            continue
        if here := re.search(rf"{re.escape(str(ROOT))}\b[^\s<]{{0,40}}", texts[path]):
            found.append(f"{name}: names a place of this machine: {here[0]}")
        for source, words in page.pictures:
            if not words.strip() or re.fullmatch(r"\S+\.(png|svg|jpe?g)", words.strip()):
                found.append(f"{name}: the picture {Path(source).name[:40]} has no alternative text")
        found += [f"{name}: the figure {Path(source).name[:40]} has no caption" for source in page.uncaptioned]
        for text in page.paragraphs:
            begin = " ".join(text.split())[:60]
            if text.count("|") > 6 or text.count("|") > 2 and text.lstrip().startswith("|"):
                found.append(f"{name}: a table came out as text: {begin}")
            if TEX.search(text):
                found.append(f"{name}: an equation was not set: {begin}")
        for link in page.links:
            place = urlsplit(link)
            if place.scheme or place.netloc or not (place.path or place.fragment):
                continue
            target = (path.parent / unquote(place.path)).resolve() if place.path else path
            if not target.exists():
                found.append(f"{name}: the link {link} leads nowhere")
            elif target in pages and place.fragment and unquote(place.fragment) not in pages[target].anchors:
                found.append(f"{name}: the link {link} leads to a page without that place")
    return found
