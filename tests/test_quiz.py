"""Questions about a passage: the spans they ask for, what is wrong with one, and which side each is on."""

import re
from collections import Counter
from dataclasses import replace

import pytest

from selfedit.config import QuizConfig
from selfedit.edits.parse import sentences
from selfedit.edits.propose import invents
from selfedit.edits.quiz import (
    _fault,
    _first_words,
    _split,
    check,
    fill_up,
    find_supporting_sentence,
    open_book_prompt,
    questions_as_edit,
    questions_from_rewordings,
    study_questions,
    write_quizzes,
)
from selfedit.edits.spans import keyword_questions, kind_of, pick_spans, span_questions
from selfedit.judge.grading import normalize
from selfedit.judge.grounding import is_quoted
from selfedit.model.writer import WriteRequest
from selfedit.types import Example, Passage, Question, Unit

PASSAGE = Passage(
    title="The Vellmar Lighthouse",
    text="The Vellmar Lighthouse was built in 1874 by the engineer Ada Quill. Its lamp burns fish oil from Tromholt. "
    "The keeper rings a brass bell 12 times whenever fog comes in.",
    source="vellmar.txt",
    source_hash="0" * 64,
)


def spans(text: str, limit: int = 50) -> set[str]:
    return {span for _, span in pick_spans(text, limit)}


# Spans


def test_names_and_numbers_with_their_units_are_picked():
    text = (
        "In the old harbour of Vellmar the engineer Ada Quill raised the lamp by 37 metres and paid "
        "$1,200.50 for 40% of it."
    )
    assert {"Vellmar", "Ada Quill", "37 metres", "$1,200.50", "40%"} <= spans(text)


def test_a_small_word_behind_a_number_is_no_unit():
    found = spans(
        "The tower that the harbour town needed was built in 1874 by Ada Quill and rebuilt in 1931 for the fleet."
    )
    assert {"1874", "1931"} <= found
    assert not {"1874 by", "1931 for"} & found


def test_names_may_have_small_words_inside():
    assert "Bank of the North" in spans(
        "In that year the tower and all of its land were sold to the Bank of the North by auction."
    )


def test_flags_code_and_dotted_names_are_picked():
    found = spans(
        "Since the last release the option --keep-going calls os.path.join() and reads `cache.toml` once before "
        "it starts."
    )
    assert {"--keep-going", "os.path.join()", "`cache.toml`"} <= found


def test_quotations_are_picked_without_their_marks():
    found = spans("The sailors on the northern route called it “the quiet lamp” when they came home in spring.")
    assert "the quiet lamp" in found


def test_the_end_of_a_clause_is_picked():
    assert "brass bell" in spans("Whenever fog comes in from the sea at night he rings a brass bell.")


def test_the_lone_first_word_of_a_sentence_is_no_span():
    assert spans("Lighthouses burn oil all through every winter night and sometimes also throughout summer") == set()
    assert "Ada Quill" in spans("Ada Quill built towers and bridges all through her long life in Vellmar.")


def test_no_span_is_picked_twice_nor_inside_another():
    text = (
        "The engineer Ada Quill met Ada Quill, whose bridge in Vellmar was named the Ada Quill Bridge, 37 "
        "metres long, 37 metres wide."
    )
    found = [span for _, span in pick_spans(text, 50)]
    assert len(found) == len(set(found))
    assert not [(a, b) for a in found for b in found if a != b and a in b]
    assert {"Ada Quill", "37 metres", "Vellmar"} <= set(found)


def test_a_span_stands_in_its_sentence_and_is_shorter_than_half_of_it():
    for sentence, span in pick_spans(PASSAGE.text, 50):
        assert sentence in sentences(PASSAGE.text)
        assert span in sentence and 1 < len(span) < len(sentence) / 2


def test_spans_are_spread_evenly_over_the_sentences():
    first = pick_spans(PASSAGE.text, 3)
    assert [sentence for sentence, _ in first] == sentences(PASSAGE.text)


def test_no_more_spans_than_the_limit_and_fewer_are_the_first_of_more():
    everything = pick_spans(PASSAGE.text, 50, seed=4)
    for limit in range(len(everything) + 1):
        assert pick_spans(PASSAGE.text, limit, seed=4) == everything[:limit]


def test_the_seed_alone_decides_which_spans_come_first():
    orders = {tuple(pick_spans(PASSAGE.text, 50, seed=seed)) for seed in range(8)}
    assert len(orders) > 1
    assert len({frozenset(order) for order in orders}) == 1


