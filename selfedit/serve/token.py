"""The token that clients of the server must send."""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from selfedit import disk
from selfedit.errors import SelfeditError

FILE = "token"
VARIABLE = "SELFEDIT_TOKEN"


def stored_token(home: Path, given: str | None) -> str:
    """The given token, that of the environment, or the one in the home, which is made where there is none; only the
    user can read it. Raises SelfeditError on a token that is too easy to guess."""
    if token := given or os.environ.get(VARIABLE):
        return _checked(token)
    file = home / FILE
    with disk.plain_errors(f"read or write {file}", SelfeditError):
        home.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
                new.write(secrets.token_urlsafe(24))
        return _checked(file.read_text("utf-8", errors="replace").strip())


def _checked(token: str) -> str:
    if not re.fullmatch(r"[\w.~+/=-]{16,200}", token, re.ASCII):
        raise SelfeditError("the token must have 16 to 200 letters, digits or characters of .~+/=-_")
    return token
