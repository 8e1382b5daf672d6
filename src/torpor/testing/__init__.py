"""Agents in tests: run one in this process, with scripted answers and a clock that skips.

    from torpor.testing import TIMEOUT, Answer, run

    def test_it():
        outcome = run(order, {"sku": "tea"}, answers={"approve": True, "event:paid": 120})
        assert outcome.result == "sent"
        outcome.replay_all()  # is it safe to crash anywhere?

It is the agent's own runtime and the journal of every replay (`torpor.sdk`, `torpor.replay`); only
the host is played. No server, no machine, no network, no waiting.

running   `run`: an agent, from its input to its outcome
host      the host's side of the conversation: answers, time, children
script    what `answers` gives, and to which operation
models    what `models` says to model calls
apis      that as answers of the APIs that are called
clock     the time, which stands still and skips
playing   the agent's runtime, as it is here
log       what the run has done, as far as replays need it
outcome   what came of it, and its replays
fakes     fakes of torpor's own parts; loads the control plane, which the others do not
"""

from torpor.testing.apis import ToolCall
from torpor.testing.outcome import LogLine, Op, Outcome
from torpor.testing.running import run
from torpor.testing.script import TIMEOUT, Answer, ModelRequest, Unanswered, Unused, Wait

__all__ = [
    "TIMEOUT",
    "Answer",
    "LogLine",
    "ModelRequest",
    "Op",
    "Outcome",
    "ToolCall",
    "Unanswered",
    "Unused",
    "Wait",
    "run",
]