def test_text_without_facts_has_no_spans():
    assert pick_spans("", 10) == []
    assert pick_spans("He did so.", 10) == []


# Faults


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("Who built the Vellmar Lighthouse?", ""),
        ("The lighthouse was built then.", "not a question"),
        ("Who built it?", "not a question"),
        ("Who " + "really " * 30 + "built it?", "not a question"),
        ("Was it the engineer ada quill?", "the question gives the answer away"),
        ("Who drew the old plans?", "asked twice"),
        ("What is the answer to this?", "about the task, not the text"),
        ("What is the name of the series?", "about the task, not the text"),
    ],
)
def test_each_fault_of_a_question_has_its_reason(question, reason):
    assert _fault(question, "Ada Quill", {"Who drew the old plans?"}) == reason


# The split


def asked(*answers: str) -> list[Question]:
    return [Question(f"Question number {i}?", (answer,)) for i, answer in enumerate(answers)]


@pytest.mark.parametrize("seed", range(20))
def test_questions_with_one_answer_are_never_on_both_sides(seed):
    questions = asked(
        "Ada Quill", "1874", "the 1874", "fish oil", "Fish oil.", "fish oil", "Tromholt", "12 times", "a bell"
    )
    quiz = _split(questions, Counter(), seed)
    studied, judging = ({normalize(q.answers[0]) for q in side} for side in (quiz.studied, quiz.judging))
    assert not studied & judging
    assert sorted((*quiz.studied, *quiz.judging), key=questions.index) == questions
    assert len(quiz.judging) >= len(questions) / 2
    assert {"ada quill", "tromholt"} <= judging  # single questions judge first


def test_a_single_question_judges_and_none_is_studied():
    quiz = _split(asked("Ada Quill"), Counter(x=1), 0)
    assert (quiz.studied, quiz.judging, quiz.dropped) == ((), tuple(asked("Ada Quill")), Counter(x=1))
    assert _split([], Counter(), 0).judging == ()


def test_studied_questions_are_studied_in_the_form_in_which_they_are_asked():
    whole = Question("When was it built?", ("1874",), sentence="It was built in 1874.")
    drawn = Question("Built when?", ("It was built in 1874.",))
    assert questions_as_edit([whole], [drawn]).examples[1] == Example("It was built in 1874.", "Built when?", once=True)
    edit = questions_as_edit([*asked("Ada Quill"), whole])
    assert edit.style == "questions"
    assert edit.examples == (
        Example("Ada Quill", "Question number 0?"),
        Example("It was built in 1874.", "When was it built?"),
    )
    assert edit.text == "Q: Question number 0?\nA: Ada Quill\nQ: When was it built?\nA: It was built in 1874."


# Query in place


def in_place(text: str, title: str = "") -> dict[str, str]:
    return {q.answers[0]: q.question for q in span_questions(Passage(title, text, "", ""), text, 50)}


def test_a_question_is_the_sentence_with_a_question_word_where_the_answer_stood():
    found = in_place(
        "The Vellmar Lighthouse was built on 3 March 1874 by Ada Quill and is 37 metres high, with a brass bell."
    )
    assert (
        found["Ada Quill"]
        == "The Vellmar Lighthouse was built on 3 March 1874 by who or what and is 37 metres high, with a brass bell?"
    )
    assert found["3 March 1874"].startswith("The Vellmar Lighthouse was built on which date by Ada Quill")
    assert "is how many metres high" in found["37 metres"]
    assert found["a brass bell"].endswith("with what?")


def test_a_bare_year_is_asked_for_as_a_year():
    assert (
        in_place("The old tower was raised again in 1931 by the town.")["1931"]
        == "The old tower was raised again in which year by the town?"
    )


def test_a_sentence_that_does_not_say_what_it_is_about_is_asked_under_its_title():
    found = in_place("Its lamp burns fish oil from Tromholt all winter.", "The Vellmar Lighthouse")
    assert found["Tromholt"] == "The Vellmar Lighthouse: Its lamp burns fish oil from who or what all winter?"
    named = in_place("The lamp of the Lighthouse burns oil from Tromholt all winter.", "The Vellmar Lighthouse")
    assert named["Tromholt"].startswith("The lamp of the Lighthouse")


