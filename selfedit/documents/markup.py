"""An HTML tree → blocks and units.

In: HTML, of a web page or made of another format. Out: its title, the facts in its header, and blocks as a person
reads them: struck and hidden text is gone, lists keep their numbers, a table row has its headings, a footnote follows
its sentence, and superscripts are written with `^`.

The tree comes from `selectolax`, which parses as browsers do, so broken markup means here what it means there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from selectolax.lexbor import LexborHTMLParser
from selectolax.lexbor import LexborNode as Node

from selfedit.documents.normalize import clean_characters
from selfedit.documents.notation import numeral, plain_tex, role_text, squeezed, subscript, superscript
from selfedit.documents.records import Block, Content, fenced
from selfedit.documents.tables import table_rows
from selfedit.text import language, sentence_ends
from selfedit.types import Unit

MAX_DEPTH = 150
"""Of nested elements; what is nested deeper is read as plain text. Browsers stop at 512."""
MAX_NOTE_WORDS = 60
"""A longer footnote stays where it is."""
MAX_CELLS = 200_000
"""Of one table, spans included."""

_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = frozenset(
    "address article aside blockquote body center dd details div dl dt fieldset figcaption figure footer form header "
    "hr html legend li main p section summary tbody td tfoot th thead tr".split()
)
_DROPPED = frozenset(
    "audio button canvas datalist del dialog embed head iframe map meter nav noscript object progress rp s script "
    "select strike style svg template textarea title video".split()
)
_CHROME = frozenset(
    "anchor-link anchorjs-link breadcrumb breadcrumbs copy-button copybtn edit-this-page fn-backref footnote-back "
    "footnote-backref gutter hash-link headerlink lineno linenos mw-editsection mw-jump-link noprint pagination "
    "pagination-nav prev-next-area screen-reader-text skip-link skip-to-content sphinxsidebar sr-only "
    "theme-doc-breadcrumbs theme-edit-this-page visually-hidden".split()
)
"""Classes of what belongs to the page and not to its text, wherever it stands."""
_CHROME_ROLES = frozenset("alertdialog doc-backlink navigation search".split())
_BANNERS = re.compile(
    r"\b(?:cookie|consent|gdpr)[-_]?(?:banner|bar|box|consent|dialog|message|modal|notice|overlay|popup)", re.I
)
_HIDDEN_STYLE = re.compile(r"display:none|visibility:hidden")
_EDIT_LINK = re.compile(r"(?:edit|improve|view|show)\s(?:this|on|page|source)\b.{0,30}", re.I)
_BADGE = re.compile(r"badge|shields\.io|/workflows/|codecov|\.svg\?", re.I)
_ADMONITIONS = frozenset("attention caution danger error hint important note seealso tip todo warning".split())
_VERSION_NOTES = {
    "deprecated": "Deprecated since version",
    "versionadded": "Added in version",
    "versionchanged": "Changed in version",
    "versionremoved": "Removed in version",
}
_VERSION = re.compile(r"(\d[\w.]*):?\s*")
_ALERT = re.compile(r"\[!(\w+)\]\s*")
_NOTE_MARKS = frozenset("footnote footnote-ref footnote-reference noteref".split())
_NO_NOTES = frozenset(("body", "main", "article", *_HEADINGS))
_MARK = re.compile("\ue000(\\d+)\ue001")


def read_markup(html: str) -> Content:
    """Reads the main part of a page. Text that no element hides is kept in case of doubt."""
    tree = LexborHTMLParser(html)
    fields = {
        (node.attributes.get("name") or node.attributes.get("property") or "").lower(): node.attributes.get("content")
        or ""
        for node in tree.css("meta[content]")
    }
    reader = _Reader(tree)
    reader.read(_main_part(tree), 0)
    reader.flush()
    title = tree.css_first("head title")
    return Content(squeezed(clean_characters(title.text())) if title else "", fields, reader.finished())


def _main_part(tree: LexborHTMLParser) -> Node:
    """The one `main` element, or the one `article` that has most of the text; else the body without its frame."""
    body = tree.body or tree.root
    mains = tree.css("main, [role=main]") or [node for node in tree.css("article") if not _has_parent(node, "article")]
    if (
        len(mains) == 1
        and len(mains[0].text_content or "") * 2 > len(body.text_content or "")
        or (len(mains) == 1 and mains[0].tag != "article")
    ):
        return mains[0]
    for node in tree.css("header, footer, aside, [role=banner], [role=contentinfo]"):
        links = sum(len(link.text()) for link in node.css("a"))
        is_text = node.css_first("h1") or node.tag == "aside" and links * 2 < len(node.text())
        if not (is_text or _has_parent(node, "article", "main")):
            node.decompose()
    return body


def _parents(node: Node) -> Iterator[Node]:
    parent = node.parent
    while parent is not None:
        yield parent
        parent = parent.parent


def _has_parent(node: Node, *tags: str) -> bool:
    return any(parent.tag in tags for parent in _parents(node))


class _Draft(NamedTuple):
    """A block whose sentences are not yet separated."""

    kind: str
    parts: list[str]
    headings: tuple[str, ...]
    introduction: str
    """The sentence before a list, table or code block that introduces it."""


class _Reader:
    """Walks the tree once and collects drafts of blocks; inline text gathers in `line` until a block ends it."""

    def __init__(self, tree: LexborHTMLParser) -> None:
        self.tree = tree
        self.drafts: list[_Draft] = []
        self.line: list[str] = []
        self.path: list[tuple[int, str]] = []
        self.notes: list[str] = []
        self.note_numbers: dict[str, int] = {}
        self.note_nodes: dict[str, Node] = {}
        self.note_ids: set[int] = set()
        self._find_notes()

    # Blocks

    def read(self, node: Node, depth: int) -> None:
        """Reads the children of an element."""
        if depth > MAX_DEPTH:
            self.line.append(node.text(separator=" "))
            return
        child = node.child
        while child is not None:
            if child.is_text_node:
                self.line.append(re.sub(r"\s+", " ", clean_characters(child.text_content or "")))
            elif child.is_element_node:
                self._element(child, depth + 1)
            child = child.next

    def _element(self, node: Node, depth: int) -> None:
        tag, classes = node.tag or "", _classes(node)
        if tex := _tex(node, tag, classes):
            self.line.append(tex)
        elif _is_dropped(node, tag, classes) or node.mem_id in self.note_ids:
            return
        elif handler := _HANDLERS.get(tag):
            handler(self, node, depth)
        elif tag in _BLOCKS:
            self._container(node, tag, classes, depth)
        elif "vertical-align:super" in _style(node):
            self._superscript(node, depth)
        elif classes & {"interpreted-text", "title-ref"}:
            self.line.append(role_text(node.attributes.get("role") or "", node.text()))
        elif tag in ("code", "tt") and (text := node.text().strip()):
            self.line.append(text if "`" in text else f"`{text}`")  # as writers of plain text mark names of code
        else:
            self.read(node, depth)

    def _container(self, node: Node, tag: str, classes: frozenset[str], depth: int) -> None:
        self.flush()
        start = len(self.drafts)
        self.read(node, depth)
        self.flush()
        inside = [draft for draft in self.drafts[start:] if draft.parts]
        if not inside or inside[0].kind != "text":
            return
        first = inside[0].parts[0]
        if tag == "blockquote" and (alert := _ALERT.match(first)):
            self._prefix(start, alert[1].capitalize(), first[alert.end() :])
        elif (kind := next(iter(classes & _VERSION_NOTES.keys()), "")) and (version := _VERSION.match(first)):
            self._prefix(start, f"{_VERSION_NOTES[kind]} {version[1]}", first[version.end() :])
        elif tag in ("div", "aside", "section") and (
            kinds := classes & _ADMONITIONS or classes & {"admonition", "topic"}
        ):
            title = node.css_first("[class*=title], [class*=admonition-heading], [class*=admonitionHeading]")
            kind = next(iter(kinds)).capitalize()
            if title is not None and squeezed(title.text()) == first or kinds.isdisjoint(_ADMONITIONS):
                self._prefix(start, first)
            else:
                self._prefix(start, kind, first)

    def _prefix(self, start: int, label: str, text: str = "") -> None:
        """Puts a label before the first paragraph from `start`, which is the label itself if no text is given."""
        first = next(i for i in range(start, len(self.drafts)) if self.drafts[i].parts)
        if text:
            self.drafts[first].parts[0] = f"{label}: {text}"
        elif first + 1 < len(self.drafts) and (following := self.drafts[first + 1]).kind == "text":
            del self.drafts[first]
            following.parts[0] = f"{label.rstrip(':')}: {following.parts[0]}"

    def flush(self) -> None:
        """Ends the paragraph."""
        text = _tidy("".join(self.line))
        self.line.clear()
        if text:
            self._add("text", [text])

    def _add(self, kind: str, parts: list[str]) -> None:
        before = self.drafts[-1] if self.drafts else None
        introduction = ""
        if kind != "text" and before and before.kind == "text" and before.parts and before.headings == self._headings():
            introduction = before.parts[-1]
        self.drafts.append(_Draft(kind, parts, self._headings(), introduction))

    def _headings(self) -> tuple[str, ...]:
        return tuple(text for _, text in self.path)

    def _drafts_of(self, node: Node, depth: int, *, whole: bool = False) -> list[_Draft]:
        """The blocks inside an element, or of the `whole` element, which are removed from the document's."""
        self.flush()
        outer, self.drafts = self.drafts, []
        (self._element if whole else self.read)(node, depth)
        self.flush()
        outer, self.drafts = self.drafts, outer
        return outer

    def _text_of(self, node: Node, depth: int) -> str:
        """The text inside an inline element."""
        outer, self.line = self.line, []
        self.read(node, depth)
        outer, self.line = self.line, outer
        return "".join(outer)

    def heading(self, node: Node, depth: int) -> None:
        self.flush()
        level = _HEADINGS[node.tag or ""]
        for button in node.css("button"):
            button.unwrap()
        drafts = self._drafts_of(node, depth)
        text = " ".join(part for draft in drafts for part in draft.parts)
        notes = "".join(match[0] for match in _MARK.finditer(text))
        if text := squeezed(_MARK.sub("", text)):
            while self.path and self.path[-1][0] >= level:
                self.path.pop()
            self.path.append((level, text))
            self.drafts.append(_Draft("text", [notes] if notes else [], self._headings(), ""))

    def list(self, node: Node, depth: int) -> None:
        self.flush()
        ordered = node.tag == "ol"
        number = _integer(node.attributes.get("start"), 1)
        parts: list[str] = []
        for item in _children(node):
            if item.tag != "li":
                if not parts:
                    self._element(item, depth + 1)
                else:
                    parts += [
                        f"  {line}" for draft in self._drafts_of(item, depth + 1, whole=True) for line in draft.parts
                    ]
                continue
            if _is_dropped(item, "li", _classes(item)) or item.mem_id in self.note_ids:
                number += 1
                continue
            number = _integer(item.attributes.get("value"), number)
            mark = f"{numeral(number, node.attributes.get('type') or '1')}. " if ordered else "- "
            number += 1
            drafts = self._drafts_of(item, depth + 1)
            if any(not draft.parts for draft in drafts):  # a heading: the list only gives the page its shape
                if parts:
                    self._add("list", parts)
                    parts = []
                self.drafts += drafts
                continue
            lines = [fenced(part) if draft.kind == "code" else part for draft in drafts for part in draft.parts]
            for i, line in enumerate(lines):
                indented = line.replace("\n", "\n" + " " * len(mark))
                parts.append((mark if i == 0 else " " * len(mark)) + indented)
        if parts:
            self._add("list", parts)

    def definitions(self, node: Node, depth: int) -> None:
        """A term stands before the first paragraph of its definition."""
        self.flush()
        terms: list[str] = []
        for child in _children(node):
            if child.mem_id in self.note_ids or _is_dropped(child, child.tag or "", _classes(child)):
                continue
            if child.tag == "dt":
                terms.append(
                    squeezed(" ".join(part for draft in self._drafts_of(child, depth) for part in draft.parts))
                )
                continue
            drafts = self._drafts_of(child, depth)
            label = ", ".join(term.removesuffix(":") for term in terms if term)
            if label and drafts and drafts[0].kind == "text" and drafts[0].parts:
                drafts[0].parts[0] = f"{label}: {drafts[0].parts[0]}"
            elif label:
                self._add("text", [label])
            terms = []
            self.drafts += drafts
        if terms:
            self._add("text", [", ".join(terms)])

    def code(self, node: Node, depth: int) -> None:
        self.flush()
        for extra in node.css("button, .linenos, .lineno, .gutter, .line-numbers, .linenodiv"):
            extra.decompose()
        text = clean_characters(node.text()).strip("\n").rstrip()
        if caption := node.attributes.get("data-caption"):
            self._add("text", [caption])
        if text.strip():
            self._add("code", [text])

    def table(self, node: Node, depth: int) -> None:
        self.flush()
        caption = node.css_first("caption")
        if caption is not None and _nearest_table(caption) == node.mem_id:
            self.read(caption, depth)
            self.flush()
        rows = [row for row in node.css("tr") if _nearest_table(row) == node.mem_id]
        cells = [
            (
                row,
                [
                    cell
                    for cell in _children(row)
                    if cell.tag in ("td", "th") and not _is_dropped(cell, "td", _classes(cell))
                ],
            )
            for row in rows
            if not _is_dropped(row, "tr", _classes(row))
        ]
        has_heads = bool(node.css_first("th"))
        widest = max((len(line) for _, line in cells), default=0)
        is_layout = (
            node.attributes.get("role") in ("presentation", "none")
            or not has_heads
            and (widest < 2 or bool(node.css_first("table, h1, h2, h3, pre, ul")))
        )
        if is_layout or "highlighttable" in _classes(node):
            for _, line in cells:
                for cell in line:
                    self._container(cell, "td", frozenset(), depth)
            return
        grid = _grid([(row.parent is not None and row.parent.tag == "thead", line) for row, line in cells])
        texts: dict[int, str] = {}
        for _, line in grid:
            for cell in line:
                if cell is not None and cell.mem_id not in texts:
                    texts[cell.mem_id] = ", ".join(p for d in self._drafts_of(cell, depth) for p in d.parts).replace(
                        "\n", " "
                    )
        if parts := table_rows(
            [(head, [cell and (texts[cell.mem_id], cell.tag == "th") for cell in line]) for head, line in grid]
        ):
            self._add("table", parts)

    # Inline elements

    def _superscript(self, node: Node, depth: int) -> None:
        text = squeezed(self._text_of(node, depth))
        base = re.search(r"\S*$", "".join(self.line[-3:])[-40:])
        if _MARK.search(text):
            self.line.append(text)
        elif text:
            self.line.append(superscript(base[0] if base else "", text, node.css_first("a") is not None))

    def _subscript(self, node: Node, depth: int) -> None:
        if text := squeezed(self._text_of(node, depth)):
            self.line.append(subscript(text))

    def _link(self, node: Node, depth: int) -> None:
        address = node.attributes.get("href") or ""  # None for an attribute without a value
        target = address.removeprefix("#")
        if target in self.note_nodes:
            self.line.append(f"\ue000{self._note(target, depth)}\ue001")
            return
        if address.startswith("#cite_note"):
            return
        text = self._text_of(node, depth)
        if not _EDIT_LINK.fullmatch(text.strip()) and text.strip() not in ("¶", "#", "§", "🔗", "↩", "↩︎", "^"):
            self.line.append(text)

    def _image(self, node: Node, depth: int) -> None:
        alt = squeezed(clean_characters(node.attributes.get("alt") or ""))
        is_badge = _has_parent(node, "a") or _BADGE.search(node.attributes.get("src") or "")
        if len(alt.split()) > 3 and not is_badge:
            self.line.append(f" (image: {alt.rstrip('.')}) ")

    def _break(self, node: Node, depth: int) -> None:
        self.line.append("\n")

    def _quote(self, node: Node, depth: int) -> None:
        self.line.append(f"“{self._text_of(node, depth)}”")

    def _ruby(self, node: Node, depth: int) -> None:
        self.line.append(f"({self._text_of(node, depth).strip()})")

    def _checkbox(self, node: Node, depth: int) -> None:
        if node.attributes.get("type") == "checkbox":
            self.line.append("[x] " if "checked" in node.attributes else "[ ] ")

    def _nothing(self, node: Node, depth: int) -> None:
        pass

    # Footnotes

    def _find_notes(self) -> None:
        """Fills `note_nodes` with the footnotes to which a mark in the text links."""
        links = [link for link in self.tree.css("a[href^='#']") if _is_note_mark(link)]
        targets = {
            node.attributes.get("id") or node.attributes.get("name"): node for node in self.tree.css("[id], a[name]")
        }
        for link in links:
            id = (link.attributes.get("href") or "")[1:]
            node = targets.get(id)
            while node is not None and node.tag in ("a", "span", "sup"):
                node = node.parent
            label = node if node is not None and node.tag == "dt" else None  # docutils: the text follows its label
            while node is not None and (node is label or not node.is_element_node):
                node = node.next
            is_back_link = any(parent.mem_id in self.note_ids for parent in _parents(link))
            if node is None or is_back_link or node.tag in _NO_NOTES or _contains(node, link):
                continue
            if len(node.text().split()) <= MAX_NOTE_WORDS:
                self.note_nodes[id] = node
                self.note_ids |= {node.mem_id, label.mem_id} if label is not None else {node.mem_id}

    def _note(self, id: str, depth: int) -> int:
        """The number under which the text of a footnote is kept; reads it on first use."""
        if id not in self.note_numbers:
            self.note_numbers[id] = len(self.notes) + 1
            self.notes.append("")
            line, self.line = self.line, []
            texts = [part for draft in self._drafts_of(self.note_nodes[id], depth) for part in draft.parts]
            self.line = line
            text = _MARK.sub("", " ".join(texts))
            self.notes[self.note_numbers[id] - 1] = re.sub(r"^(?:\[\w+\]|\d{1,3}[.:)]?|[*†‡])\s+(?=\S)", "", text)
        return self.note_numbers[id]

    # The result

    def finished(self) -> list[Block]:
        """The blocks with their sentences, each footnote behind the sentence or item that has its mark."""
        sample = "\n".join(part for draft in self.drafts if draft.kind != "code" for part in draft.parts)
        code = language(sample)
        return [block for draft in self.drafts if (block := self._finished(draft, code))]

    def _finished(self, draft: _Draft, language_code: str) -> Block | None:
        headings, introduction = draft.headings, _MARK.sub("", draft.introduction)
        if draft.kind == "code":
            last = _last_sentence(introduction, language_code)
            text = draft.parts[0]
            return Block((text,), (Unit("code", f"{last}\n{text}".strip(), headings),), headings, is_fenced=True)
        if draft.kind == "text":
            parts = [part for text in draft.parts for part in self._sentences(text, language_code)]
            units = [Unit("sentence", part.strip(), headings) for part in parts]
            return Block(tuple(parts), tuple(units), headings)
        lead = _last_sentence(introduction, language_code) if introduction.rstrip().endswith((":", "：")) else ""
        parts = [self._with_notes(part, "{} ({})") + "\n" for part in draft.parts]
        kind = "row" if draft.kind == "table" else "item"
        units = [Unit(kind, " ".join(filter(None, (lead, _unmarked(part)))), headings) for part in parts]
        return Block(tuple(parts), tuple(units), headings)

    def _sentences(self, text: str, language_code: str) -> Iterator[str]:
        clean = _MARK.sub("", text)
        marks = [(match.start(), match[0]) for match in _MARK.finditer(text)]
        offsets, removed = [], 0
        for start, mark in marks:
            offsets.append(start - removed)
            removed += len(mark)
        start = 0
        for end in sentence_ends(clean, language_code):
            sentence = clean[start:end]
            ends_with = sentence[len(sentence.rstrip()) :]
            notes = [mark for offset, (_, mark) in zip(offsets, marks) if start < offset <= end or offset == start == 0]
            if notes and ends_with == "" and end < len(clean):
                ends_with = " "
            yield self._with_notes(sentence.rstrip() + "".join(notes), "{} {}") + ends_with
            start = end
        if not clean:
            yield self._with_notes(text, "{} {}")

    def _with_notes(self, text: str, form: str) -> str:
        numbers = dict.fromkeys(int(match[1]) for match in _MARK.finditer(text))
        text = _MARK.sub("", text)
        for number in numbers:
            if note := self.notes[number - 1]:
                text = form.format(text, note.rstrip(".") if "(" in form else note).strip()
        return text


