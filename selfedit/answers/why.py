"""Why a question got its answer: for `ask --why`, the server and the page."""

from __future__ import annotations

from selfedit.answers.answerer import BASE, BOTH, TEXT, WEIGHTS, Answer
from selfedit.answers.nearest import nearest_example
from selfedit.disk import file_hash
from selfedit.memory.adapters import WEIGHTS as WEIGHTS_FILE
from selfedit.memory.store import MemoryStore


def why(store: MemoryStore, question: str, answer: Answer) -> dict:
    """`why`: a sentence; `candidates`: every arm's answer; the supporting sentence, the source, and the studied text
    that is nearest to the question, where there are any."""
    memory, writer = answer.memory, answer.writer
    shared_id = writer and store.shared_adapter(writer.id)
    adapter = f"the adapter {shared_id}, which it shares," if shared_id else "its adapter"
    fits = f"memory {memory.id} fits (score {answer.score:.2f})" if memory else ""
    recited = (
        f"{len(answer.recited)} memories recited their passages"
        if len(answer.recited) > 1
        else "it recited its passage"
    )
    is_quoted = answer.taken is not None and answer.taken.quoted
    read = "what fits the question best there is quoted" if is_quoted else "the untouched model read it"
    nothing = answer.note or f"no memory fits (best score {answer.score:.2f})"
    reasons = {
        BASE: f"{nothing}; the untouched model answered",
        WEIGHTS: f"{fits}; {recited} from the weights, and {read}"
        if answer.recited
        else f"{fits}; {adapter} answered without the document",
        TEXT: f"{fits}; its text is at hand, and {read}",
        BOTH: f"{fits}; its text is at hand, and "
        + (read if is_quoted else f"the adapter of memory {writer and writer.id} answered with it in the prompt"),
        "": "no answer is probably right" if memory else f"{nothing}, so there is no answer",
    }
    result: dict = {"why": reasons[answer.arm], "candidates": [candidate.record() for candidate in answer.candidates]}
    if answer.taken and answer.taken.support:
        result["passage"] = answer.taken.support.sentence
    if answer.recited:
        result["recited"] = "\n\n".join(passage.text for passage in answer.recited)
    if memory:
        result |= {"source": memory.passage.source, "source_hash": memory.passage.source_hash}
    if studied := memory if answer.recited else writer:
        nearest = nearest_example(question, store.edits(studied.id), studied.passage.title)
        result["edit"] = f"{nearest[0]}: {nearest[1]}" if nearest else "the passage itself"
        path = store.reciting_path(studied.id) if answer.recited else store.answering_path(studied.id)
        result["adapter_hash"] = file_hash(path / WEIGHTS_FILE)
    return result