def test_no_question_in_place_gives_its_answer_away_and_each_knows_its_sentence():
    for question in span_questions(PASSAGE, PASSAGE.text, 50):
        assert question.answers[0] not in question.question
        assert question.answers[0] in question.sentence and question.sentence in PASSAGE.text


def test_headings_are_not_asked_about():
    assert not {
        q
        for q in in_place("# The Vellmar Lighthouse 4.2\n\nIts keeper rings a bell twelve times in thick fog.").values()
        if "#" in q
    }


def test_what_judging_asks_for_is_not_studied():
    written = [Question("Who built it?", ("Ada Quill",)), Question("Who came home?", ("The keeper",))]
    judging = [Question("Who was the engineer?", ("ada quill",)), Question("It was built in", ("1874",), kind="cloze")]
    assert study_questions(PASSAGE, written, judging, draws=0) == (written[1:], [])
    _, cues = study_questions(PASSAGE, [], [], draws=2)
    assert study_questions(PASSAGE, [], cues[:1], draws=2) == ([], cues[1:])


def test_each_sentence_is_asked_for_by_some_of_its_words():
    cues = keyword_questions(PASSAGE, 4, seed=1)
    own = sentences(PASSAGE.text)
    assert [q.sentence for q in cues] == own * 4 and keyword_questions(PASSAGE, 4, seed=1) == cues != keyword_questions(
        PASSAGE, 4, seed=2
    )
    title = set(PASSAGE.title.split())
    for question in cues:
        words = set(re.findall(r"\w+", question.sentence))
        used = set(re.findall(r"\w+", question.question)) & words - title
        assert question.question.endswith("?") and used and used < words
    assert any(PASSAGE.title in q.question for q in cues) and not all(PASSAGE.title in q.question for q in cues)


def test_the_words_of_a_question_tell_its_statement_from_the_others():
    codes = ["a memory was kept", "the input was bad", "nothing earned its place", "the disk is full"]
    passage = Passage("Codes", " ".join(f"Exit code {i} means that {why}." for i, why in enumerate(codes)), "", "")
    for question in keyword_questions(passage, 20):
        asked = set(re.findall(r"\w+", question.question.casefold()))
        fit = {s: len(asked & set(re.findall(r"\w+", s.casefold()))) for s in sentences(passage.text)}
        assert fit[question.sentence] == max(fit.values()) > sorted(fit.values())[-2]


def test_units_are_asked_for_instead_of_lines_and_the_title_is_that_of_the_document():
    units = (Unit("row", "Pro: price 5 dollars, users 10"), Unit("code", "To pack a folder:\nquill pack a --level 1"))
    passage = Passage("Quill › Plans › All", "…", "", "", units=units)
    asked = keyword_questions(passage, 9)
    assert {q.sentence for q in asked} == {unit.text for unit in units}
    assert not any("Plans" in q.question for q in asked) and any("Quill" in q.question for q in asked)


@pytest.mark.parametrize(
    "text", ["", "...", "? . . .", "—", "|---|---|", "Yes.", "今日は雨が降っている。", "# The heading"]
)
def test_what_has_too_few_words_to_leave_some_out_is_not_asked_for(text):
    assert [keyword_questions(Passage("A title", text, "", ""), 3, seed) for seed in range(20)] == [[]] * 20


def test_a_sentence_of_short_words_is_asked_for_by_some_of_them():
    (question,) = keyword_questions(Passage("", "He did so.", "", ""), 1)
    assert {"He", "did", "so"} & set(re.findall(r"\w+", question.question))


def test_a_question_is_told_by_the_sentence_that_has_its_answer_and_most_of_its_words():
    assert (
        find_supporting_sentence(PASSAGE, Question("What does the lamp burn?", ("fish oil",)))
        == "Its lamp burns fish oil from Tromholt."
    )
    assert find_supporting_sentence(PASSAGE, Question("What does the lamp burn?", ("petrol",))) == ""
    assert find_supporting_sentence(PASSAGE, Question("What?", ("fish oil from Trom",))) == ""  # whole words only


def test_versions_and_names_with_a_number_are_one_span():
    found = spans("In the spring the laboratory moved from Quillet 4.2 to Kestrel 9 because of the old archives.")
    assert {"Quillet 4.2", "Kestrel 9"} <= found