_HANDLERS: dict[str, Callable[[_Reader, Node, int], None]] = {
    **dict.fromkeys(_HEADINGS, _Reader.heading),
    **dict.fromkeys(("ul", "ol", "menu"), _Reader.list),
    "dl": _Reader.definitions,
    "pre": _Reader.code,
    "table": _Reader.table,
    "sup": _Reader._superscript,
    "sub": _Reader._subscript,
    "a": _Reader._link,
    "img": _Reader._image,
    "br": _Reader._break,
    "q": _Reader._quote,
    "rt": _Reader._ruby,
    "input": _Reader._checkbox,
}
"""Element → how it is read. Any other element is a block or inline text."""


def _grid(rows: list[tuple[bool, list[Node]]]) -> list[tuple[bool, list[Node | None]]]:
    """Repeats each cell over the rows and columns that it spans."""
    grid: list[tuple[bool, list[Node | None]]] = []
    open: dict[int, tuple[Node, int]] = {}  # column → the cell from above and for how many more rows
    cells = 0
    for is_head, line in rows:
        row: list[Node | None] = []
        waiting = list(line)
        while waiting or len(row) in open:
            column = len(row)
            if column in open:
                cell, left = open.pop(column)
                row.append(cell)
                if left > 1:
                    open[column] = (cell, left - 1)
                continue
            cell = waiting.pop(0)
            height = _integer(cell.attributes.get("rowspan"), 1) or len(rows)
            for _ in range(max(1, min(_integer(cell.attributes.get("colspan"), 1), 1000))):
                if height > 1:
                    open[len(row)] = (cell, min(height, len(rows)) - 1)
                row.append(cell)
        cells += len(row)
        if cells > MAX_CELLS:
            break
        grid.append((is_head, row))
    return grid


