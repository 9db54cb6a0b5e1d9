"""Data files become Tasks and Questions; what a file lacks is said with its place."""

import json
from collections import Counter
from pathlib import Path

import pytest

from selfedit.errors import DocumentError
from selfedit.tasks.fictional import fictional_tasks
from selfedit.tasks.load import load_tasks
from selfedit.tasks.questions import load_prompts, load_quiz
from selfedit.tasks.records import read_json
from selfedit.tasks.squad import squad_tasks
from selfedit.types import Question, text_hash

DATA = Path(__file__).parents[2] / "shared" / "data"


def load_squad(path: str):
    return squad_tasks(read_json(path), path)


def load_fictional(path: str):
    return fictional_tasks(read_json(path), path)


LOADERS = [load_squad, load_fictional, load_quiz, load_prompts]


@pytest.fixture
def file(tmp_path):
    """Writes a value as JSON, or a text as it is, and gives the path."""

    def write(content) -> str:
        path = tmp_path / "data.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return str(path)

    return write


def data(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not here: this test reads data that the project does not carry")
    return path


def refusal(load, path: str) -> str:
    """The message, after the path."""
    with pytest.raises(DocumentError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(path)
    return message.removeprefix(path)


def test_official_squad_becomes_a_task_for_each_context(file):
    qas = [
        {"id": "1", "question": "Who?", "answers": [{"text": t, "answer_start": 0} for t in ["Ann", "Ann Lee", "Ann"]]},
        {"id": "2", "question": "When?", "answers": [{"text": "1901", "answer_start": 9}]},
    ]
    ann = [{"context": "Ann Lee, 1901.", "qas": qas}, {"context": "Two.", "qas": qas[1:]}]
    bob = [{"context": "Three.", "qas": qas[:1]}]
    path = file({"version": "1.1", "data": [{"title": "Ann", "paragraphs": ann}, {"title": "Bob", "paragraphs": bob}]})
    tasks = load_squad(path)
    assert [(task.passage.title, task.passage.text) for task in tasks] == [
        ("Ann", "Ann Lee, 1901."),
        ("Ann", "Two."),
        ("Bob", "Three."),
    ]
    assert tasks[0].questions == (Question("Who?", ("Ann", "Ann Lee")), Question("When?", ("1901",)))
    assert (tasks[0].passage.source, tasks[0].passage.source_hash) == (path, text_hash("Ann Lee, 1901."))


def test_a_passage_that_stands_twice_has_every_question_once_and_all_edits(file):
    row = {"title": "Gate", "context": "It is red.", "questions": [{"question": "What colour?", "answer": "red"}]}
    more = row | {
        "questions": [*row["questions"], {"question": "Is it blue?", "answer": "no"}],
        "self_edits": {"w/s": ["Red it is."]},
    }
    (task,) = load_tasks(file([row, more]))
    assert [q.question for q in task.questions] == ["What colour?", "Is it blue?"] and task.edits == {
        "w/s": ("Red it is.",)
    }


SQUAD_2 = {
    "version": "v2.0",
    "data": [
        {
            "title": "Orb_station",
            "paragraphs": [
                {
                    "context": "Ulla Brandt built the Orb.",
                    "qas": [
                        {"question": "Who built it?", "answers": [{"text": "Ulla Brandt"}], "is_impossible": False},
                        {"question": "Who painted it?", "answers": [], "is_impossible": True},
                    ],
                },
                {"context": "Nobody asks about this.", "qas": []},
                {"context": "Nor about this.", "qas": [{"question": "Why?", "answers": [], "is_impossible": True}]},
            ],
        },
        {"title": "", "paragraphs": []},
    ],
}


def test_unanswerable_questions_and_passages_without_questions_are_left_out_and_counted(file):
    lines: list[str] = []
    path = file(SQUAD_2)
    (task,) = load_tasks(path, notify=lines.append)
    assert (task.passage.title, task.questions) == ("Orb station", (Question("Who built it?", ("Ulla Brandt",)),))
    assert lines == [f"{path}: left out: 2 unanswerable questions, 2 passages without questions"]
    assert [len(task.questions) for task in load_tasks(path, without_questions=True)] == [1, 0, 0]


def test_a_file_without_any_answerable_question_is_refused(file):
    article = SQUAD_2["data"][0] | {"paragraphs": SQUAD_2["data"][0]["paragraphs"][1:]}
    assert refusal(load_tasks, file({"data": [article]})) == ": no passage has a question with an answer"


def test_one_record_per_question_is_read_from_json_and_json_lines(tmp_path):
    rows = [
        {"id": "1", "title": "Orb_station", "context": "Ulla built it in 2031.", "question": "Who?"}
        | {"answers": {"text": ["Ulla", "Ulla"], "answer_start": [0, 0]}},
        {"title": "Orb_station", "context": "Ulla built it in 2031.", "question": "When?", "answers": ["2031"]},
        {"title": "Orb_station", "context": "Ulla built it in 2031.", "question": "Why?", "answers": {"text": []}},
        {"title": "", "context": "It is red.", "question": "What colour?", "answer": "red"},
        {"context": "It is old.", "question": "How old?", "answers": []},
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("a.json", "a.jsonl"):
        lines: list[str] = []
        first, second = load_tasks(tmp_path / name, notify=lines.append)
        assert first.questions == (Question("Who?", ("Ulla",)), Question("When?", ("2031",)))
        assert (first.passage.title, second.passage.title, second.questions[0].answers) == ("Orb station", "", ("red",))
        assert lines == [f"{tmp_path / name}: left out: 2 unanswerable questions, 1 passages without questions"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Q"}, "[0]: 'context' is missing; there is 'question'"),
        ({"question": "Q", "context": "C"}, "[0]: 'answer' is missing; there is 'question', 'context'"),
        ({"question": "Q", "context": "C", "answers": {}}, "[0]: 'answers': is empty"),
        (
            {"question": "Q", "context": "C", "answers": {"text": [3]}},
            "[0]: 'answers'.text[0]: should be text, is a number",
        ),
        ({"question": 3, "context": "C", "answer": "A"}, "[0]: 'question': should be text, is a number"),
        ({"question": "Q", "context": "C", "title": 3}, "[0]: 'title': should be text, is a number"),
    ],
)
def test_a_record_that_lacks_something_is_refused_with_the_place(file, row, message):
    assert refusal(load_tasks, file([row])) == message


def test_plain_squad_takes_one_answer_or_several(file):
    questions = [
        {"question": "A?", "answer": "a"},
        {"question": "B?", "answers": ["b", "B", "b"]},
        {"question": "C?", "answer": "c", "answers": ["C", "c"]},
    ]
    (task,) = load_squad(file([{"id": "x", "title": "T", "context": "Text.", "questions": questions}]))
    assert [question.answers for question in task.questions] == [("a",), ("b", "B"), ("c", "C")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], ": is empty"),
        ("text", ": not JSON (Expecting value: line 1 column 1 (char 0))"),
        (3, ": should be a list, is a number"),
        ({"version": "1.1"}, ": 'data' is missing; there is 'version'"),
        ({"data": {}}, ": 'data': should be a list, is an object"),
        ({"data": [{"title": "T"}]}, ".data[0]: 'paragraphs' is missing; there is 'title'"),
        (
            {"data": [{"title": "T", "paragraphs": [{"context": "C", "qas": [{"question": "Q", "answers": [{}]}]}]}]},
            ".data[0].paragraphs[0].qas[0].answers[0]: is empty",
        ),
        (
            {"data": [{"title": "T", "paragraphs": [{"context": "C", "qas": [{"question": "Q", "answers": []}]}]}]},
            ".data[0].paragraphs[0].qas[0]: 'answers': is empty",
        ),
        (["text"], "[0]: should be an object, is text"),
        ([{"title": "T", "context": "C"}], "[0]: 'questions' is missing; there is 'title', 'context'"),
        ([{"title": "T", "context": " ", "questions": [{"question": "Q", "answer": "A"}]}], "[0]: 'context': is empty"),
        (
            [{"title": "T", "context": "C", "questions": [{"question": "Q", "answer": "A"}, {"question": "Q"}]}],
            "[0].questions[1]: 'answer' is missing; there is 'question'",
        ),
        (
            [{"title": "T", "context": "C", "questions": [{"question": "Q", "answers": ["A", 3]}]}],
            "[0].questions[0].answers[1]: should be text, is a number",
        ),
    ],
)
def test_a_squad_file_that_lacks_something_is_refused_with_the_place(file, content, message):
    assert refusal(load_squad, file(content)) == message


