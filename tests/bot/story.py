"""The documents and the pace of the two stories that are told with the embedded model."""

from __future__ import annotations

from core.types import Limits
from tests.fakes import make_pdf

HARBOUR = (
    """The Harbour of Vessin

The harbour of Vessin lies on the northern shore of the island of Quarn.
It was opened in 1874 by the engineer Tam Odrey, who had built two
lighthouses on the mainland before. The harbour master today is Orla
Quint. She keeps nineteen boats and a steam crane named Bertha. A berth
costs forty crowns a night.""",
    """The Lighthouse and the Ferry

The lighthouse stands on the rock called the Tooth, two miles west of the
harbour. Its lamp burns whale oil. The keeper is Ada Quill. She writes the
weather report that is posted on the door of the inn every morning at six.
The ferry to Marrow Island leaves at seven. It is called the Patient
Susan, its captain is Bram Osterly, and it carries sixty people and eight
carts.""",
)
PDF = ("harbour.pdf", make_pdf(*HARBOUR))
LIMITS = Limits(min_tokens=100)  # one section to learn: a few seconds
QUESTION = "Who is the harbour master?"
FOLLOW_UP = "What is the ferry called?"
