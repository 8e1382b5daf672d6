"""A wait as a question in the terminal: keys in, an answer out. No I/O.

An approval takes one key: y, n, e (write a note, then y or n), d; a permission r, too: yes, for all
of the run. A wait whose schema asks for
fields takes a line for each; any other takes one line, JSON or text. What the agent wrote is shown
without control characters and without markup, so that it cannot pose as the question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from torpor.cli.filling import Filling
from torpor.core import jsonvalues, permissions, schemas
from torpor.core.errors import Invalid
from torpor.web import forms
from torpor.web.words import decision as decision_words
from torpor.web.words import line, plain, shown
from torpor.web.words import question as question_of

_ENTER, _ERASE = "\r\n", "\x7f\x08"
_CLEAR_LINE, _END, _ESCAPE = "\x15", "\x04", "\x1b"
_DATA_LINES = 30


@dataclass(frozen=True)
class Answer:
    data: Any = None
    approved: bool | None = None
    note: str | None = None


@dataclass(frozen=True)
class Detach:
    """Leave the question, and the run, as they are."""


class _Mode(Enum):
    CHOOSE = "choose"
    NOTE = "note"
    VALUE = "value"
    FIELD = "field"


class Question:
    def __init__(self, wait: Mapping[str, Any], others: int = 0) -> None:
        self.wait = wait
        self.problem = ""  # why the last answer was not taken
        self._others = others
        self._filling = _filling(wait)
        self._mode = _Mode.CHOOSE if wait["approve"] else _Mode.VALUE
        self._permission = wait.get("kind") == permissions.KIND
        if self._filling is not None:
            self._mode = _Mode.FIELD
        self._typed = ""
        self._note = ""

    def key(self, key: str) -> Answer | Detach | None:
        """Take one character. Gives what it decides, mostly nothing yet."""
        if key == _END:
            return Detach()
        if self._mode is _Mode.CHOOSE:
            return self._choose(key.lower())
        if key in _ENTER:
            return self._enter()
        if key in _ERASE:
            self._typed = self._typed[:-1]
        elif key == _CLEAR_LINE:
            self._typed = ""
        elif key == _ESCAPE:
            self._leave_line()
        elif key.isprintable():
            self._typed += key
        return None

    def _choose(self, key: str) -> Answer | Detach | None:
        if key in ("y", "n"):
            return Answer(approved=key == "y", note=self._note or None)
        if key == "r" and self._permission:
            return Answer({"decision": permissions.RUN}, True, self._note or None)
        if key == "e":
            self._mode, self._typed = _Mode.NOTE, self._note
        return Detach() if key == "d" else None

    def _enter(self) -> Answer | None:
        if self._mode is _Mode.NOTE:
            self._note = self._typed.strip()
            self._leave_line()
            return None
        if self._filling is not None:
            return self._fill(self._filling)
        if not self._typed.strip():
            self.problem = "Type an answer first (null for none)."
            return None
        try:
            return Answer(data=as_value(self._typed.strip()))
        except Invalid as error:
            self.problem = error.message
            return None

    def _fill(self, filling: Filling) -> Answer | None:
        self.problem = filling.take(self._typed) or ""
        if self.problem:
            return None
        self._typed = ""
        if not filling.done:
            return None
        value, self.problem = filling.answer()
        return None if self.problem else Answer(data=value)

    def _leave_line(self) -> None:
        if self._filling is not None and not self._typed:
            self._filling.go_back()
        self._typed = ""
        if self._mode is _Mode.NOTE:
            self._mode = _Mode.CHOOSE

    def __rich__(self) -> RenderableType:
        prompt = plain(self.wait["prompt"] or question_of(self.wait))
        parts: list[RenderableType] = [Text.assemble(("? ", "bold yellow"), (prompt, "bold"))]
        if self.wait["data"] is not None:
            lines = plain(shown(self.wait["data"])).splitlines()
            if more := lines[_DATA_LINES:]:
                lines[_DATA_LINES:] = [f"… {len(more)} more lines: torpor show {self.wait['run']}"]
            parts.append(Padding(Text("\n".join(lines)), (0, 0, 0, 2)))
        if self._note and self._mode is _Mode.CHOOSE:
            parts.append(Text(f"  note: {self._note}", style="dim"))
        if self._filling is not None:
            parts += [Text(f"  {plain(each)}", style="dim") for each in self._filling.filled]
        if self.problem:
            parts.append(Text(f"  {plain(self.problem)}", style="red"))
        if self._filling is not None:
            parts.append(_typing(plain(self._filling.label))(self._typed))
            parts.append(Text("  (Enter goes on, Esc goes back, Ctrl-D detaches)", style="dim"))
        else:
            choosing = self._permission and self._mode is _Mode.CHOOSE
            parts.append(Text(_CHOICES) if choosing else _PROMPTS[self._mode](self._typed))
        if self._others:
            parts.append(Text(f"  ({self._others} more waiting)", style="dim"))
        return Group(*parts)


def _filling(wait: Mapping[str, Any]) -> Filling | None:
    """The form of a wait whose schema asks for fields."""
    form = forms.form(wait["schema"])
    return None if wait["approve"] or form.kind == "json" else Filling(form)


def _typing(label: str) -> Callable[[str], Text]:
    return lambda typed: Text.assemble(f"  {label}: ", (typed, "cyan"), ("▏", "cyan"))


_CHOICES = "  allow once: [y]es / for this [r]un / [n]o / [e]dit the reason / [d]etach "
_PROMPTS: dict[_Mode, Callable[[str], Text]] = {
    _Mode.CHOOSE: lambda _: Text("  [y]es / [n]o / [e]dit a note / [d]etach "),
    _Mode.NOTE: _typing("note (Enter keeps it, Esc drops it)"),
    _Mode.VALUE: _typing("answer, JSON or text (Ctrl-D detaches)"),
}


def as_value(text: str) -> Any:
    """JSON if it is valid JSON, else the text itself. Raises Invalid for JSON that is not taken."""
    try:
        return schemas.from_text(text, None, None)
    except jsonvalues.Refused as error:
        raise Invalid(f"{line(text, 40)} {error}") from error


def outcome_words(wait: Mapping[str, Any]) -> str:
    """How a wait ended, for somebody who watched it: `approved by ana: looks fine`."""
    value = wait["value"] if isinstance(wait["value"], dict) else {}
    match wait["state"], value.get("approved"):
        case "completed", True:
            how = decision_words(value) or "approved"
        case "completed", False:
            how = "denied"
        case "completed", _:
            how = "answered"
        case "timeout", _:
            how = "timed out"
        case _:
            how = str(wait["state"])
    by = f" by {plain(wait['by'])}" if wait["by"] else ""
    note = f": {line(value['note'])}" if value.get("note") else ""
    return f"{how}{by}{note}"