def _is_dropped(node: Node, tag: str, classes: frozenset[str]) -> bool:
    if tag in _DROPPED and not (tag == "dialog" and "open" in node.attributes):
        return True
    attributes, style = node.attributes, _style(node)
    role = attributes.get("role") or ""
    return bool(
        "hidden" in attributes
        and attributes["hidden"] != "until-found"
        and role != "tabpanel"
        or attributes.get("aria-hidden") == "true"
        or _HIDDEN_STYLE.search(style)
        or "line-through" in style
        or classes & _CHROME
        or role in _CHROME_ROLES
        or tag != "body"
        and _BANNERS.search(f"{attributes.get('class') or ''} {attributes.get('id') or ''}")
    )


def _tex(node: Node, tag: str, classes: frozenset[str]) -> str:
    """The formula of an element that shows one, as text; else nothing."""
    if (
        tag == "math"
        or classes & {"mwe-math-element", "katex", "katex-display", "MathJax", "math"}
        and tag in ("span", "div")
    ):
        source = node.css_first("annotation[encoding='application/x-tex']")
        if source is not None or "math" in classes:
            return plain_tex((source or node).text())
        if tag == "math":
            return squeezed(_mathml(node))
    return ""


def _mathml(node: Node) -> str:
    if node.is_text_node:
        return (node.text_content or "").strip()
    parts = [_mathml(child) for child in _children(node, text=True)]
    if node.tag == "msup" and len(parts) == 2:
        return parts[0] + superscript("", parts[1]).replace(" [", "^").rstrip("]")
    if node.tag == "msub" and len(parts) == 2:
        return parts[0] + subscript(parts[1])
    if node.tag == "mfrac" and len(parts) == 2:
        return "/".join(part if part.isalnum() else f"({part})" for part in parts)
    if node.tag == "mo":
        return f" {''.join(parts)} " if "".join(parts) in "=+−-×·≤≥<>" else "".join(parts)
    return "".join(parts)


