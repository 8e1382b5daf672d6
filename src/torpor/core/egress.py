"""What an agent may reach: `[[tool.torpor.egress]]` and `[tool.torpor.budget]` of its file. Pure,
standard library only: the guest, the broker and the command line judge by the same function.

    [[tool.torpor.egress]]
    preset = "openai"                 # `torpor.core.presets`: hosts, paths, what is recorded
    [[tool.torpor.egress]]
    host = "api.github.com"           # *.x is one label before x, **.x is x and all below it
    methods = ["POST"]                # all, if it says none
    paths = ["/repos/acme/*/issues"]  # * is within a segment, ** any number of them; all, if none
    secret = "GITHUB_TOKEN"           # asked for; what it serves is stored with the secret
    ask = true                        # the run is frozen until a person has decided
    record = true                     # request and answer are an operation's, as model calls are
    [[tool.torpor.egress]]
    host = "api.github.com"
    paths = ["/repos/acme/payroll/**"]
    deny = true                       # whatever the others say
    [[tool.torpor.egress]]
    host = "db.example.com"
    port = 5432
    protocol = "tcp"                  # no secret, no methods, no paths
    [[tool.torpor.egress]]
    host = "old.example.com"
    protocol = "http"                 # port 80; without TLS, so never with a secret

Rules have no order: any that denies wins, then any that asks, then any that allows; what matches
none is denied. What cannot be decided is denied, too: a path that servers read differently, two
secrets for one request.

A rule that denies or asks covers what differs from its paths only in case or by a slash at the end:
a server may not care, and then it would be a way around.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from torpor.core import targets
from torpor.core.errors import Invalid
from torpor.core.hostnames import check_pattern, matches, normalize_host

HTTPS, HTTP, TCP = "https", "http", "tcp"
PORTS = {HTTPS: 443, HTTP: 80}
# The name under which machines reach the deployment's own model (`OPENAI_BASE_URL`): no real host
# has it, and no rule is needed for it.
MODEL_HOST = "model.torpor"
MODEL, RECORDED_HTTP = "model", "http"
ALLOW, ASK, DENY = "allow", "ask", "deny"
UNNAMED = "a secret of the host's"  # what a guest knows of the secret of a rule

RULES_MAX = 200
LIST_MAX = 100
SECRET_CHARS_MAX = 100


@dataclass(frozen=True)
class Rule:
    """What one entry allows, or with `deny` forbids. Empty `methods` and `paths` are all of them;
    so are, in rules of the host, port 0 and protocol "". `record` is the kind of operation that an
    exchange is: "model", "http", or "" for none, and then it is only noted. `origin` is how the
    file has it, for people: `preset openai`, `host api.github.com`."""

    host: str
    port: int = 443
    protocol: str = HTTPS
    methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    secret: str = ""
    ask: bool = False
    record: str = ""
    origin: str = ""
    deny: bool = False

    def to_guest(self) -> dict[str, Any]:
        """Of the secret only that there is one: no machine needs its name. What is as by default is
        left out."""
        given = asdict(self) | {"secret": True if self.secret else ""}
        return {"host": self.host} | {
            each.name: list(value) if isinstance(value, tuple) else value
            for each in fields(self)
            if each.name != "host" and (value := given[each.name]) != each.default
        }

    @classmethod
    def from_guest(cls, given: Mapping[str, Any]) -> Rule:
        """What `to_guest` made."""
        lists = {key: tuple(given[key]) for key in ("methods", "paths") if key in given}
        secret = UNNAMED if given.get("secret") else ""
        return cls(**{**given, **lists, "secret": secret})


@dataclass(frozen=True)
class Budget:
    """Of one run. None is without limit."""

    cost: float | None = None  # US dollars
    tokens: int | None = None
    requests: int | None = None
    bytes_out: int | None = None
    bytes_in: int | None = None
    ask: bool = False  # passing it asks a person; else what passes it is denied


UNLIMITED = Budget()


@dataclass(frozen=True)
class Request:
    """What is judged: a request, or of a TCP connection its host and port alone. The names of
    `headers` are in lower case."""

    scheme: str  # https | http | tcp
    host: str
    port: int
    method: str = ""
    target: str = ""
    headers: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Verdict:
    """`code`, `reason` and `hint` are of a refusal: for programs, for people, and what they can do
    about it. `rule` is the origin of the rule that decided. What is asked for is also recorded."""

    decision: str  # allow | ask | deny
    code: str = ""
    reason: str = ""
    hint: str = ""
    rule: str = ""
    secret: str = ""
    record: str = ""

    @property
    def message(self) -> str:
        return f"{self.reason}. {self.hint}" if self.hint else f"{self.reason}."


def deny(code: str, reason: str, hint: str = "", rule: str = "") -> Verdict:
    return Verdict(DENY, code, reason, hint, rule)


def judge(rules: Iterable[Rule], request: Request, ceilings: Iterable[Rule] = ()) -> Verdict:
    """What an agent's `rules` say of `request`, no more than the host's `ceilings` leave: of these
    only what denies and asks counts. Never raises."""
    try:
        host = normalize_host(request.host, "the host")
    except Invalid as error:
        return deny("bad_host", error.message, error.hint)
    request = replace(request, host=host)
    if fault := _fault(request):
        return fault
    rules, ceilings = list(rules), [rule for rule in ceilings if rule.deny or rule.ask]
    reached = [rule for rule in rules if _reaches(rule, request)]
    if not any(not rule.deny for rule in reached):
        return _unreached(rules, request)
    limiting = [rule for rule in ceilings if _reaches(rule, request)]
    own = [rule for rule in reached if _has_method(rule, request)]
    concerned = [*own, *(rule for rule in limiting if _has_method(rule, request))]
    if request.scheme != TCP and (fault := _undecidable(concerned, (*reached, *limiting), request)):
        return fault
    for rule in concerned:
        if rule.deny and _covers(rule, request):
            what = f"{_shown(request)} is denied by a rule ({rule.origin})"
            return deny("denied", what, rule=rule.origin)
    allowing = [rule for rule in own if not rule.deny and _allows(rule, request)]
    if not allowing:
        return _unallowed(reached, request)
    return _allowed(allowing, [rule for rule in concerned if _covers(rule, request)], request)


def _fault(request: Request) -> Verdict | None:
    """What no rule can allow."""
    if request.scheme not in (HTTPS, HTTP, TCP) or not 0 < request.port < 65536:
        return deny("bad_request", f"{request.scheme}, port {request.port} is nothing to ask for")
    if request.scheme == TCP:
        return None
    if request.method not in targets.METHODS:
        what = f"the method {request.method[:40]!a} is not one that torpor sends"
        return deny("bad_method", what, f"It sends {', '.join(targets.METHODS)}.")
    if fault := targets.target_fault(request.target):
        return deny("bad_target", f"the target {request.target[:80]!a} {fault}")
    return None


def _undecidable(
    concerned: Sequence[Rule], reached: Sequence[Rule], request: Request
) -> Verdict | None:
    """Where what the rules look at is not what the server may act on."""
    names = {name for name, _ in request.headers}
    if any(rule.methods for rule in reached):
        if found := sorted(names & targets.METHOD_OVERRIDES):
            return deny(
                "method_override",
                f"{found[0]} would have the server take another method than {request.method}",
                "Send the method itself, and let a rule allow it.",
            )
        if targets.overrides_method(request.target):
            return deny("method_override", "_method= would have the server take another method")
    if not any(rule.paths for rule in concerned):
        return None
    if found := sorted(names & targets.PATH_OVERRIDES):
        what = f"{found[0]} would have the server take another path than that of the request"
        return deny("path_override", what)
    if problem := targets.ambiguity(request.target):
        return deny(
            "ambiguous_target",
            f"the path of {request.target[:200]!a} {problem}, which servers read differently",
            "Send a plain path; a host whose paths need this can have a rule without paths.",
        )
    return None


def _reaches(rule: Rule, request: Request) -> bool:
    return (
        rule.protocol in ("", request.scheme)
        and rule.port in (0, request.port)
        and matches(rule.host, request.host)
    )


def _has_method(rule: Rule, request: Request) -> bool:
    return not rule.methods or request.method in rule.methods or request.scheme == TCP


def _allows(rule: Rule, request: Request) -> bool:
    if not rule.paths or request.scheme == TCP:
        return True
    path = targets.plain_path(request.target)
    return any(targets.path_matches(pattern, path) for pattern in rule.paths)


def _covers(rule: Rule, request: Request) -> bool:
    """As `_allows`, with what a server may take for the same."""
    if not rule.paths or request.scheme == TCP:
        return True
    path = targets.plain_path(request.target).lower()
    spellings = {path, path.rstrip("/") or "/", f"{path.rstrip('/')}/"}
    return any(
        targets.path_matches(pattern.lower(), spelling)
        for pattern in rule.paths
        for spelling in spellings
    )


def _allowed(allowing: Sequence[Rule], covering: Sequence[Rule], request: Request) -> Verdict:
    secrets = sorted({rule.secret for rule in allowing} - {""})
    if len(secrets) > 1:
        return deny(
            "two_secrets",
            f"rules ask for different secrets for {_shown(request)}: {' and '.join(secrets)}",
            "Narrow the rules' paths or methods, so that one is left.",
        )
    kinds = {rule.record for rule in covering}
    record = next((kind for kind in (MODEL, RECORDED_HTTP) if kind in kinds), "")
    asking = [rule for rule in covering if rule.ask and not rule.deny]
    record = record or (RECORDED_HTTP if asking else "")
    decisive = min(allowing, key=lambda rule: (not rule.secret, not rule.paths, "*" in rule.host))
    return Verdict(
        ASK if asking else ALLOW,
        rule=asking[0].origin if asking else decisive.origin,
        secret=secrets[0] if secrets else "",
        record=record,
    )


def _unreached(rules: Sequence[Rule], request: Request) -> Verdict:
    """No rule is for this host, port and protocol; what comes nearest, in words."""
    host, port, scheme = request.host, request.port, request.scheme
    near = [rule for rule in rules if not rule.deny and matches(rule.host, host)]
    if not near:
        return deny("no_rule", f"no rule allows {host}", _how_to_allow(request))
    origin = near[0].origin
    if scheme == HTTP and any(rule.protocol == HTTPS for rule in near):
        return deny("plain_http", f"{host} is allowed over https only", "Use https://…", origin)
    protocols = sorted({rule.protocol for rule in near})
    if scheme not in protocols:
        what = f"{host} is allowed over {' and '.join(protocols)}, not over {scheme}"
        return deny("protocol", what, "", origin)
    ports = sorted({rule.port for rule in near if rule.protocol == scheme})
    what = f"port {port} of {host} is not allowed, only {' and '.join(map(str, ports))}"
    return deny("port", what, f"A rule with port = {port} would allow it.", origin)


def _how_to_allow(request: Request) -> str:
    """The rule that is missing, as it would stand in a file."""
    host, port, scheme = request.host, request.port, request.scheme
    if host == "localhost":
        return (
            "localhost is the machine itself. A service of the host that runs torpor gets a name "
            "such as ollama.internal, with [[host]] in egress.toml there."
        )
    rule = f'host = "{host}"'
    rule += f', protocol = "{scheme}"' * (scheme != HTTPS)
    rule += f", port = {port}" * (port != PORTS.get(scheme))
    return to_add(rule)


def to_add(entry: str) -> str:
    """What to do where an entry is missing."""
    return f"Add [[tool.torpor.egress]] {entry} to the agent's file, and deploy it."


def _unallowed(reached: Sequence[Rule], request: Request) -> Verdict:
    """Rules are for this host, and none for this method or this path."""
    near = [rule for rule in reached if not rule.deny]
    by_method = [rule for rule in near if _has_method(rule, request)]
    if not by_method:
        methods = sorted({method for rule in near for method in rule.methods})
        what = f"{request.host} is allowed for {', '.join(methods)}, not for {request.method}"
        hint = f'Add "{request.method}" to the methods of a rule.'
        return deny("method", what, hint, near[0].origin)
    path = targets.path_of(request.target)
    paths = [path for rule in by_method for path in rule.paths]
    listed = ", ".join(paths[:5]) + (", …" if len(paths) > 5 else "")
    what = f"{request.method} {path[:200]} of {request.host} is not allowed, only {listed}"
    return deny("path", what, "Add the path to a rule.", by_method[0].origin)


def _shown(request: Request) -> str:
    if request.scheme == TCP:
        return f"port {request.port} of {request.host}"
    return f"{request.method} {request.host}{targets.path_of(request.target)[:200]}"


def parse_request(method: str, url: str) -> Request:
    """A request as people write it: https://…, http://…, a WebSocket's wss://…, or
    tcp://HOST:PORT. Raises Invalid."""
    # Not for the guest, which has no URLs.
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Invalid(f"{url[:200]!a} is not a URL: {error}") from error
    scheme = {"wss": HTTPS, "ws": HTTP}.get(parts.scheme, parts.scheme)
    if scheme not in (HTTPS, HTTP, TCP) or not parts.hostname:
        raise Invalid(
            f"{url[:200]!a} is not a URL that an agent could ask for",
            hint="A URL begins with https://, http:// or tcp://, and names a host.",
        )
    if parts.username is not None:
        raise Invalid(f"{url[:200]!a} has a user in it", hint="Give the URL without it.")
    if scheme == TCP:
        if port is None or parts.path.strip("/") or parts.query:
            raise Invalid(f"{url[:200]!a} is not tcp://HOST:PORT")
        return Request(TCP, parts.hostname, port)
    query = f"?{parts.query}" if parts.query else ""
    target = f"{parts.path or '/'}{query}"
    return Request(scheme, parts.hostname, port or PORTS[scheme], method.upper(), target)


