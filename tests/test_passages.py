"""A document is split into passages that are short enough, lose nothing, and know where they are."""

import pytest

from selfedit.documents.convert import convert
from selfedit.documents.passages import split
from selfedit.documents.records import Raw
from selfedit.text import count_words
from selfedit.types import Passage


def sentences(words: int, word: str = "word") -> str:
    """That many words, all different, a full stop after every tenth."""
    return " ".join(f"{word.capitalize()}{i}" + "." * (i % 10 == 9) for i in range(words))


def passages(name: str, text: str, passage_words: int = 100, **limits) -> list[Passage]:
    return split(convert(Raw(f"/{name}", name, text.encode())), passage_words=passage_words, **limits)


def test_a_short_document_stays_one_passage_up_to_a_quarter_over_the_limit():
    whole = passages("a.txt", sentences(125))
    assert [passage.text for passage in whole] == [sentences(125)]
    assert len(passages("a.txt", sentences(126))) == 2


def test_350_words_with_a_limit_of_220_become_two_halves_that_end_with_sentences():
    parts = passages("a.txt", sentences(350), 220)
    assert sorted(count_words(part.text) for part in parts) == [170, 180]
    assert all(part.text.endswith(".") for part in parts)
    assert [part.index for part in parts] == [0, 1]


def test_a_paragraph_that_fits_is_not_cut():
    paragraphs = [sentences(90, "a"), sentences(60, "b"), sentences(70, "c"), sentences(80, "d")]
    parts = passages("a.txt", "\n\n".join(paragraphs), 160)
    assert [part.text for part in parts] == ["\n\n".join(paragraphs[:2]), "\n\n".join(paragraphs[2:])]


TEXTS = {
    "sections.md": "\n\n".join(f"## Part {i}?\n\n{sentences(37 * i, 'p')}" for i in range(12)),
    "code.py": "\n".join(f"def f{i}(x):\n    return x + {i}\n" for i in range(200)),
    "one-sentence.txt": " ".join(f"w{i}" for i in range(1000)),
    "no-spaces.txt": "x" * 30_000,
    "chinese.txt": "漢字。" * 1000,
    "tiny-sentences.txt": "Well. " * 500,
    "tiny-paragraphs.txt": "a\n\n" * 400 + "end",
    "table.csv": "name,age\n" + "\n".join(f"n{i},{i}" for i in range(300)),
    "list.md": "\n".join(f"{i}. {sentences(12, 'i')}" for i in range(1, 90)),
    "fence.md": "Run:\n\n```\n" + "\n".join(f"step_{i} --now" for i in range(300)) + "\n```\n",
}


@pytest.mark.parametrize("passage_words", [20, 50, 100, 220])
@pytest.mark.parametrize("name", TEXTS)
def test_passages_are_the_whole_document_in_order_and_none_is_too_long_or_tiny(name, passage_words):
    document = convert(Raw(f"/{name}", name, TEXTS[name].encode()))
    parts = split(document, passage_words=passage_words)
    headings = [heading for part in parts for heading in part.title.split(" › ")[1:]]
    text = "".join("".join(part.text.split()) for part in parts).replace("```", "")
    for heading in {"".join(heading.split()) for heading in headings}:
        text = text.replace("##" + heading, "")
    whole = "".join(document.text.split()).replace("```", "")
    for heading in {"".join(heading.split()) for heading in headings}:
        whole = whole.replace("##" + heading, "")
    assert text == whole
    sizes = [count_words(part.text.replace("```", "")) for part in parts]
    assert max(sizes) <= passage_words
    assert min(sizes) >= 5 or name == "sections.md"
    assert {unit for block in document.blocks for unit in block.units} == {
        unit for part in parts for unit in part.units
    }


def test_no_passage_is_a_scrap_between_two_paragraphs_as_long_as_the_limit():
    sizes = [
        count_words(part.text)
        for part in passages("a.txt", f"{sentences(100, 'a')}\n\nA scrap.\n\n{sentences(100, 'b')}")
    ]
    assert sum(sizes) == 202
    assert min(sizes) >= 60


def test_a_piece_longer_than_the_limit_does_not_change_how_the_rest_is_divided():
    """The paragraph fits, but not together with the words of its heading."""
    heading = "## One two three four five six seven eight nine ten"
    rest = [sentences(15, f"p{i}x") for i in range(20)]
    parts = passages("a.md", "\n\n".join(["# Osk", heading, sentences(103), *rest]), 110)
    assert [count_words(part.text) for part in parts] == [103, 105, 105, 90]


def test_the_title_is_the_path_of_the_headings_that_the_whole_passage_has():
    text = (
        f"# Polars 2\n\n{sentences(90, 'a')}\n\n## Lazy API\n\n{sentences(90, 'b')}\n\n"
        f"### Streaming engine\n\n{sentences(90, 'c')}\n\n## Eager API\n\n{sentences(40, 'd')}"
        f"\n\n### Rows\n\n{sentences(40, 'e')}"
    )
    parts = passages("a.md", text)
    assert [part.title for part in parts] == [
        "Polars 2",
        "Polars 2 › Lazy API",
        "Polars 2 › Lazy API › Streaming engine",
        "Polars 2 › Eager API",
    ]
    assert parts[1].text == sentences(90, "b")
    assert parts[3].text == f"{sentences(40, 'd')}\n\n### Rows\n\n{sentences(40, 'e')}"


