# /// script
# requires-python = ">=3.11"
# ///
"""Books a table once somebody has said yes, and reminds them of it days later."""

import torpor


@torpor.step
def book(place: str, people: int) -> str:
    return f"{place}, {people} people, booked"


@torpor.agent
def dinner(place: str, people: int = 2, remind_in: str = "3d") -> str:
    """Ask, book, sleep, remind."""
    tried = [place]  # an ordinary variable: it is still here in three days
    verdict = torpor.approve(f"Book {place} for {people}?", data={"tried": tried}, timeout="7d")
    if not verdict.approved:
        why = verdict.note or ("nobody answered" if verdict.timed_out else "denied")
        return f"no table at {place}: {why}"

    booking = book(place, people)  # happens once, whatever crashes
    torpor.log(booking)
    torpor.sleep(remind_in)  # no process, no machine: a snapshot on disk
    return f"Do not forget: {booking}"
