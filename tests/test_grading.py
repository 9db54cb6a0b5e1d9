"""The graders: verdicts worked by hand, SQuAD's own metrics, and agreement with a strong judge on the shared data."""

import gzip
import json
import random
from hashlib import sha256
from pathlib import Path

import pytest

from selfedit.judge import grading
from selfedit.judge.features import FEATURES, features, words
from selfedit.judge.grading import continues_with, f1, is_correct, normalize
from selfedit.judge.technical import verdict

VERDICTS = Path(__file__).parents[2] / "shared" / "data" / "squad" / "gpt41_verdicts.jsonl.gz"
FITTED = Path(grading.__file__).parent / "grader.json"
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
        ("At 8:10 p.m.", "8:10 p.m", "When did he eat?"),
        ("It is the civil rights movement.", "Civil Rights Movement", "What civil rights movement was it?"),
        ("The WMO", "World Meteorological Organization", "Who founded it?"),
        ("Oslo\n\nQuestion: What is the capital of Sweden?\nStockholm", "Oslo", "What is the capital?"),
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
        (" ".join(["Rome", "Bern", "Kyiv", "Bonn"] * 7 + ["Oslo"]), "Oslo", "What is the capital?"),
        (" ".join(str(n) for n in range(60)), "42", "How many?"),
        ("Apple", "a", "Which letter?"),
        ("-", "+", "Which sign?"),
        ("What is the capital of Norway?", "Norway", "What is the capital of Norway?"),
        ("It is not Super Bowl L.", "Super Bowl L", "What would Super Bowl 50 have been called?"),
        ("It is not New York.", "New York", "Which team did not win?"),
        ("I do not know.", "Oslo", "What is the capital?"),
        ("the south", "the north", "Which part is it?"),
        ("Рим", "Осло", "Какой город?"),
    ],
)
def test_blank_missing_denied_echoed_and_guessing_answers_are_wrong(prediction, gold, question):
    assert not is_correct(prediction, [gold], question)


GOLDS = [
    "Oslo",
    "+",
    "1",
    "yes",
    "no",
    "not",
    "17th century",
    "$3.5 million",
    "C₆H₁₂O₆",
    "30°–60°",
    "«Élan vital»",
    "北京",
    "a",
    "U.S.",
    "Sweden, Denmark, France, Germany, or Japan",
    "to guard against armed groups",
    'CD4+ ("helper") T cells and macrophages',
    "that when people were given misleading information they tended to misremember, a phenomenon known as " * 5,
    ", ".join(f"the {n}th of the kings" for n in range(40, 80)),
]


@pytest.mark.parametrize("gold", GOLDS)
def test_the_gold_answer_is_right_in_any_dress_and_nothing_is_wrong(gold):
    for question in ("", "Which one?", f"Is it {gold} or another?", "What did it not do?"):
        assert is_correct(gold, [gold], question)
        assert is_correct(f"  {gold}\n", ["something else", gold], question)
        for blank in ("", " ", "\n\t", "...", "?!"):
            assert not is_correct(blank, [gold], question)


def test_any_input_gets_an_answer_and_always_the_same():
    rng = random.Random(0)
    letters = "ab1.,'% \n-İß²½٣😀é\u0301\x00北\"("
    for _ in range(300):
        prediction, gold, question = ("".join(rng.choices(letters, k=rng.randrange(40))) for _ in range(3))
        assert is_correct(prediction, [gold], question) is is_correct(prediction, [gold], question)
    assert is_correct("x" * 100_000, ["Oslo"], "!" * 100_000) is False
    assert is_correct("so\n" * 100_000 + "Oslo", ["Oslo"], "Where?") is False
    assert is_correct("9" * 1_000, ["9"], "How many?") is False


def test_a_fact_counts_wherever_it_stands_in_the_answer():
    gold, question = "--fast, and the small model", "Which option and which model?"
    for answer in ("--fast and a small model", "It is --fast and a small model"):
        assert verdict(answer, gold, question) is None  # the other grader decides about the model
    assert verdict("It is a small model", gold, question) is False