def test_sections_that_share_a_passage_are_named_in_its_text():
    parts = passages(
        "a.md", f"# Osk\n\n## One\n\n{sentences(30)}\n\n## Two\n\n{sentences(40, 'b')}\n\n## Three\n\n{sentences(90)}"
    )
    assert [part.title for part in parts] == ["Osk", "Osk › Three"]
    assert parts[0].text == f"## One\n\n{sentences(30)}\n\n## Two\n\n{sentences(40, 'b')}"


def test_the_end_of_a_section_is_not_mixed_with_the_beginning_of_the_next_where_there_is_room():
    sections = {"One": sentences(140, "a"), "Two": sentences(140, "b"), "Three": sentences(60, "c")}
    parts = passages("a.md", "\n\n".join(["# Osk", *(f"## {name}\n\n{text}" for name, text in sections.items())]))
    assert [part.title for part in parts] == ["Osk › One"] * 2 + ["Osk › Two"] * 2 + ["Osk › Three"]


@pytest.mark.parametrize(("before", "after"), [(89, 190), (70, 95)])
def test_a_heading_is_not_parted_from_its_text(before, after):
    parts = passages("a.md", f"{sentences(before)}\n\n## What is to be done now?\n\n{sentences(after, 'b')}")
    assert sum(f"{part.title}\n\n{part.text}".count("What is to be done now?\n\nB0 ") for part in parts) == 1


def test_a_section_without_text_keeps_its_heading():
    parts = passages("a.md", "# Osk\n\n## Gates\n\nNine.\n\n## Withdrawn in 2031\n\n## Ports\n\nTwo.")
    assert parts[0].text == "## Gates\n\nNine.\n\n## Withdrawn in 2031\n\n## Ports\n\nTwo."


def test_initials_and_forms_of_address_end_no_sentence():
    words = "Dr. Smith and J. Jones met Mrs. Brown in the U.S. Army and then " * 10
    parts = passages("a.txt", words + "left. " + words + "left.", 145)
    assert [part.text[-5:] for part in parts] == ["left.", "left."]


def test_a_code_block_is_cut_between_lines_has_fences_in_each_passage_and_its_comments_are_no_headings():
    lines = [f"# Step {i}. Then call step_{i}(first, second)" for i in range(60)]
    parts = passages("T.md", "Intro to it all.\n\n```python\n" + "\n".join(lines) + "\n```\n\nThe end of it all.")
    assert len(parts) > 2 and {part.title for part in parts} == {"T"}
    assert all(part.text.count("```") == 2 for part in parts)
    assert [line for part in parts for line in part.text.splitlines() if line.startswith("#")] == lines


def test_a_code_block_that_fits_is_not_cut_at_its_blank_lines():
    fence = "```\n" + "\n\n".join(f"first_{i}() second_{i}() third_{i}()" for i in range(20)) + "\n```"
    parts = passages("a.md", f"{sentences(60)}\n\n{fence}\n\n{sentences(60)}")
    assert [fence in part.text for part in parts].count(True) == 1


def test_a_passage_is_within_the_positions_of_the_model_too():
    for name in ("sections.md", "table.csv", "no-spaces.txt", "fence.md"):
        parts = passages(name, TEXTS[name], 300, length=len)
        assert max(len(part.text) for part in parts) <= 310


def test_a_unit_can_be_read_alone():
    text = (
        "# Osk\n\n## Gates\n\nThe town has 9 gates. Two are shut:\n\n- the north gate\n- the mill gate\n\n"
        "| Gate | Keeper |\n|---|---|\n| East | Oda |\n\nOpen one with this command.\n\n```\ngate open 3\n```\n"
    )
    (passage,) = passages("a.md", text)
    assert [(unit.kind, unit.text, unit.headings) for unit in passage.units] == [
        ("sentence", "The town has 9 gates.", ("Gates",)),
        ("sentence", "Two are shut:", ("Gates",)),
        ("item", "Two are shut: the north gate", ("Gates",)),
        ("item", "Two are shut: the mill gate", ("Gates",)),
        ("row", "Gate: East; Keeper: Oda", ("Gates",)),
        ("sentence", "Open one with this command.", ("Gates",)),
        ("code", "Open one with this command.\ngate open 3", ("Gates",)),
    ]


def test_a_header_is_a_fact():
    (passage,) = passages("a.md", "---\ntitle: Osk\ndate: 2031-04-02\n---\nNine gates.\n")
    assert [(unit.kind, unit.text) for unit in passage.units] == [
        ("field", "Osk is dated 2 April 2031."),
        ("sentence", "Nine gates."),
    ]


def test_a_limit_too_small_to_hold_a_sentence_is_refused():
    with pytest.raises(ValueError, match="passage_words is 3: give at least 20"):
        passages("a.txt", "text", 3)
