from __future__ import annotations

import builtins
import traceback
import urllib.error

import pytest

import torpor
from torpor.sdk.errors import StepError, step_error, type_name

EXCEPTIONS = [
    each
    for each in vars(builtins).values()
    if isinstance(each, type) and issubclass(each, Exception)
]


@pytest.mark.parametrize("cls", EXCEPTIONS, ids=lambda cls: str(cls.__name__))
def test_every_builtin_exception_can_be_caught_as_itself(cls: type[Exception]) -> None:
    made = step_error("work", {"type": type_name(cls), "message": "what it said"})
    assert isinstance(made, StepError)
    assert str(made) == "what it said"
    assert (made.step, made.type) == ("work", type_name(cls))
    # A group cannot be made without its members, and MemoryError does not combine.
    if cls not in (ExceptionGroup, MemoryError):
        assert isinstance(made, cls)


def test_an_exception_that_cannot_do_without_its_init_can_be_shown() -> None:
    made = step_error("work", {"type": "urllib.error.HTTPError", "message": "HTTP Error 503"})
    assert isinstance(made, urllib.error.HTTPError)
    assert "HTTP Error 503" in "".join(traceback.format_exception(made))
    with pytest.raises(AttributeError, match="'code': the log has type and message"):
        print(made.code)


@pytest.mark.parametrize(
    "name",
    ["nowhere.Error", "builtins", "int", "KeyboardInterrupt", "", ".", "torpor.sdk", "a" * 999],
)
def test_a_name_without_an_exception_gives_a_plain_step_error(name: str) -> None:
    made = step_error("work", {"type": name, "message": "m"})
    assert type(made) is StepError
    assert made.type == name


def test_cancelled_is_not_caught_with_ordinary_errors() -> None:
    assert not issubclass(torpor.Cancelled, Exception)
