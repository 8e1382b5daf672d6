from __future__ import annotations

from typing import Any

import pytest

from torpor.core.doubts import settled
from torpor.core.errors import Invalid


@pytest.mark.parametrize(
    ("answer", "given"),
    [
        ("again", {"do": "again"}),
        ({"done": None}, {"do": "done", "result": None}),
        ({"done": {"fail": "x"}}, {"do": "done", "result": {"fail": "x"}}),
        ({"fail": "no trace"}, {"do": "fail", "message": "no trace"}),
    ],
)
def test_what_a_person_may_say(answer: Any, given: Any) -> None:
    assert settled(answer) == given
    assert settled("fail")["do"] == "fail"


@pytest.mark.parametrize("answer", [None, True, "done", "no", {}, {"fail": 1}, {"done": 1, "x": 2}])
def test_what_settles_nothing_is_refused_with_the_choices(answer: Any) -> None:
    with pytest.raises(Invalid) as caught:
        settled(answer)
    assert '"again"' in caught.value.hint
