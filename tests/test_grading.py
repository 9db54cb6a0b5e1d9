"""The graders: verdicts worked by hand, SQuAD's own metrics, and agreement with a strong judge on the shared data."""

import gzip
import json
from hashlib import sha256
from pathlib import Path

import pytest

from selfedit.judge.grading import continues_with, exact_match, f1, is_correct, normalize

VERDICTS = Path(__file__).parents[2] / "shared" / "data" / "squad" / "gpt41_verdicts.jsonl.gz"
FICTIONAL = Path(__file__).parents[2] / "shared" / "data" / "fictional_knowledge" / "public65.json"


@pytest.mark.parametrize(
    ("prediction", "gold", "question"),
    [
        ("The answer is Columbia Law School.", "Columbia Law School", "Where does he work?"),
        ("In 1912, to be exact.", "1912", "When?"),
        ("three", "3", "How many?"),
        ("There were twenty-one of them.", "21", "How many?"),
        ("It came third.", "3rd", "In which place?"),
        ("About 1,200 people", "1200", "How many?"),
        ("50 percent", "50%", "How much?"),
        ("December 14, 1972", "14 December 1972", "When?"),
        ("A hospital.", "hospitals", "Who needs oxygen?"),
        ("the queen's brother", "Queens brother", "Who?"),
        ("Zoë Müller", "Zoe Muller", "Who?"),
        ("Richard II of Normandy", "Duke Richard II", "Who was Emma's brother?"),
        ("It is not Bergen but Oslo.", "Oslo", "What is the capital?"),
        ("No, it never did.", "no", "Did it rain?"),
        ("Fertilization is external in most species.", "external", "Is it internal or external in most species?"),
        ("+", "+", "Which sign?"),
    ],
)
def test_extra_words_other_spellings_and_numbers_in_words_are_right(prediction, gold, question):
    assert is_correct(prediction, [gold], question)


@pytest.mark.parametrize(
    ("prediction", "gold", "question"),
    [
        ("", "Oslo", "What is the capital?"),
        ("  \n ", "Oslo", "What is the capital?"),
        ("?!", "Oslo", "What is the capital?"),
        ("It is a capital.", "Oslo", "What is the capital?"),
        ("The large intestine", "the small intestine", "Where does it go?"),
        ("foreign", "domestic", "Which trade?"),
        ("December 14, 1973", "14 December 1972", "When?"),
        ("It is not Oslo.", "Oslo", "What is the capital?"),
        ("It isn't in Oslo.", "Oslo", "Where is it?"),
        ("The name of Queen's first album is Killers.", "Queen", "What was the name of Queen's first album?"),
        ("Harvard School", "Columbia Law School", "Where does he work?"),
        ("no", "yes", "Did it rain?"),
        ("So " * 80 + "Oslo", "Oslo", "What is the capital?"),
        (", ".join(["Rome", "Bern", "Kyiv", "Bonn"] * 5 + ["Oslo"]), "Oslo", "What is the capital?"),
        ("-", "+", "Which sign?"),
    ],
)
def test_blank_missing_denied_echoed_and_guessing_answers_are_wrong(prediction, gold, question):
    assert not is_correct(prediction, [gold], question)


def test_any_of_several_gold_answers_will_do_and_no_gold_answer_never_does():
    assert is_correct("the Danes", ["Norwegians", "Danes"], "Who came?")
    assert not is_correct("the Danes", [], "Who came?")
    assert not is_correct("the Danes", [""], "Who came?")


def test_a_gold_in_the_questions_words_is_right_when_it_is_the_answer():
    assert is_correct("Queen", ["Queen"], "What was the name of Queen's first album?")


def test_squad_normalisation_drops_case_punctuation_and_articles():
    assert normalize(" The  Cat's\n“hat”, a U.S. one! ") == "cats “hat” us one"


def test_exact_match_and_f1_are_those_of_squad():
    assert exact_match("The Oslo.", ["Bergen", "oslo"])
    assert not exact_match("Oslo city", ["oslo"])
    # "big red dog" and "red dog house": two of three words on either side.
    assert f1("the big red dog", ["red dog house"]) == pytest.approx(2 / 3)
    assert f1("Oslo", ["Bergen", "Oslo"]) == 1.0
    assert f1("", ["Oslo"]) == 0.0
    assert f1("Oslo", []) == 0.0


def test_a_continuation_must_say_the_target_soon_and_in_full():
    assert continues_with(" Rowan Hughes. The two then", ["Rowan Hughes"])
    assert continues_with(" a certain Rowan\nHughes", ["Rowan Hughes"])
    assert not continues_with(" Rowan Smith and Hughes", ["Rowan Hughes"])
    assert not continues_with(" Rowan", ["Rowan Hughes"])
    assert continues_with("so " * 12 + "Oslo", ["Oslo"])
    assert not continues_with("so " * 13 + "Oslo", ["Oslo"])
    assert not continues_with("anything", [""])


@pytest.mark.skipif(not FICTIONAL.is_file(), reason=f"needs the shared data set {FICTIONAL}")
def test_every_fictional_target_continues_its_probe_and_an_empty_text_never_does():
    targets = [probe["target"] for row in json.loads(FICTIONAL.read_text()) for probe in row["probes"]]
    assert len(targets) == 975
    assert all(continues_with(" " + target + ".", [target]) for target in targets)
    assert not any(continues_with("", [target]) for target in targets)


@pytest.fixture(scope="module")
def verdicts():
    if not VERDICTS.is_file():
        pytest.skip(f"needs the shared data set {VERDICTS}")
    with gzip.open(VERDICTS, "rt") as file:
        return [json.loads(line) for line in file]


def test_the_gold_answer_itself_is_always_right(verdicts):
    pairs = {(row["gold"], row["question"]) for row in verdicts}
    assert [pair for pair in pairs if not is_correct(pair[0], [pair[0]], pair[1])] == []


def test_it_agrees_with_the_strong_judge_on_titles_it_was_not_tuned_on(verdicts):
    unseen = [row for row in verdicts if sha256(row["title"].encode()).digest()[0] % 2]
    assert len(unseen) == 12_337
    ours = [is_correct(row["prediction"], [row["gold"]], row["question"]) for row in unseen]
    theirs = [row["correct"] for row in unseen]
    agreed = sum(a == b for a, b in zip(ours, theirs)) / len(unseen)
    yes = sum(ours) * sum(theirs) / len(unseen) ** 2
    no = (len(unseen) - sum(ours)) * (len(unseen) - sum(theirs)) / len(unseen) ** 2
    kappa = (agreed - yes - no) / (1 - yes - no)
    print(f"accuracy {agreed:.4f}, kappa {kappa:.4f}, n={len(unseen)}")
    assert agreed > 0.88
    assert kappa > 0.75
