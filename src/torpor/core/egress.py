"""What an agent may reach: `[[tool.torpor.egress]]` and `[tool.torpor.budget]` of its file. Pure,
standard library only: the guest, the broker and the command line judge by the same table.

    [[tool.torpor.egress]]
    preset = "openai"                 # `torpor.core.presets`: hosts, paths, what is recorded
    [[tool.torpor.egress]]
    host = "api.github.com"           # *.x is one label before x, **.x any number of them
    methods = ["POST"]                # all, if it says none
    paths = ["/repos/acme/*/issues"]  # * is within a segment, ** any number of them; all, if none
    secret = "GITHUB_TOKEN"           # asked for; what it serves is stored with the secret
    ask = true                        # the run is frozen until a person has decided
    record = true                     # request and answer are an operation's, as model calls are
    [[tool.torpor.egress]]
    host = "db.example.com"
    port = 5432
    protocol = "tcp"                  # no secret, no paths

Rules have no order: any that denies wins, then any that asks, then any that allows; what matches
none is denied. What cannot be decided is denied, too.
"""

from __future__ import annotations

from dataclasses import dataclass

HTTPS, HTTP, TCP = "https", "http", "tcp"
PORTS = {HTTPS: 443, HTTP: 80}
# The name under which machines reach the deployment's own model (`OPENAI_BASE_URL`): no real host
# has it, and no rule is needed for it.
MODEL_HOST = "model.torpor"
MODEL, RECORDED_HTTP = "model", "http"


@dataclass(frozen=True)
class Rule:
    """What one entry allows. Empty `methods` and `paths` are all of them. `record` is the kind of
    operation that an exchange is: "model", "http", or "" for none, and then it is only noted.
    `origin` is how the file has it, for people: `preset openai`, `host api.github.com`."""

    host: str
    port: int = 443
    protocol: str = HTTPS
    methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    secret: str = ""
    ask: bool = False
    record: str = ""
    origin: str = ""


@dataclass(frozen=True)
class Budget:
    """Of one run. None is without limit."""

    cost: float | None = None  # US dollars
    tokens: int | None = None
    requests: int | None = None
    bytes_out: int | None = None
    bytes_in: int | None = None
    ask: bool = False  # passing it asks a person; else what passes it is denied


@dataclass(frozen=True)
class Request:
    """What is judged: a request, or of a TCP connection its host and port alone."""

    scheme: str  # https | http | tcp
    host: str
    port: int
    method: str = ""
    target: str = ""
