"""JSON under a schema, as a grammar of requests."""

import json

from selfedit.model.backend import Request
from selfedit.model.json_grammar import json_grammar

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"enum": [3, 4]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def test_one_grammar_serves_all_texts_of_a_batch(tiny_model):
    """As where several arms answer one request."""
    prompts = [tuple(tiny_model.chat.ask(f"Who is {name}?")) for name in ("Ada", "Bob")]
    allow = json_grammar(tiny_model.chat, SCHEMA)
    together = [Request(prompt, max_new_tokens=60, temperature=1.0, seed=3, allow=allow) for prompt in prompts]
    alone = [
        Request(prompt, max_new_tokens=60, temperature=1.0, seed=3, allow=json_grammar(tiny_model.chat, SCHEMA))
        for prompt in prompts
    ]
    written = tiny_model.backend.generate([*together, together[0]])
    assert written[:2] == [tiny_model.backend.generate([request])[0] for request in alone] and written[0] == written[2]
    for tokens in written:
        assert json.loads(tiny_model.chat.decode(tokens)).keys() == {"name", "age"}
