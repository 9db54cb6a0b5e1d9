"""A chat template and its variables → text, rendered by one worker process per process of ours (`template_worker`)."""

from __future__ import annotations

import json
from datetime import date
from functools import lru_cache

from selfedit.errors import ModelError
from selfedit.model.shape import one_line
from selfedit.worker import Worker, WorkerError

TODAY = date(2024, 7, 26)
"""The day for templates that print one: the default of Llama's own template, so that a prompt never changes."""
SECONDS = 10.0
"""Time limit of one rendering."""

worker = Worker("selfedit.model.template_worker")


def render(template: str, **variables: object) -> str:
    """Raises ModelError if the template fails, or exceeds a limit of the worker."""
    return _rendered(json.dumps({"template": template, "today": TODAY.isoformat(), "variables": variables}))


@lru_cache(maxsize=512)  # a question is asked before and after training, and in every epoch
def _rendered(request: str) -> str:
    try:
        reply = worker.request(SECONDS, **json.loads(request))
    except WorkerError as error:
        raise ModelError(f"the model's chat template cannot be used: it {error}") from None
    if "error" in reply:
        raise ModelError(f"the model's chat template cannot be used: {one_line(reply['error'])}")
    return reply["text"]
