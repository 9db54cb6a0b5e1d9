"""Parsing what models write: layouts seen in real outputs, the filter's reasons, and sentences."""

import json
from pathlib import Path

import pytest

from selfedit.edits.parse import clean, copied, parse_edit, parse_questions, sentences
from selfedit.types import Example, Passage

EDITS = Path(__file__).parents[2] / "shared" / "data" / "squad" / "seal_val_first100.json"
PASSAGE = Passage(
    title="Oslo trams",
    text="Trams came to Oslo in 1875. Dr. Berg opened the line, which horses pulled.",
    source="oslo.txt",
    source_hash="",
)


def texts(style, text, **options):
    return [example.text for example in parse_edit(style, text, PASSAGE, **options)]


def pairs(text):
    return [(question.question, *question.answers) for question in parse_questions(text)]


def test_a_list_gives_an_example_a_line_without_numbers_bullets_and_bold():
    written = """Certainly! Here is a list of implications derived from the passage:

**Direct Implications:**

1. **Early start:** Trams are older than cars.
2) Horses pulled them.
- *Oslo* had a tram in 1875.
  * The line was new.
(4) 1875 was its first year.
### Indirect implications:
---
5. ***Berg was a doctor.***
1875 saw the first tram.
"""
    assert texts("implications", written) == [
        "Early start: Trams are older than cars.",
        "Horses pulled them.",
        "Oslo had a tram in 1875.",
        "The line was new.",
        "1875 was its first year.",
        "Berg was a doctor.",
        "1875 saw the first tram.",
    ]


@pytest.mark.parametrize(
    "chatter",
    ["Sure!", "Here are the implications:", "Here's a rewritten version of the passage.", "Let me know if it helps!"],
)
def test_chatter_is_not_an_example(chatter):
    assert texts("key-points", f"{chatter}\nTrams are old.") == ["Trams are old."]


def test_a_rewrite_gives_an_example_a_paragraph_and_drops_the_title():
    written = "**Passage 1:**\nOslo Trams\nTrams ran in 1875. Horses pulled.\n\nPassage 2: Oslo's trams ran early."
    assert texts("rewrite", written) == ["Trams ran in 1875. Horses pulled.", "Oslo's trams ran early."]


def test_code_stays_whole_with_the_line_that_introduces_it():
    written = "- Call `open` first:\n```python\nfor x in y:\n    open(x)\n```\n- Then **close** it."
    assert texts("implications", written) == ["Call `open` first:\nfor x in y:\n    open(x)", "Then close it."]


def test_stars_of_python_arguments_are_not_emphasis():
    assert texts("implications", "- f(*args, **kwargs) takes 2 * 3 things") == ["f(*args, **kwargs) takes 2 * 3 things"]


def test_no_more_examples_than_asked_for():
    assert texts("implications", "one is\ntwo is\nthree is", max_examples=2) == ["one is", "two is"]


def test_question_styles_give_the_answer_with_its_question_as_prompt():
    expected = (Example(text="In 1875.", prompt="When?"),)
    assert parse_edit("questions", "Q: When?\nA: In 1875.", PASSAGE) == expected
    assert parse_edit("self-qa-long", "Q: When?\nA: In 1875.", PASSAGE) == expected


@pytest.mark.parametrize(
    "written",
    [
        "Q: When? A: In 1875.\nQ: Who? A: Berg.",
        "Question 1: When?\nAnswer: In 1875.\n\nQuestion 2: Who?\nAnswer: Berg.",
        "Sure! Here are two questions:\n\n1. When?\n- In 1875.\n2. Who?\n- Berg.\n\nLet me know if you want more!",
        "**Q1**: When?\n**A1**: In 1875.\n\n**Q2:** Who?\n**A2:** Berg.",
        "1. **When?** In 1875.\n2. **Who?** Berg.",
        "### Question 1\nWhen?\n\n**Answer:**\nIn 1875.\n\n### Question 2\nWho?\n\n**Answer:**\nBerg.",
        "1. **Question:** When?\n   **Answer:** In 1875.\n2. **Question:** Who?\n   **Answer:** Berg.",
    ],
)
def test_the_usual_layouts_of_questions_are_understood(written):
    assert pairs(written) == [("When?", "In 1875."), ("Who?", "Berg.")]


def test_an_answer_may_run_over_lines_and_a_question_need_not_end_in_a_mark():
    assert pairs("Q: Name the year.\nA: It was\n1875.") == [("Name the year.", "It was 1875.")]


def test_questions_without_answers_are_left_out():
    assert pairs("1. When?\n2. Who?") == []
    assert pairs("") == []


def test_each_reason_to_drop_an_example_is_counted():
    good = Example("Berg opened a line for horse trams.")
    examples = [
        good,
        Example(" - "),
        Example("Too short."),
        Example("Berg opened a line, for horse trams!"),
        Example("the tram and " * 10),
        Example("So write a list of implications of the text now."),
        Example("Trams came to Oslo in 1875."),
    ]
    kept, dropped = clean(examples, PASSAGE, ["Please write a list of implications of the text."])
    assert kept == [good]
    assert dropped == {
        "empty": 1,
        "too short": 1,
        "copy of another": 1,
        "loop": 1,
        "echo of the prompt": 1,
        "copy of the passage": 1,
    }