def test_the_fitted_numbers_name_the_features_and_move_the_verdict_the_agreed_way_only():
    """A larger feature of sign 1 never lowers the score, and one of sign -1 never raises it."""
    fitted = json.loads(FITTED.read_text())
    assert set(fitted) == {"fitted_titles", "common", "trees"} and len(fitted["trees"]) == 200
    assert all(0 < share <= 1 for share in fitted["common"].values())
    rng, signs = random.Random(0), list(FEATURES.values())
    for _ in range(200):
        values = [rng.random() * rng.choice((1, 4)) for _ in signs]
        for i, sign in enumerate(signs):
            higher = [*values[:i], values[i] + rng.random(), *values[i + 1 :]]
            if sign:
                assert sign * (grading._score(higher) - grading._score(values)) >= -1e-9


def test_features_are_those_worked_out_by_hand():
    common = {"law": 0.5}
    found = dict(
        zip(FEATURES, features("He went to Harvard Law.", "Columbia Law School", "Where does he work?", common))
    )
    # New words of the gold: Columbia, law, school; law is found, the others resemble nothing. Weights .15 + (1, .5, 1).
    assert found["words"] == found["words_anywhere"] == 0.333
    assert found["weight"] == pytest.approx(0.65 / 2.95, abs=1e-3)
    assert found["rarity"] == 0.833
    assert found["names"] == 1.0 and found["echo"] == 0.0  # "he" is a small word
    assert (found["precision"], found["other_names"]) == (0.333, 1)  # went, Harvard, law; Harvard is another name
    assert (found["worst_item"], found["missing_numbers"]) == (1.0, 0)

    found = dict(zip(FEATURES, features("3 million and 1985", "1985 to 1990, 3,000,000", "How many in 1990?", {})))
    assert found["missing_numbers"] == 0  # 1990 is the question's
    assert found["words"] == 0.5  # 1985 is said, 3000000 not in this form
    found = dict(zip(FEATURES, features("Oslo", "Oslo and Bergen", "Which?", {})))
    assert (found["words"], found["worst_item"], found["precision"]) == (0.5, 0.0, 1.0)


def test_words_are_folded():
    assert words("The U.S. didn't pay 1,200 % of Zoë's twenty-one") == (
        "us",
        "did",
        "not",
        "pay",
        "1200",
        "percent",
        "of",
        "zoe",
        "21",
    )


def test_any_of_several_gold_answers_will_do_and_no_gold_answer_never_does():
    assert is_correct("the Danes", ["Norwegians", "Danes"], "Who came?")
    assert not is_correct("the Danes", [], "Who came?")
    assert not is_correct("the Danes", [""], "Who came?")


def test_a_gold_in_the_questions_words_is_right_when_it_is_the_answer():
    assert is_correct("Queen", ["Queen"], "What was the name of Queen's first album?")


def test_squad_normalisation_drops_case_punctuation_and_articles():
    assert normalize(" The  Cat's\n“hat”, a U.S. one! ") == "cats “hat” us one"


def test_f1_is_that_of_squad():
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


def test_it_agrees_with_the_strong_judge_on_titles_it_was_not_fitted_on(verdicts):
    first_bytes = ((row, sha256(row["title"].encode()).digest()[0]) for row in verdicts)
    unseen = [row for row, byte in first_bytes if byte < 102 and byte % 2]  # the report titles of tools/fit_grader.py
    assert len(unseen) == 4_782
    ours = [is_correct(row["prediction"], [row["gold"]], row["question"]) for row in unseen]
    theirs = [row["correct"] for row in unseen]
    agreed = sum(a == b for a, b in zip(ours, theirs)) / len(unseen)
    yes = sum(ours) * sum(theirs) / len(unseen) ** 2
    no = (len(unseen) - sum(ours)) * (len(unseen) - sum(theirs)) / len(unseen) ** 2
    kappa = (agreed - yes - no) / (1 - yes - no)
    print(f"accuracy {agreed:.4f}, kappa {kappa:.4f}, n={len(unseen)}")
    assert agreed > 0.88
    assert kappa > 0.745