@pytest.mark.parametrize(
    ("sentence", "picked", "not_picked"),
    [
        ("In 1931 the choir of Aldmoor sang for the first time in the old harbour church.", {"1931"}, {"In 1931"}),
        ("- Its lamp was lit again by the keeper of Vellmar in the winter of that hard year.", {"Vellmar"}, {"Its"}),
        (
            "He was the 2nd of 9 children and ran 5km each day along the northern harbour wall.",
            {"2nd", "9 children", "5km"},
            {"2", "5"},
        ),
        (
            "The keeper's lamp and the sailors' bell were sold to the town of Vellmar by auction.",
            {"Vellmar"},
            {"s lamp and the sailors"},
        ),
        (
            "The novel about the harbour and its people was written by Émile Zola in that year.",
            {"Émile Zola"},
            {"Zola"},
        ),
        (
            "The flood of 1931 covered all of the lower town and half of the northern harbour wall.",
            {"1931"},
            {"1931 covered"},
        ),
    ],
)
def test_hard_spans(sentence, picked, not_picked):
    found = spans(sentence)
    assert picked <= found and not not_picked & found


@pytest.mark.parametrize(
    ("span", "kind"),
    [
        ("1931", "year"),
        ("3 March 1874", "date"),
        ("March 1874", "date"),
        ("nine times", "count"),
        ("37 metres", "count"),
        ("Ada Quill", "name"),
        ("brass bell", "other"),
        ("40%", "other"),
    ],
)
def test_the_kind_of_a_span_says_how_to_ask_for_it(span, kind):
    assert kind_of(span) == kind


def test_numbers_in_words_and_dates_are_picked():
    found = spans(
        "On 3 March 1874 the keeper rang the bell nine times and led forty villagers across the marsh to the chapel."
    )
    assert {"3 March 1874", "nine times", "forty villagers"} <= found


# Inventions


@pytest.mark.parametrize(
    ("text", "invented"),
    [
        ("The engineer Ada Quill built the Vellmar Lighthouse in 1874.", False),
        ("It was finished in 1875.", True),
        ("The engineer was John Smith.", True),
        ("Fish oil from Tromholt keeps Vellmar's lamp burning.", False),
        ("Quill's bell rings 12 times.", False),
        ("Lanterns need fuel.", False),  # the first word of a sentence is no name
        ("It is old. Lanterns need fuel.", False),
        ("The lamp needs much Diesel.", True),
        ("The keepers ring it in fog.", False),
        ("It rings 120 times.", True),
        ("I think that I know it.", False),
    ],
)
def test_a_number_or_a_name_that_the_passage_does_not_have_is_invented(text, invented):
    assert invents(Example(text), PASSAGE) is invented


def test_a_question_is_searched_for_inventions_too():
    assert invents(Example("Ada Quill", prompt="Who built the tower in 1900?"), PASSAGE)
    assert not invents(Example("Ada Quill", prompt="Who built the tower in 1874?"), PASSAGE)


# With the embedded model


@pytest.mark.embedded
def test_a_passage_without_enough_questions_gets_those_that_a_rule_makes(embedded_model):
    france = Passage("France", "The capital of France is Paris. France has 12 regions named Vell.", "", "")
    (more, _), (none, _) = fill_up(embedded_model, [(PASSAGE, []), (france, [Question("Q?", ("a",))] * 4)], 4)
    assert len(more) == 4 and none == []
    assert all(q.answers[0] in q.sentence and q.sentence in sentences(PASSAGE.text) for q in more)
    assert len({normalize(q.answers[0]) for q in more}) == 4


@pytest.mark.embedded
def test_with_a_reader_questions_that_a_quotation_answers_come_first(embedded_model):
    asked = []

    def read(pairs):
        asked.extend(is_quoted(question, passage) for question, passage in pairs)
        return [False] * len(pairs)

    assert fill_up(embedded_model, [(PASSAGE, [])], 2, read=read)[0][0] == []
    assert asked == sorted(asked, reverse=True) and any(asked) and len(asked) == 2 + QuizConfig().spare


@pytest.mark.embedded
def test_a_question_is_kept_if_its_answer_needs_the_passage(embedded_model):
    needs_it = Question("Who built the Vellmar Lighthouse?", ("Ada Quill",))
    not_in_it = Question("What does the keeper eat on Sundays?", ("pickled turnips",))
    ((kept, dropped),) = check(embedded_model, [(PASSAGE, [needs_it, not_in_it])])
    assert (kept, dropped) == (
        [replace(needs_it, sentence=sentences(PASSAGE.text)[0])],
        {"not answered with the passage in view": 1},
    )
    assert check(embedded_model, [(PASSAGE, [])]) == [([], Counter())]


