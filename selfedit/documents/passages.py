"""Placeholder until the new splitting lands."""

from selfedit.documents.old_passages import WHOLE_FACTOR, split_passages  # noqa: F401  (placeholder)


def split(document, *, passage_words, length):
    options = {"passage_words": passage_words, "is_code": document.is_code}
    return split_passages(document.title, document.text, document.source, **options)