# Reading what a file says.


def parse_egress(given: Any, what: str) -> tuple[Rule, ...]:
    """The rules that a file's entries say, presets expanded. Raises Invalid, whose message begins
    with `what`."""
    if not isinstance(given, list) or len(given) > RULES_MAX:
        raise Invalid(
            f"{what} must be a list of at most {RULES_MAX} tables",
            hint='Write each as [[tool.torpor.egress]] with host = "…" or preset = "…" below.',
        )
    rules = [rule for n, entry in enumerate(given) for rule in _entry(entry, f"{what}[{n}]")]
    if len(rules) > RULES_MAX * 5:
        raise Invalid(f"{what} has {len(rules)} rules; the limit is {RULES_MAX * 5}")
    return tuple(dict.fromkeys(rules))


def _entry(given: Any, what: str) -> Iterable[Rule]:
    if not isinstance(given, Mapping):
        raise Invalid(f"{what} must be a table")
    if "preset" in given:
        # Not for the guest, which has no table of presets.
        from torpor.core.presets import expand

        return expand(given, what)
    return [parse_rule(given, what)]


KEYS = (
    *("host", "port", "protocol", "methods", "paths"),
    *("secret", "ask", "record", "deny"),
)


def check_keys(given: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    """Raises Invalid for a key that is not `known`."""
    if unknown := sorted(ascii(str(key)[:40]) for key in given if key not in known):
        raise Invalid(
            f"{what} does not know {', '.join(unknown)}", hint=f"It knows {', '.join(known)}."
        )


def parse_rule(given: Mapping[str, Any], what: str, *, limiting: bool = False) -> Rule:
    """An entry without a preset. `limiting` ones of the host allow nothing; like those that deny,
    they are for all ports and protocols unless they name some. Raises Invalid."""
    check_keys(given, ("preset", *KEYS), what)
    if "host" not in given:
        raise Invalid(f"{what} names no host", hint='Add host = "…", or preset = "…".')
    denying = flag(given, "deny", what)
    limiting = limiting or denying
    host = check_pattern(_text(given, "host", what), f"{what}.host", every=limiting)
    protocol = _text(given, "protocol", what, "any" if limiting else HTTPS)
    if protocol not in (HTTPS, HTTP, TCP) and "protocol" in given:
        raise Invalid(f"{what}.protocol: {protocol[:40]!a} is not https, http or tcp")
    protocol = protocol if protocol != "any" else ""
    rule = Rule(
        host=host,
        port=parse_port(given, what, 0 if limiting else PORTS.get(protocol)),
        protocol=protocol,
        methods=parse_methods(given, what),
        paths=parse_paths(given, what),
        secret=parse_secret(given.get("secret", ""), what),
        ask=flag(given, "ask", what),
        record=RECORDED_HTTP if flag(given, "record", what) else "",
        origin=f"host {host}",
        deny=denying,
    )
    _check_together(rule, given, what)
    return rule


def _check_together(rule: Rule, given: Mapping[str, Any], what: str) -> None:
    if rule.protocol == TCP:
        found = [k for k in ("secret", "methods", "paths", "ask", "record") if given.get(k)]
        if found:
            raise Invalid(
                f"{what}: a tcp rule cannot have {' or '.join(found)}",
                hint="What goes over such a connection is not looked at. Use https where it is "
                "HTTP.",
            )
    if rule.protocol == HTTP and rule.secret:
        raise Invalid(
            f"{what}: a secret is not sent over plain http",
            hint="Use https; a certificate of one's own can be trusted with ca in egress.toml.",
        )
    if rule.deny and (found := [k for k in ("secret", "ask", "record") if given.get(k)]):
        raise Invalid(f"{what}: a rule that denies cannot have {' or '.join(found)}")


def parse_port(given: Mapping[str, Any], what: str, default: int | None) -> int:
    if "port" not in given:
        if default is None:
            raise Invalid(f"{what}: a tcp rule needs a port", hint="Such as port = 5432.")
        return default
    port = given["port"]
    if type(port) is not int or not 0 < port < 65536:
        raise Invalid(f"{what}.port must be a whole number from 1 to 65535")
    return port


def parse_methods(given: Mapping[str, Any], what: str) -> tuple[str, ...]:
    listed = _texts(given, "methods", what)
    return tuple(dict.fromkeys(targets.check_method(m, f"{what}.methods") for m in listed))


def parse_paths(given: Mapping[str, Any], what: str) -> tuple[str, ...]:
    listed = _texts(given, "paths", what)
    return tuple(dict.fromkeys(targets.check_path(path, f"{what}.paths") for path in listed))


def parse_secret(value: Any, what: str) -> str:
    """The name of a secret, or "". Raises Invalid."""
    if value == "":
        return ""
    good = isinstance(value, str) and len(value) <= SECRET_CHARS_MAX and value.isascii()
    if not good or not value.replace("-", "_").isidentifier():
        raise Invalid(
            f"{what}.secret must be the name of a secret: letters, digits, _ and -",
            hint="Its value is given to the host: torpor secrets set NAME --host HOST",
        )
    return str(value)


def flag(given: Mapping[str, Any], key: str, what: str) -> bool:
    value = given.get(key, False)
    if not isinstance(value, bool):
        raise Invalid(f"{what}.{key} must be true or false")
    return value


def _text(given: Mapping[str, Any], key: str, what: str, default: str = "") -> str:
    value = given.get(key, default)
    if not isinstance(value, str) or not value:
        raise Invalid(f"{what}.{key} must be a text")
    return value


def _texts(given: Mapping[str, Any], key: str, what: str) -> list[str]:
    if key not in given:
        return []
    value = given[key]
    good = isinstance(value, list) and all(isinstance(each, str) for each in value)
    if not good or not 0 < len(value) <= LIST_MAX:
        # An empty list would read as nothing, and mean all.
        raise Invalid(
            f"{what}.{key} must be a list of 1 to {LIST_MAX} texts",
            hint=f"Leave {key} out to allow all.",
        )
    return list(value)


def parse_budget(given: Any, what: str) -> Budget:
    """`[tool.torpor.budget]`. Raises Invalid, whose message begins with `what`."""
    # Not for the guest, which has no budgets.
    from torpor.core.amounts import KINDS, parse_amount

    if not isinstance(given, Mapping):
        raise Invalid(f"{what} must be a table")
    check_keys(given, (*KINDS, "ask"), what)
    read = {key: parse_amount(key, given[key], f"{what}.{key}") for key in KINDS if key in given}
    return Budget(**read, ask=flag(given, "ask", what))