def test_the_squad_samples_are_read_whole():
    tasks = load_squad(data("squad/dev_public1867.json"))
    assert (len(tasks), sum(len(task.questions) for task in tasks)) == (1867, 9596)
    assert tasks[0].passage.title == "Super Bowl 50"
    assert tasks[0].questions[2].question == "Where did Super Bowl 50 take place?"
    assert tasks[0].questions[2].answers[:2] == ("Santa Clara, California", "Levi's Stadium")
    tasks = load_squad(data("squad/seal_train199.json"))
    assert (len(tasks), sum(len(task.questions) for task in tasks)) == (199, 956)


def test_a_cloze_probe_becomes_a_question_of_its_kind(file):
    probes = [
        {"kind": "memorization", "prompt": "Ann was born in", "target": "1901"},
        {"kind": "composition", "prompt": "The century of Ann is", "target": "the 20th"},
    ]
    path = file([{"id": "fk-1", "context": "Ann was born in 1901.", "probes": probes}])
    (task,) = load_fictional(path)
    assert (task.passage.title, task.passage.text, task.passage.source) == ("", "Ann was born in 1901.", path)
    assert task.questions == (
        Question("Ann was born in", ("1901",), "memorization"),
        Question("The century of Ann is", ("the 20th",), "composition"),
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"context": "C"}, ": should be a list, is an object"),
        ([{"context": "C"}], "[0]: 'probes' is missing; there is 'context'"),
        (
            [{"context": "C", "probes": [{"kind": "paraphrase", "prompt": "P"}]}],
            "[0].probes[0]: 'target' is missing; there is 'kind', 'prompt'",
        ),
        ([{"probes": [{"kind": "k", "prompt": "P", "target": "T"}]}], "[0]: 'context' is missing; there is 'probes'"),
    ],
)
def test_a_fictional_file_that_lacks_something_is_refused_with_the_place(file, content, message):
    assert refusal(load_fictional, file(content)) == message


