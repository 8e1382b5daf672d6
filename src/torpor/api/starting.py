"""What a request to start a run says."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from torpor.core.starting import DELAY_S_MAX, PRIORITY_MAX, Start
from torpor.web.shapes import EngineName, Env, ShortText, Strict, Text, sound


class StartRequest(Strict):
    version: ShortText | None = Field(
        default=None, description="by default the current one of the agent"
    )
    agent: ShortText | None = Field(
        default=None,
        description="of the version; without one NAME, NAME:AGENT, or AGENT if one has it, and "
        "for NAME also where it is from, or the end of that",
    )
    engine: EngineName | None = Field(
        default=None,
        description="of an agent by name: by default what its file says, else the server's",
    )
    input: Annotated[dict[str, Any], AfterValidator(sound)] = Field(default={})
    files: dict[Text, ShortText] = Field(
        default={},
        description="what the agent finds in its working directory: path → digest of an upload",
    )
    id_key: ShortText | None = Field(
        default=None, description="the same key twice gives the same run, started once"
    )
    id_key_for_s: float | None = Field(
        default=None, gt=0, le=DELAY_S_MAX, description="after that the key may make another run"
    )
    queue: ShortText | None = Field(default=None, description="by default what the agent says")
    key: ShortText | None = Field(default=None, description="for the queue's limit per key")
    priority: int = Field(default=0, ge=-PRIORITY_MAX, le=PRIORITY_MAX)
    delay_s: float = Field(default=0.0, ge=0, le=DELAY_S_MAX)
    expires_s: float | None = Field(
        default=None, ge=0, le=DELAY_S_MAX, description="not started by then: cancelled"
    )

    env: Env = Field(
        default={}, description="environment variables of the run; no place for secrets"
    )

    @model_validator(mode="after")
    def _named(self) -> StartRequest:
        if self.version is None and self.agent is None:
            raise ValueError("neither an agent nor a version is named")
        return self

    def start(self) -> Start:
        """Raises Invalid."""
        start = Start(
            self.queue,
            self.key,
            self.priority,
            self.delay_s,
            self.expires_s,
            self.id_key_for_s,
            self.env,
        )
        return start.check()
