"""Errors that a user can correct, one class per boundary.

Each is a `ValueError`; the command line prints its message as one line and exits with 2. A message names the offending
value and says what to do. Our own bugs raise `AssertionError` and keep their traceback.
"""


class SelfeditError(ValueError):
    """An error that a user can correct; the message is one clear line."""


class DocumentError(SelfeditError):
    """A document, a data file or a URL cannot be read as text."""


class ModelError(SelfeditError):
    """A model is unknown, damaged, incomplete or of an architecture that is not supported."""


class AdapterError(SelfeditError):
    """An adapter folder is missing, corrupt, or was made for another model."""


class MemoryStoreError(SelfeditError):
    """The memory home cannot be read or written, is locked, or lacks the requested memory."""


class LibraryError(SelfeditError):
    """A library or its version cannot be read, or a lock file cannot."""


class RunError(SelfeditError):
    """A run folder cannot be used, or holds a run with other settings."""


class UnscoredError(SelfeditError):
    """A score is needed of something that could not be scored; an outage is not a zero."""
