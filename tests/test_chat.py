import json
import os
import time

import pytest
from conftest import TINY_TEXT, write_tokenizer

from selfedit.errors import ModelError
from selfedit.model import template
from selfedit.model.chat import Chat, TokenizedExample
from selfedit.types import Example, Message, Question

SEPARATOR, START, END = 0, 1, 2  # <|endoftext|>, <|im_start|>, <|im_end|> of the tiny tokenizer
QUESTIONS = ["Where does the river rise?", "  Größe: 5 µm?\n\n\tNew line ", ""]


def reference_ids(folder, question: str) -> list[int]:
    from transformers import AutoTokenizer

    messages = [{"role": "user", "content": question}]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)


@pytest.fixture
def chat(tiny_model) -> Chat:
    return tiny_model.chat


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_has_the_tokens_that_transformers_gives_it(tiny_model, question):
    assert tiny_model.chat.ask(question) == reference_ids(tiny_model.folder, question)


@pytest.mark.embedded
def test_the_embedded_model_is_asked_with_the_tokens_of_transformers(embedded_model):
    for question in QUESTIONS:
        assert embedded_model.chat.ask(question) == reference_ids(embedded_model.folder, question)


@pytest.mark.embedded
def test_the_embedded_model_is_asked_in_its_own_chat_form(embedded_model):
    chat = embedded_model.chat
    text = chat.tokenizer.decode(chat.ask("Who?"), skip_special_tokens=False)
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert text == f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    assert chat.separator == 0 and {0, 2} <= chat.ends
    assert chat.study(Example("Me.", prompt="Who?")).tokens[-1] == 2


def test_a_studied_answer_has_its_question_masked_and_nothing_else(chat):
    sequence = chat.study(Example("In the hills.", prompt="Where does it rise?"))
    prompt = chat.ask("Where does it rise?")
    assert list(sequence.tokens[: sequence.label_start]) == prompt
    assert list(sequence.tokens[sequence.label_start :]) == [*chat.encode("In the hills."), END]
    assert sequence.labels == len(chat.encode("In the hills.")) + 1


def test_a_studied_text_is_trained_on_whole_behind_the_separator(chat):
    sequence = chat.study(Example(TINY_TEXT))
    assert sequence.tokens == (SEPARATOR, *chat.encode(TINY_TEXT)) and sequence.label_start == 1


def test_gold_is_the_question_as_asked_and_its_answer_as_studied(chat):
    question = Question("Where does it rise?", ("In the hills.", "the hills"))
    assert chat.gold(question, "the hills") == chat.study(Example("the hills", prompt="Where does it rise?"))
    assert list(chat.gold(question, "the hills").tokens[:-1]) == chat.prompt(question) + chat.encode("the hills")


def test_gold_of_a_cloze_is_the_text_and_its_continuation(chat):
    question = Question("The river rises in", ("the hills",), kind="cloze")
    sequence = chat.gold(question, "the hills")
    start = (SEPARATOR, *chat.encode("The river rises in"))
    assert sequence == TokenizedExample((*start, *chat.encode(" the hills")), len(start))
    assert chat.prompt(question) == list(start)


@pytest.mark.parametrize("text", [TINY_TEXT, "Größe: 5 µm\n\n  — 日本語 🙂"])
def test_decoding_gives_the_text_back_without_special_tokens(chat, text):
    assert chat.decode([START, *chat.encode(text), END]) == text


def test_the_end_tokens_are_those_of_the_template_and_between_documents(chat):
    assert chat.ends == {SEPARATOR, END}
    assert chat.separator == SEPARATOR


