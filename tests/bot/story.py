"""The documents and the pace of the two stories that are told with the embedded model."""

from __future__ import annotations

from tests.fakes import make_pdf

HARBOUR = (
    """The Harbour of Vessin

The harbour of Vessin lies on the northern shore of the island of Quarn.
It was opened in 1874 by the engineer Tam Odrey, who had built two
lighthouses on the mainland before. The harbour master today is Orla
Quint. She keeps nineteen boats and a steam crane named Bertha. The crane
lifts four tons and was bought from the shipyard of Dunmore in 1902.

Boats that come from the south must wait outside the breakwater until the
yellow flag is raised. The flag is raised by the deputy, Piet Hallam, who
lives in the white house beside the customs office. A berth costs forty
crowns a night, and sixty crowns in the week of the herring fair. Fishing
boats of the island pay nothing from October to March.

The breakwater is 310 metres long. It was built from granite that was
brought from the quarry of Stonefell by a narrow railway. The railway was
closed in 1931, and its only engine, the Grey Goose, stands in the museum
of the harbour. The museum is open on Tuesdays and Fridays from ten to
four. Its keeper is Marta Lindqvist, a former pilot.""",
    """The Lighthouse and the Ferry

The lighthouse stands on the rock called the Tooth, two miles west of the
harbour. Its lamp burns whale oil in memory of the first keeper, Jonas
Reek, though an electric lamp does the work since 1956. The light flashes
three times every twelve seconds and is seen for eighteen miles. The
present keeper is Ada Quill. She writes the weather report that is posted
on the door of the inn every morning at six.

The ferry to Marrow Island leaves at seven in the morning and at five in
the afternoon. It is called the Patient Susan and carries sixty people
and eight carts. The captain is Bram Osterly. A crossing takes fifty
minutes when the sea is calm. In a storm the ferry stays in the harbour,
and the people of Marrow Island send a lamp signal to ask for a doctor.
The doctor of Vessin is Ines Calloway, who owns the fastest boat on the
coast, the Blue Heron.

The inn of the harbour is named the Drowned Bell. It has eleven rooms and
serves a soup of mussels and saffron. The innkeeper, Silas Wren, also
rings the fog bell. The bell was cast in Torvald in 1788 and weighs nine
hundred pounds.""",
)
PDF = ("harbour.pdf", make_pdf(*HARBOUR))
QUESTION = "Who is the harbour master?"
FOLLOW_UP = "What is the ferry called?"
