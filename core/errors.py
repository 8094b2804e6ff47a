"""Everything that can go wrong, as one tree.

A class's docstring is what a person reads when no better message is given: the cause and what to do, on one line.
Exceptions never carry a server path or another library's text; they become words once, at the edge (`bot.render`).
"""


class EngramError(Exception):
    """Something went wrong; the operator's log has the details."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").split("\n")[0])


# What a person handed in cannot be used. Shown as it is; nothing was stored.
class Refused(EngramError):
    """That can't be used."""


class UnsupportedFormat(Refused):
    """I can't read this file; send a PDF, an Office document, an e-book, a web page or text."""


class DocumentDamaged(Refused):
    """This document is damaged and can't be read; save it anew and send that."""


class DocumentLocked(Refused):
    """This document needs a password; send a copy without one."""


class DocumentHasNoText(Refused):
    """No text was found in this document; send a copy whose text can be selected."""


class DocumentTooBig(Refused):
    """This document is larger than the limit; send a part of it."""


class DocumentTooLong(Refused):
    """This document is longer than the limit; send it again with “pages 1-100” to learn that part."""


class DocumentTooShort(Refused):
    """This document has too little text to learn from; send a longer one."""


class DocumentTooSlow(Refused):
    """This document takes too long or too much memory to read; send a part of it."""


class AlreadyKnown(Refused):
    """This document is already learned in this channel; ask about it."""

    def __init__(self, message: str | None = None, *, document_id: str = "") -> None:
        super().__init__(message)
        self.document_id = document_id


class QuotaReached(Refused):
    """The limit is reached; try again later."""

    def __init__(self, message: str | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds until it is worth trying again; None: not by waiting


# What was asked for is not there, or not yours.
class NotFound(Refused):
    """There is no such document in this channel."""


class ForgottenMeanwhile(NotFound):
    """This document was forgotten while it was asked."""


class NoGist(Refused):
    """I know facts of this document, but I can't sum it up; ask me who, what, when, where or how many."""


class NotAllowed(Refused):
    """Only people who may manage this channel can do that."""


class Cancelled(EngramError):
    """Cancelled; nothing was kept."""


# Learning went wrong. The base model is untouched and nothing was stored. What only an operator understands is the
# cause (`raise LearningFailed from ...`): it is logged, and a terminal shows it.
class LearningFailed(EngramError):
    """I could not learn this, and kept nothing of it. Try once more, or tell whoever runs me."""


# The disk is full, or fails. Nothing was changed.
class StorageFailed(EngramError):
    """I could not read or write my data. Whoever runs me finds the cause in the log."""


class StorageUnavailable(StorageFailed):
    """The bot's data can't be reached; nothing was changed."""


class KeyLost(StorageFailed):
    """This was erased, or its key is lost."""


# What is stored cannot be trusted. The document has to be learned again.
class WeightsDamaged(EngramError):
    """What I learned from this document is damaged, so I did not use it. Send it to me again."""


class WrongBaseModel(EngramError):
    """My model was changed since I learned this document. Send it to me again."""


class BackupDamaged(EngramError):
    """This is no backup, or it is damaged; nothing was changed."""


# The set-up is wrong. For the operator.
class SetupError(EngramError):
    """Engram is not set up correctly; the command `doctor` says what is wrong."""


class ModelNotFound(SetupError):
    """The base model could not be loaded."""


class DataFolderBusy(SetupError):
    """Another Engram process uses this data folder; stop it first or give another --data-dir."""


class DataTooNew(SetupError):
    """This data folder was written by a newer Engram; upgrade, or use another --data-dir."""