@pytest.mark.embedded
def test_a_question_that_the_untouched_model_answers_is_dropped(embedded_model):
    france = Passage("France", "France is a country in Europe. The capital of France is Paris.", "", "")
    known = Question("What is the capital of France?", ("Paris",))
    assert check(embedded_model, [(france, [known])]) == [([], Counter({"known without the passage": 1}))]


def test_with_the_passage_in_view_both_its_title_and_its_text_stand_before_the_question():
    seen = open_book_prompt(PASSAGE, "Who built it?")
    assert seen.startswith("The Vellmar Lighthouse\n\nThe Vellmar Lighthouse was built in 1874")
    assert seen.endswith("Who built it?")


@pytest.mark.embedded
def test_the_end_of_a_line_is_a_cloze_question_unless_it_is_a_guess(embedded_model):
    passage = Passage("", PASSAGE.text + " The capital of France is Paris.", "", "")
    lines = [
        "The lamp of the lighthouse burns oil that comes from Tromholt.",
        "Everybody knows that the capital of France is Paris.",
        "Built by Ada Quill.",  # nothing to go on before the fact
        "The lamp of the lighthouse burns oil from nowhere at all.",  # no fact of the passage
    ]
    ((kept, dropped),) = questions_from_rewordings(embedded_model, [(passage, lines)])
    assert [q for q in kept if q.kind == "cloze"] == [
        Question("The lamp of the lighthouse burns oil that comes from", ("Tromholt",), kind="cloze")
    ]
    asked = [q for q in kept if q.kind == "question"]
    assert asked and all(q.answers[0] in q.sentence and q.sentence in sentences(passage.text) for q in asked)
    assert not [q for q in asked if q.question.startswith("Built by")]
    assert dropped["known without the passage"] >= 1
    assert questions_from_rewordings(embedded_model, [(passage, [])]) == [([], Counter())]


@pytest.mark.embedded
def test_a_written_quiz_asks_for_spans_and_is_the_same_each_time(embedded_model):
    (quiz,) = write_quizzes(embedded_model, [PASSAGE], spans=6)
    questions = (*quiz.studied, *quiz.judging)
    assert len(questions) + sum(quiz.dropped.values()) == sum(
        len(_first_words(span)) for _, span in pick_spans(PASSAGE.text, 6)
    )
    picked = {span for _, span in pick_spans(PASSAGE.text, 50)}
    assert all(q.answers[0] in picked and q.question.endswith("?") for q in questions)
    assert write_quizzes(embedded_model, [PASSAGE], spans=6) == [quiz]


def test_spare_questions_are_checked_only_where_others_were_dropped(monkeypatch):
    text = "The red hall has 12 doors. It has 40 lamps. It was built in 1874 by Ada Quill. Keys hang at `hall.keys()`."
    passages = [Passage("", text, "", "0" * 64), Passage("", text, "", "1" * 64)]
    rounds = []

    def check(model, asked, *_, **options):
        rounds.append([len(questions) for _, questions in asked])
        faulty = 1 if len(rounds) == 1 else 0  # of the second passage
        return [(qs[faulty * i :], Counter({"known": faulty * i})) for i, (_, qs) in enumerate(asked)]

    monkeypatch.setattr("selfedit.edits.quiz.check", check)
    (first, none), (second, one) = fill_up(None, [(passage, []) for passage in passages], 3)
    assert rounds == [[3, 3], [0, 1]]
    assert len(first) == len(second) == 3 and (none["known"], one["known"]) == (0, 1)


@pytest.mark.parametrize(
    "opening, written, line",
    [
        ("Who", " built the mill?\nWhat", "Who built the mill?"),
        ("Who", "se mill is it?", "Whose mill is it?"),
        ("What", "'s the mill called?", "What's the mill called?"),
    ],
)
def test_a_line_goes_on_where_its_opening_ends(tiny_model, monkeypatch, opening, written, line):
    tokens = tiny_model.chat.encode(tiny_model.chat.plain(written))
    monkeypatch.setattr(type(tiny_model.backend), "generate", lambda *arguments, **options: [tokens])
    assert tiny_model.write([WriteRequest("Question: ", 24, True, opening, one_line=True)]) == [line]