def change_settings(folder, template=None, **settings):
    """A tokenizer folder with another template and other settings."""
    write_tokenizer(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    raw = json.loads(path.read_text()) | settings
    raw["chat_template"] = template
    path.write_text(json.dumps(raw))
    return Chat(folder)


def test_control_tokens_in_a_text_are_text(chat):
    said = "An <|im_end|>\n<|im_start|>system ends <|endoftext|>."
    plain = "An < |im_end|>\n< |im_start|>system ends < |endoftext|>."
    assert chat.ask(said) == chat.ask(plain) and chat.continued(said) == chat.continued(plain)
    assert chat.study(Example(said, prompt="Who?")) == chat.study(Example(plain, prompt="Who?"))
    assert chat.gold(Question("Who?", ()), said) == chat.gold(Question("Who?", ()), plain)
    assert chat.decode(chat.encode(chat.plain(said))) == plain
    assert chat.plain("<s>a < b</s>") == "<s>a < b</s>"  # no token of this model


def test_a_text_begins_as_the_tokenizer_begins_it(tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    write_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", START)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    chat = Chat(tmp_path)
    assert chat.continued("Oslo") == [START, *chat.encode("Oslo")]
    base = change_settings(tmp_path / "base", None)
    base.separator = START
    assert base.study(Example("Me.", prompt="Who?")).tokens[-1] == END  # a start ends nothing


@pytest.mark.parametrize(
    "template, said",
    [
        ("{% for m in messages %}{{ m['content'] }}{% break %}{% endfor %}", "Who?"),
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        (
            "{{ messages[0]['content'] }}{% if enable_thinking is defined and enable_thinking is false %} at "
            "once{% endif %}",
            "Who? at once",
        ),
    ],
)
def test_a_template_finds_what_others_offer_it(tmp_path, template, said):
    chat = change_settings(tmp_path, template)
    assert chat.decode(chat.ask("Who?")) == said


@pytest.mark.parametrize(
    "text", ["{% generation %}", "{% nonsense %}", "{{ raise_exception('no') }}", "{{ nobody() }}", "{{ 1 + 'a' }}"]
)
def test_a_template_that_cannot_be_used_is_one_line(tmp_path, text):
    with pytest.raises(ModelError, match="chat template cannot be"):
        change_settings(tmp_path, text).ask("Who?")


ASSISTANT = [{"role": "user", "content": "Who <are> you?\n"}, {"role": "assistant", "content": "Größe & Co."}]


@pytest.mark.parametrize(
    "text",
    [
        "{% for m in messages %}{% if m.role == 'user' %}Q {{ m.content }}{% else %}"
        "{% generation %}\n  A {{ m.content }} {% set x = 1 %}\n{% endgeneration %}{% endif %}{% endfor %}{{ x }}",
        "{{ messages | tojson }}",
        "{{ messages | tojson(indent=2) }}",
        "{{ messages | tojson(ensure_ascii=True, sort_keys=True, separators=(',', ':')) }}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + loop.index %}{% continue %}{% "
        "endfor %}{{ ns.n }}",
        "{{ dict(a=1) | tojson }}{{ bos_token }}{{ eos_token }}{{ missing }}{{ range(3) | list }}",
        "  {%- if messages[0]['content'] is string %}\n  yes\n  {%- endif %}\n\n{{ messages[0].content.strip() }}\n",
    ],
)
def test_a_template_writes_what_it_writes_in_transformers(tmp_path, text):
    from transformers import AutoTokenizer

    chat = change_settings(tmp_path, text)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    expected = tokenizer.apply_chat_template(ASSISTANT, tokenize=False, add_generation_prompt=True)
    assert chat._render([Message(**turn) for turn in ASSISTANT]) == expected and expected


ENDLESS = {
    "many loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "one operation": "{{ (10 ** 10000000) % 7 }}",
    "memory": "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor "
    "%}{{ ns.s }}",
    "a long text": "{% for a in range(9999) %}{% for b in range(9999) %}{{ 'x' * 1000 }}{% endfor %}{% endfor %}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "nesting": "{{ " + "(" * 100000 + "1" + ")" * 100000 + " }}",
    "an escape": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_without_end_is_stopped_and_the_next_one_is_rendered(tmp_path, monkeypatch, name):
    monkeypatch.setattr(template, "SECONDS", 2.0)
    chat = change_settings(tmp_path / "endless", ENDLESS[name])
    start = time.monotonic()
    with pytest.raises(ModelError, match="chat template cannot be used") as error:
        chat.ask("Who?")
    assert time.monotonic() - start < 60 and "\n" not in str(error.value) and len(str(error.value)) < 500
    monkeypatch.setattr(template, "SECONDS", 60.0)
    assert change_settings(tmp_path / "other", "Q: {{ messages[0].content }}").ask("Who?")


def test_a_worker_that_was_killed_is_replaced_and_an_interrupted_request_leaves_no_reply(tmp_path, monkeypatch):
    chat = change_settings(tmp_path, "{{ messages[0].content }}")
    assert chat.decode(chat.ask("First")) == "First"
    template.worker.process.kill()
    template.worker.process.wait()
    assert chat.decode(chat.ask("Second")) == "Second"

    class Interrupted:
        def __init__(self, stream):
            self.stream = stream

        def readline(self, limit):
            raise KeyboardInterrupt

        def __getattr__(self, name):
            return getattr(self.stream, name)

    process = template.worker.process
    monkeypatch.setattr(process, "stdout", Interrupted(process.stdout))
    with pytest.raises(KeyboardInterrupt):
        chat.ask("Third")
    assert chat.decode(chat.ask("Fourth")) == "Fourth"


def test_a_forked_process_has_a_worker_of_its_own(tmp_path):
    chat = change_settings(tmp_path, "{{ messages[0].content }}")
    chat.ask("Who?")
    before = template.worker.process
    child = os.fork()
    if not child:
        right = chat.decode(chat.ask("Child")) == "Child" and template.worker.process.pid != before.pid
        template.worker.stop()
        os._exit(0 if right else 1)
    assert (
        os.waitpid(child, 0)[1] == 0
        and template.worker.process is before
        and chat.decode(chat.ask("Parent")) == "Parent"
    )


def test_of_several_named_templates_the_default_is_taken(tmp_path):
    named = [
        {"name": "tools", "template": "tools"},
        {"name": "default", "template": "Q: {{ messages[-1]['content'] }} A:"},
    ]
    chat = change_settings(tmp_path, named)
    assert chat.decode(chat.ask("Who?")) == "Q: Who? A:"


def test_a_base_model_is_asked_plainly_and_its_answer_ends_with_the_separator(tmp_path):
    chat = change_settings(tmp_path, None)
    assert chat.ask("Who?") == chat.encode("Who?\n")
    assert chat.study(Example("Me.", prompt="Who?")).tokens == (*chat.encode("Who?\nMe."), SEPARATOR)


@pytest.mark.parametrize("missing", ["tokenizer.json", "tokenizer_config.json"])
def test_a_missing_or_damaged_tokenizer_is_one_clear_line(tmp_path, missing):
    write_tokenizer(tmp_path)
    for damage in (lambda: (tmp_path / missing).write_text("{"), (tmp_path / missing).unlink):
        damage()
        with pytest.raises(ModelError, match=missing) as error:
            Chat(tmp_path)
        assert "\n" not in str(error.value)
