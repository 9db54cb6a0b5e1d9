"""Documents of every format become text that means what the document means."""

from pathlib import Path

import pytest
import yaml

from selfedit.documents.convert import convert
from selfedit.documents.passages import split
from selfedit.documents.records import Document, Raw
from selfedit.errors import DocumentError

CASES = Path(__file__).parent / "data" / "documents"


def document(name: str, content: str | bytes, **known) -> Document:
    return convert(Raw(f"/{name}", name, content if isinstance(content, bytes) else content.encode(), **known))


def text(name: str, content: str | bytes, **known) -> str:
    """The title and the passages of a document."""
    return "\n\n".join(f"{p.title}\n{p.text}" for p in split(document(name, content, **known), passage_words=220))


def refusal(name: str, content: str | bytes, **known) -> str:
    with pytest.raises(DocumentError) as caught:
        document(name, content, **known)
    message = str(caught.value)
    assert message.startswith(f"/{name}: ") and "\n" not in message and len(message) < 400
    return message


FACTS: dict[str, tuple[list[str], list[str]]] = {
    "superscripts.html": (
        ["3 × 10^14 neutrons", "holds 10^6 pellets", "read 2^10 times", "5 W/m² through", "until 2031 [1]."],
        ["1014", "106", "210", "20311", "m2"],
    ),
    "aside-header.html": (
        [
            "Velmora API 4 was released on 3 May 2031 and needs a licence key from Torvik.",
            "Warning: More than 42 calls a minute lock the account for 9 hours.",
            "A session ends after 30 minutes. On weekends it ends after 55 minutes.",
            "The last call of a session is always seal_flow.",
        ],
        ["Home", "Blog", "©", "minutes.1"],
    ),
    "docutils.rst": (
        [
            "Velmora API\nEach client opens a session with begin_flow.",
            "Warning: More than 42 calls a minute lock the account for 9 hours.",
            "A session ends after 30 minutes. On weekends it ends after 55 minutes.",
            "Who may call: Only members of the Torvik guild may call it.",
        ],
        ["pandoc", "===", "[1]", ".."],
    ),
    "ordered-list.html": (
        ["1. Open the grey valve.\n2. Prime the rotor", "3. Turn the key twice.\n4. Log the pressure."],
        [],
    ),
    "table.html": (
        [
            "Plan: Fern Basic; Storage: 20 GB; Support hours: 4",
            "Plan: Fern Plus; Seats: 12; Support hours: 9",
            "Plan: Oak; Seats: 40; Storage: 900 GB; Support hours: 24",
            "Plan: Oak; Seats: 80; Storage: 2 TB; Support hours: 24",
        ],
        [],
    ),
    "table.md": (
        ["Plan: Fern Basic; Storage: 20 GB; Support hours: 4", "Plan: Fern Plus; Seats: 12; Support hours: 9"],
        ["|", "---"],
    ),
    "plans.csv": (["plan: Fern; Basic; seats: 3; price: 1.200,50", "plan: Oak; seats: 40; price: 99"], ['"']),
    "soft-hyphen.html": (
        ["Hafenmeister", "Brunhild Osterkamp", "lighthouse", "Norderwelle", "password", "Zollhausarchive"],
        ["\u00ad", "\u200b"],
    ),
    "notebook.ipynb": (["counted 412 herons in 2031", "plot(herons)", "August 2034"], ["eUK98", "execution_count"]),
    "notebook-as-markdown.md": (["counted 412 herons in 2031", "plot(herons)", "August 2034"], []),
    "front-matter.md": (
        [
            "The Quillon Bridge is dated 2 April 2031.",
            "The bridge was opened by Oda Brenn.",
            "It replaced a ferry. The ferry was called Marla.",
            "It cost 12 million crowns.",
        ],
        ["999", "layout", "post", "draft", "---", "===", "[^1]"],
    ),
    "readme-with-badges.md": (
        [
            "It needs port 7433",
            "Option: depth; Default: 17",
            "Option: ttl; Default: 45 s",
            "The index holds at most 10^6 entries. On Fridays it holds twice as many.",
        ],
        ["1111", "30", "img", "import", "Tabs", "Build", "PyPI", "sidebar", "http", "<"],
    ),
    "readme-clean.md": (["Option: ttl; Default: 45 s", "10^6 entries. On Fridays it holds twice as many."], ["|", "#"]),
    "roles-and-substitutions.rst": (
        [
            "Marlin Gate listens on port 7733, see the port list and Gate.",
            "Note: The default password is changed after 12 days.",
            "Option: depth; Default: 17",
            "Name: alpha; Value: 11",
        ],
        ["9999", "55", "|prod|", ":ref:", "`", "Table", "=="],
    ),
    "ligature.pdf": (["The office in Draffel keeps the field flag of captain Griffin."], ["ﬁ", "ﬂ", "ﬃ", "ﬀ"]),
    "form.pdf": (["Name of the keeper: Orsolya Pender", "Keys handed over: 17"], []),
    "empty_pw_AES-256.pdf": (["The Zander lock opens at 5 in the morning."], ["FINAL"]),
    "report.rtf": (["The Brisk treaty was signed in 2031 by Müller."], ["\\", "Arial", "{"]),
    "latin1-label-windows-1252-bytes.html": (["“we pay 40 € a day” – Wenzel’s rule."], ["\x93", "\ufffd"]),
}
"""File → what must stand in its passages, and what must not."""


@pytest.mark.parametrize("name", FACTS)
def test_the_facts_of_each_case_stand_in_its_passages_and_nothing_that_its_author_struck_or_hid(name):
    read = text(name, (CASES / name).read_bytes())
    facts, absent = FACTS[name]
    assert [fact for fact in facts if fact not in read] == [], read
    assert [word for word in absent if word in read] == [], read


def test_every_case_has_its_facts():
    assert {path.name for path in CASES.iterdir()} == FACTS.keys()


VARIANTS = yaml.safe_load((CASES.parent / "conversions.yaml").read_text())


@pytest.mark.parametrize("case", VARIANTS)
def test_meaning_is_kept(case):
    variant = VARIANTS[case]
    read = text(variant["file"], variant["content"])
    assert [fact for fact in variant["facts"] if fact not in read] == [], read
    assert [word for word in variant.get("absent", ()) if word in read] == [], read