def test_the_fictional_sample_is_read_whole():
    tasks = load_fictional(data("fictional_knowledge/public65.json"))
    kinds = Counter(question.kind for task in tasks for question in task.questions)
    assert (len(tasks), kinds) == (65, {"memorization": 325, "paraphrase": 325, "composition": 325})
    assert tasks[0].questions[0].answers == ("Rowan Hughes",)


def test_a_quiz_is_read_line_by_line(file):
    path = file('{"question": "A?", "answer": "a"}\n\n{"question": "B\u2028?", "answers": ["b", "B"], "n": 3}\r\n')
    assert load_quiz(path) == [Question("A?", ("a",)), Question("B\u2028?", ("b", "B"))]


def test_asks_are_questions_to_answer_or_prompts_to_continue(file):
    path = file('{"question": "A?", "answer": "ignored"}\n{"prompt": "Once upon", "id": 2}\n')
    assert load_prompts(path) == [Question("A?", ()), Question("Once upon", (), "continue")]


@pytest.mark.parametrize(
    ("load", "lines", "message"),
    [
        (load_quiz, '{"question": "A?", "answer": "a"}\n{"question"', " line 2: not JSON (Expecting ':' delimiter:"),
        (load_quiz, '\n["A?"]', " line 2: should be an object, is a list"),
        (load_quiz, '{"question": "A?"}', " line 1: 'answer' is missing; there is 'question'"),
        (load_quiz, '{"answer": "a"}', " line 1: 'question' is missing; there is 'answer'"),
        (load_quiz, '{"question": "a \\ud800 b?", "answer": "a"}', " line 1: 'question': has half a character"),
        (load_quiz, '{"question": "", "answer": "a"}', " line 1: 'question': is empty"),
        (load_quiz, '{"question": "A?", "answer": 42}', " line 1: 'answer': should be text, is a number"),
        (load_quiz, '{"question": "A?", "answers": []}', " line 1: 'answers': is empty"),
        (load_quiz, "[" * 100_000, " line 1: not JSON ("),
        (
            load_prompts,
            '{"question": "A?"}\n{"text": "B?"}',
            " line 2: neither 'question' nor 'prompt'; there is 'text'",
        ),
        (load_prompts, '{"prompt": null}', " line 1: 'prompt': should be text, is null"),
        (load_prompts, "3", " line 1: should be an object, is a number"),
        (load_prompts, "{}", " line 1: is empty"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(file, load, lines, message):
    assert refusal(load, file(lines)).startswith(message)


@pytest.mark.parametrize("load", LOADERS)
def test_a_file_that_is_missing_empty_or_binary_is_refused(load, tmp_path):
    path = tmp_path / "data.json"
    with pytest.raises(DocumentError, match="no such file or folder"):
        load(path)
    path.write_text(" \n")
    with pytest.raises(DocumentError, match="empty|not JSON"):
        load(path)
    path.write_bytes(b"\x1f\x8b\0\0")
    with pytest.raises(DocumentError, match="a binary file"):
        load(path)
    path.write_bytes('[{"context": "café"}]'.encode("latin-1"))
    with pytest.raises(DocumentError, match="cannot be decoded as utf-8"):
        load(path)
