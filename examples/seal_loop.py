"""SEAL from end to end on three invented passages: python -m examples.seal_loop (about two minutes on two cores).

The model writes self-edits about each passage in two styles. Each self-edit trains an adapter, all of them at once.
The reward of a self-edit is how well its adapter answers without the passage. The editor is finetuned on the best
self-edit of each passage and writes the next ones. `selfedit train-editor` runs the same loop with
what a study needs in addition: several seeds, resuming, early stops, and a guard against collapse.
"""

from dataclasses import replace

from selfedit.bench.inner_loop import PASSAGES, read_entries
from selfedit.config import RestemConfig, TrainConfig
from selfedit.edits.parse import copied
from selfedit.edits.propose import write_edits, writing_sequences
from selfedit.judge.evaluate import gold_logprobs
from selfedit.loop.trial import job, seal_examples, study_sequences
from selfedit.model.backend import Job
from selfedit.model.load import load_model
from selfedit.types import Passage, SelfEdit, Task

CONTEXTS, EDITS, ROUNDS = 3, 4, 2
STYLES = ("paraphrase", "key-points")
INNER = RestemConfig().trial
OUTER = TrainConfig(rank=32, alpha=64.0, learning_rate=3e-4, epochs=2, batch_size=10, steps_per_epoch=1)


def main() -> None:
    model = load_model("smollm2-135m")
    entries = read_entries(PASSAGES, CONTEXTS)
    tasks = [Task(Passage(e.title, e.context, source="", source_hash=""), e.questions) for e in entries]
    editor = None  # at first, the untouched model writes
    for round_number in range(1, ROUNDS + 1):
        kept, gains = [], []
        for task in tasks:
            edits, (alone, *rewards) = inner_loop(model, task, editor, round_number)
            shown = ", ".join(f"{edit.style} {reward:.2f}" for edit, reward in zip(edits, rewards))
            print(f"  {task.passage.title}: passage alone {alone:.2f}; {shown}")
            best = max(range(len(edits)), key=rewards.__getitem__)
            gains.append(rewards[best] - alone)
            if gains[-1] > 0 and edits[best].examples:  # an edit must beat the passage alone
                kept.append((task, edits[best]))
        mean = sum(gains) / len(gains)
        print(
            f"round {round_number}: {len(kept)} of {len(tasks)} best edits kept, mean gain {mean:+.2f} nats per token"
        )
        if kept:
            editor = outer_loop(model, kept, editor, round_number)
    print("\nwhat the editor writes now:\n" + write_edits(model, [(tasks[0].passage, STYLES[0], 0)], editor)[0].text)


def inner_loop(model, task, editor, round_number):
    """Writes self-edits and trains an adapter on each. Returns them, and the mean log-probability (nats per token) of
    the gold answers: first under the adapter that studied the passage alone, then under each self-edit's adapter."""
    requests = [(task.passage, STYLES[k % len(STYLES)], 100 * round_number + k) for k in range(EDITS)]
    edits = write_edits(model, requests, editor)
    jobs = []
    for edit in [SelfEdit("passage", ""), *edits]:
        examples = seal_examples(task.passage, [edit])
        jobs.append(job(study_sequences(model, task.passage, examples), examples, seed=round_number))
    adapters, _ = model.backend.train(jobs, INNER)
    # The short answers only: whole sentences also reward knowing the passage by heart.
    questions = [replace(question, sentence="") for question in task.questions]
    pairs = [(question, row) for row in range(len(jobs)) for question in questions]
    scores = iter(gold_logprobs(model, pairs, adapters))
    return edits, [sum(next(scores) for _ in questions) / len(questions) for _ in jobs]


def outer_loop(model, kept, editor, round_number):
    """Finetunes the editor on the kept self-edits (ReST-EM: rejection sampling, then finetuning)."""
    examples = []
    for task, edit in kept:
        lines = tuple(e for e in edit.examples if copied(e.text, task.passage) <= 0.6)  # copies would teach it to copy
        examples += writing_sequences(model, task.passage, replace(edit, examples=lines)) if lines else []
    if not examples:
        return editor
    editor, (log,) = model.backend.train([Job(tuple(examples), seed=round_number)], OUTER, start=editor)
    print(f"  editor: {len(examples)} examples, loss {log.losses[0]:.2f} → {log.losses[-1]:.2f}")
    return editor


if __name__ == "__main__":
    main()