@pytest.mark.parametrize(
    ("gold", "right", "wrong", "question"),
    [
        ("罗启明", "工程师罗启明设计了缆车。", "王小明", "灰岸镇的缆车是谁设计的？"),
        ("黒田修一", "技師の黒田修一です", "山本太郎", "灯台を設計したのは誰ですか？"),
        ("रघुवीर लोटा", "अभियंता रघुवीर लोटा ने", "मोहन दास", "रोपवे किसने बनाया?"),
    ],
)
def test_words_are_found_in_scripts_without_spaces_or_with_vowel_signs(gold, right, wrong, question):
    assert is_correct(right, [gold], question) and not is_correct(wrong, [gold], question)


TECHNICAL = Path(__file__).parent / "data" / "technical_verdicts.jsonl"


def test_technical_answers_are_graded_by_the_character():
    """620 invented pairs: identifiers, versions, quantities, code, yes or no, two facts; half of them are wrong."""
    pairs = [json.loads(line) for line in TECHNICAL.read_text(encoding="utf-8").splitlines()]
    agree = [is_correct(p["prediction"], [p["gold"]], p["question"]) == p["correct"] for p in pairs]
    assert len(pairs) == 620 and sum(p["correct"] for p in pairs) == 310
    assert sum(agree) / len(agree) >= 0.97


@pytest.mark.parametrize(
    ("prediction", "gold", "question", "right"),
    [
        ("Call `scan_csv()`.", "scan_csv", "What reads it?", True),
        ("Call scan_csv_batched.", "scan_csv", "What reads it?", False),
        ("It needs redis2.", "redis", "Which driver does it need?", False),
        ("Use --no-cache.", "--no-cache-dir", "Which option is it?", False),
        ("It raises polars.exceptions.ComputeError.", "ComputeError", "What is raised?", True),
        ("It raises a SchemaFieldNotFoundError.", "SchemaFieldMissingError", "What is raised?", False),
        ("The type is List[Tuple[int]].", "List[int]", "Which type is it?", False),
        ('Use `frozendict({"x": 1, "y": 1})`.', "frozendict({'x': 1, 'y': 1})", "What is it?", True),
        ("Use exclude_by().", "exclude()", "What replaces it?", False),
        ("Use pl.exclude().", "exclude()", "What replaces it?", True),
        ("You should use `old_name` instead of `new_name`.", "new_name", "Which function should be used?", False),
        ("Since Python 3.10.", "3.1", "Since which version?", False),
        ("Since 3.1.0.", "3.1", "Since which version?", True),
        ("It was deprecated in 2.4 and removed in 3.0.", "2.4", "In which version was it removed?", False),
        ("After 30 ms.", "30 s", "After how long does it stop?", False),
        ("After 90 seconds.", "1.5 minutes", "After how long does it stop?", True),
        ("1_500_000 iterations", "1,500,000", "How many iterations does it run?", True),
        ("It waits 3 seconds and tries 5 times.", "3", "How many times does it try?", False),
        ("It is not on by default.", "no", "Is it on by default?", True),
        ("It is off.", "no", "Is it on by default?", True),
        ("It is off.", "yes", "Is it on by default?", False),
        ("It is not off.", "yes", "Is it on by default?", True),
        ("Pickled input is not supported any more.", "yes", "Was support for pickled input removed?", True),
        ("The cache is a folder.", "yes", "Does the client verify certificates?", False),
        ("It raises ValueError.", "no, it raises ValueError", "May both be given?", True),
        ("Yes, it raises ValueError.", "no, it raises ValueError", "May both be given?", False),
        ("No.", "no, it raises ValueError", "May both be given?", False),
        ("10 per host and 100 in total.", "10 per host; 100 in total", "How many may be open?", True),
        ("100 per host and 10 in total.", "10 per host; 100 in total", "How many may be open?", False),
        ("DatabaseError", "DatabaseError; order_by()", "What is raised, and what clears it?", False),
    ],
)
def test_near_misses_of_technical_answers_are_wrong(prediction, gold, question, right):
    assert is_correct(prediction, [gold], question) is right


def test_a_wrong_yes_is_wrong_though_another_accepted_answer_has_the_fact_alone():
    gold = ["no, it raises ValueError", "ValueError"]
    assert is_correct("It raises ValueError.", gold, "May both be given?")
    assert not is_correct("Yes, it raises ValueError.", gold, "May both be given?")
