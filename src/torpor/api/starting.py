"""What a request to start a run says."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from torpor.core.starting import DELAY_S_MAX, PRIORITY_MAX, Start
from torpor.web.shapes import EngineName, Env, ShortText, Strict, Text, sound


class StartRequest(Strict):
    version: ShortText | None = Field(
        default=None, description="by default the agent's current version"
    )
    agent: ShortText | None = Field(
        default=None,
        description="an agent of the version. Without a version: NAME, NAME:AGENT, or AGENT if "
        "only one file has it. NAME may also be where the file comes from, or the "
        "end of that",
    )
    engine: EngineName | None = Field(
        default=None,
        description="for an agent by name: by default what its file says, or else the server's",
    )
    input: Annotated[dict[str, Any], AfterValidator(sound)] = Field(default={})
    files: dict[Text, ShortText] = Field(
        default={},
        description="files for the agent's working directory: path → digest of an upload",
    )
    id_key: ShortText | None = Field(
        default=None, description="idempotency key: the same key again is the same run"
    )
    id_key_for_s: float | None = Field(
        default=None,
        gt=0,
        le=DELAY_S_MAX,
        description="after this time the key may start another run",
    )
    queue: ShortText | None = Field(default=None, description="by default the agent's own")
    key: ShortText | None = Field(default=None, description="counts for the queue's limit per key")
    priority: int = Field(default=0, ge=-PRIORITY_MAX, le=PRIORITY_MAX)
    delay_s: float = Field(default=0.0, ge=0, le=DELAY_S_MAX)
    expires_s: float | None = Field(
        default=None,
        ge=0,
        le=DELAY_S_MAX,
        description="cancel the run if it has not started by then",
    )

    env: Env = Field(default={}, description="environment variables of the run; not for secrets")

    @model_validator(mode="after")
    def _named(self) -> StartRequest:
        if self.version is None and self.agent is None:
            raise ValueError("name an agent or a version")
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