def test_a_loop_without_spaces_is_seen_by_compression():
    spaceless = Example("one two three four five six seven eight nine ten eleven " + "鋼木眞" * 300)
    assert clean([spaceless], PASSAGE)[1] == {"loop": 1}


def test_a_one_word_answer_is_kept_and_the_same_answer_to_two_questions_is_no_copy():
    examples = [Example("1875", prompt="When did it open?"), Example("1875", prompt="When came the horses?")]
    assert clean(examples, PASSAGE) == (examples, {})


def test_words_that_instruction_and_passage_share_are_no_echo():
    example = Example("As said, trams came to Oslo in 1875, pulled by horses.")
    assert clean([example], PASSAGE, [PASSAGE.text])[0] == [example]


def test_sentences_end_at_marks_but_not_after_initials_and_abbreviations():
    text = 'Dr. J. R. Berg paid $2.50. "Really?" she asked. He left\nthe U.S. army!\n\n- One item\n- No. 2 is here'
    assert sentences(text) == [
        "Dr. J. R. Berg paid $2.50.",
        '"Really?" she asked.',
        "He left the U.S. army!",
        "One item",
        "No. 2 is here",
    ]


def test_only_a_mark_at_the_beginning_of_a_line_is_a_bullet():
    text = "- Multiply a * b - c, and 2 - 1.\n* It is easy to use -- not small.\n• Nor • this."
    assert sentences(text) == ["Multiply a * b - c, and 2 - 1.", "It is easy to use -- not small.", "Nor • this."]


@pytest.mark.skipif(not EDITS.is_file(), reason=f"needs the shared data set {EDITS}")
def test_real_edits_lose_their_frame_and_little_else():
    words = kept_words = 0
    for row in json.loads(EDITS.read_text()):
        passage = Passage(row["title"], row["context"], source="", source_hash="")
        for name in ("gpt4.1/implications", "qwen2.5-7b/implications", "gpt4.1/rewrite"):
            for text in row["self_edits"][name]:
                kept, _ = clean(parse_edit(name.split("/")[1], text, passage, max_examples=1000), passage)
                assert not any(example.text.startswith(("Certainly", "Sure", "**", "- ", "1.")) for example in kept)
                words += len(text.split())
                kept_words += sum(len(example.text.split()) for example in kept)
    assert 0.93 < kept_words / words < 0.99


def test_a_copy_is_told_by_its_triples_of_words():
    passage = Passage("Tarn", "The bridge over the Tarn was built in 1931.", "", "")
    assert copied("the bridge over the tarn was built in 1931", passage) == 1.0
    assert (
        copied("In 1931 they built the bridge over the Tarn", passage) == 3 / 7
    )  # the bridge over, bridge over the, over the Tarn
    assert copied("Two words", passage) == 1.0  # nothing to tell it by


def test_sentences_of_a_table_are_its_rows_and_of_a_list_its_items():
    text = (
        "Plans are:\n| Plan | Price | Users |\n|:-----|:--:|---|\n| Pro | $5 | 10 |\n| Team | | 3 \\| 4 |\nAll "
        "end in May.\n\n"
        "## Fees\nThey hold.\n| Fee | Value |\n| --- | --- |\n| Overdraft | $0.00 |\n\n## Steps\n- [x] Sign the "
        "form.\n* Send it\n  by post.\n1. Wait.\n\n"
        "# add one\nx += 1\n\ncat notes |\n| sort |"
    )
    assert sentences(text) == [
        "Plans are:",
        "Pro: Price $5, Users 10",
        "Team: Users 3 | 4",
        "All end in May.",
        "They hold.",
        "Overdraft: $0.00",
        "Sign the form.",
        "Send it by post.",
        "1. Wait.",
        "# add one x += 1",
        "cat notes | | sort |",
    ]


def test_the_rest_of_a_table_that_was_cut_in_two_is_rows_too():
    assert sentences("| Pro | $5 | 10 |\n| Team | $9 |\nMore.") == ["Pro: $5, 10", "Team: $9", "More."]
    assert sentences("| Plan | Price |\n|---|---|\n| Pro | $5 | 10 |") == ["Pro: Price $5, 10"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Was: `a()`; Now: `b()`\nWas: `c`; Now: `d`\nThe rest stays.", 3),
        ("Größe: 4\nΌνομα: Ωμέγα\n`depth`: 3", 3),
        ("Note: a long line that was\nwrapped by an editor goes on.", 1),
        ("The options are: a and b,\nand the default is: a.", 1),
    ],
)
def test_each_of_several_lines_with_a_label_is_a_sentence(text, told):
    assert len(sentences(text)) == told


@pytest.mark.parametrize("text", ["|---|", "| a |\n|---|", "|---|\n|---|\n| |", "||\n|--|\n||"], ids=repr)
def test_tables_that_say_nothing_have_no_sentences(text):
    assert all(sentences(text))