def _children(node: Node, text: bool = False) -> Iterator[Node]:
    child = node.child
    while child is not None:
        following = child.next
        if child.is_element_node or text and child.is_text_node:
            yield child
        child = following


def _contains(node: Node, other: Node) -> bool:
    return any(parent.mem_id == node.mem_id for parent in _parents(other))


def _nearest_table(node: Node) -> int:
    return next((parent.mem_id for parent in _parents(node) if parent.tag == "table"), 0)


def _is_note_mark(link: Node) -> bool:
    """Whether a link is the mark of a footnote: it says so, or it is raised. The references of Wikipedia are not."""
    attributes, classes = link.attributes, _classes(link)
    if classes & _CHROME or (attributes.get("href") or "").startswith("#cite_note"):
        return False
    role = f"{attributes.get('role') or ''} {attributes.get('epub:type') or ''}"
    is_raised = link.css_first("sup") is not None or _has_parent(link, "sup")
    return bool(classes & _NOTE_MARKS or "noteref" in role or is_raised)


def _classes(node: Node) -> frozenset[str]:
    return frozenset((node.attributes.get("class") or "").split())


def _style(node: Node) -> str:
    return re.sub(r"\s", "", node.attributes.get("style") or "").lower()


def _integer(value: str | None, default: int) -> int:
    match = re.match(r"\s*(-?\d{1,6})", value or "")
    return int(match[1]) if match else default


def _tidy(text: str) -> str:
    """Without the spaces that the markup leaves around breaks, before punctuation marks of notes, and at the ends."""
    text = re.sub(r"[ \t\xa0]+", " ", text)
    text = re.sub(r" *\n *", "\n", text)
    text = re.sub(r"\s+(?=\ue000)", "", text)
    return re.sub(r"\n{2,}", "\n", text).strip()


def _unmarked(part: str) -> str:
    """A list item without its bullet; numbers stay, since they state an order."""
    return re.sub(r"^\s*- ", "", part).strip()


def _last_sentence(text: str, language_code: str) -> str:
    start = last = 0
    for end in sentence_ends(text, language_code):
        start, last = last, end
    return text[start:].strip()
