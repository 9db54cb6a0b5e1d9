"""A mail (RFC 5322) → its header, and its text in the best form that it has."""

from __future__ import annotations

import email
import email.policy
import re

from selfedit.documents.normalize import decode

_HEADERS = ("From", "To", "Cc", "Date")


def read_mail(data: bytes) -> tuple[str, dict[str, object], str, bool]:
    """Returns the subject, the fields, the text, and whether the text is HTML."""
    message = email.message_from_bytes(data, policy=email.policy.default)
    fields: dict[str, object] = {name: _header(message, name) for name in _HEADERS}
    body = message.get_body(("html", "plain"))
    names = [part.get_filename() for part in message.walk() if part.get_filename()]
    fields["Attachments"] = ", ".join(filter(None, names))
    if body is None:
        return _header(message, "Subject"), fields, "", False
    payload = body.get_payload(decode=True) or b""
    text = decode(payload, body.get_content_charset()) if payload.strip() else ""
    return _header(message, "Subject"), fields, text, body.get_content_subtype() == "html"


def _header(message: email.message.Message, name: str) -> str:
    try:
        return " ".join(
            re.sub(r"<[^<>\s]+@[^<>\s]+>", lambda match: f"({match[0][1:-1]})", str(message[name] or "")).split()
        )
    except Exception:  # the standard library raises exceptions of any kind for damaged headers
        return ""
