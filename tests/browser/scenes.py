# /// script
# requires-python = ">=3.11"
# [[tool.torpor.egress]]
# host = "api.example.com"
# methods = ["GET", "POST"]
# paths = ["/v1/orders/**"]
# secret = "EXAMPLE_KEY"
# ask = true
# [[tool.torpor.egress]]
# preset = "github"
# [tool.torpor.budget]
# cost = "2 USD"
# requests = 1000
# ///
"""An agent for each thing that a run's page shows: failures, children, output, files, questions."""

import json
import sys
from pathlib import Path

import torpor

EVIL = "<script>alert('output')</script>"


@torpor.step
def charge(invoice: dict[str, object]) -> str:
    return read_amount(json.dumps(invoice))


def read_amount(text: str) -> str:
    amount = json.loads(text)["amount"]
    if amount is None:
        raise KeyError("amount")
    return f"{amount} EUR"


@torpor.agent
def billing(invoice: str = "2026-118", lines: int = 3) -> str:
    """Charge what an invoice says."""
    torpor.log("reading the invoice", invoice=invoice)
    try:
        return charge({"id": invoice, "amount": None, "lines": lines})
    except KeyError as error:
        raise ValueError(f"invoice {invoice} has no amount: ask the customer for it") from error


@torpor.agent
def leaf(city: str, fail: bool = False, ask: bool = False) -> str:
    """One city of a report."""
    if fail:
        raise LookupError(f"no figures for {city}")
    if ask:
        torpor.approve(f"Are the figures of {city} final?", data={"city": city, "sales": 12_400})
    return f"{city}: fine"


@torpor.agent
def report(cities: str = "Ghent, Lyon, Turin, Porto") -> str:
    """A report with a child run for each city."""
    names = cities.split(", ")
    torpor.log("one run for each city", cities=names)
    made = [
        torpor.spawn("leaf", city=name, fail=name == "Turin", ask=name == "Porto") for name in names
    ]
    said = []
    for each in made:
        try:
            said.append(each.result())
        except torpor.ChildFailed as error:
            said.append(str(error))
    return "\n".join(said)


@torpor.agent
def build(target: str = "wheel") -> str:
    """Print as build tools do: colours, bold, a progress bar."""
    print(f"\x1b[1mBuilding {target}\x1b[0m {EVIL}", flush=True)
    for done in range(0, 101, 5):
        bar = "#" * (done // 5)
        sys.stdout.write(f"\r\x1b[36m{bar:<20}\x1b[0m {done:3} %")
    sys.stdout.write("\n")
    for n in range(1, 9):
        print(f"\x1b[32m  ok\x1b[0m   test_case_{n} \x1b[2m({n * 3} ms)\x1b[0m")
    print("\x1b[1;31mFAILED\x1b[0m test_case_9: \x1b[33m3 != 4\x1b[0m \x1b]0;a title\x07")
    print("\x1b[38;5;208mextended\x1b[0m \x1b[48;2;20;60;20m and true colour \x1b[0m", flush=True)
    print("\x1b[33mwarning:\x1b[0m one test fails", file=sys.stderr, flush=True)
    torpor.log("built", level="warning", target=target)
    return "8 passed, 1 failed"


@torpor.agent
def publish(month: str = "November") -> str:
    """Write files and publish them."""
    Path("totals.csv").write_text("city,sales\nGhent,12\nLyon,17\n")
    torpor.artifact("totals.csv")
    Path("chart.png").write_bytes(bytes.fromhex(_PNG))
    torpor.artifact("chart.png")
    Path("notes.txt").write_text("left behind\n")
    return f"{month} is published"


_PNG = (
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f64540"
    "0000000049454e44ae426082"
)


@torpor.agent
def refund(customer: str = "ana@example.com") -> str:
    """Ask before money goes back."""
    torpor.ask_permission("refund", {"customer": customer, "EUR": 12, "why": EVIL}, reason=EVIL)
    return f"{customer} has her money"


@torpor.agent
def order(dish: str = "lasagne", wait_for: str = "form") -> str:
    """Ask for what a form has, or wait for an event or a time."""
    if wait_for == "event":
        return str(torpor.event("courier.arrived", timeout="2d").result().data)
    if wait_for == "time":
        torpor.sleep("3h")
        return "later"
    schema = {
        "type": "object",
        "properties": {
            "people": {"type": "integer", "minimum": 1, "title": "How many people?"},
            "when": {"type": "string", "format": "date", "title": "Which day?"},
            "table": {"enum": ["inside", "terrace"], "title": "Where?"},
            "note": {"type": "string", "description": "Allergies, a cake, a dog."},
        },
        "required": ["people", "table"],
    }
    menu = {"dish": dish, "menu": [f"{n}. {dish} with {n} cheeses" for n in range(1, 41)]}
    asked = torpor.waitpoint(f"Details for the order of {dish}", data=menu, schema=schema)
    return json.dumps(asked.result().data)
