"""What a person may say of a step in doubt: it was begun, a crash came, and its author wants
somebody to look before anything else happens (`torpor.step(on_doubt="ask")`)."""

from __future__ import annotations

from typing import Any

from torpor.core.errors import Invalid

CHOICES = '"again", "fail", {"fail": "why"} or {"done": RESULT}'


def settled(answer: Any) -> dict[str, Any]:
    """`answer` as an agent gets it: {do: "again"}, {do: "fail", message} or {do: "done", result}.
    Raises Invalid."""
    match answer:
        case "again":
            return {"do": "again"}
        case "fail":
            return {"do": "fail", "message": "it was in doubt, and said to have failed"}
        case {"fail": str(why), **rest} if not rest:
            return {"do": "fail", "message": why}
        case {"done": result, **rest} if not rest:
            return {"do": "done", "result": result}
    raise Invalid(
        "this answer does not settle a step in doubt",
        hint=f"Give {CHOICES}. RESULT is what the step would have returned.",
    )
