"""torpor: durable AI agents that sleep for free.

On the host this package is the server, the engines and the command line. Inside a machine the
same name offers what agents import (`torpor.agent`, `torpor.step`, ...): those names live in
`torpor.sdk` and are reached through here, so that an agent is an ordinary program that says
`import torpor`. `torpor.testing` runs agents in tests.

sdk          what agents import
testing      agents in tests, and fakes of torpor's own parts
cli          the command line
terminal     what the command line and the benches print
client       how programs speak to the server
project      an agent's files where its author has them
api          HTTP: requests become calls of the service; the server's process
web          what the API, the dashboard, the public pages and the command line share
dashboard    pages for people who operate runs
public       pages for people who answer a wait by its link
service      the surface of a deployment: what can be asked of it, and the shapes of replies
control      the deployment: what can be asked for, which runs get a machine, what is kept
worker       what one host does for runs: drivers, and what carries their agents
machines     one host's machines: start, restore, warm, capture, discard
engine       what runs a machine or a process: the contract, and each engine
egress       the broker: the only way out, and the only holder of secrets
contextlog   the rules of runs and their logs, as functions over a database connection
logstore     where runs and their logs are stored
query        SQL over runs and logs, read-only
snapshot     pages, layers, manifests
blobs        immutable bytes by name
pager        memory and disks of snapshots, served lazily over FUSE
image        kernel, root file system, dependencies
guest        the supervisor inside a machine
wire         what travels between a machine and its host
replay       recorded history, matched to what an agent asks for again
policy       pure decisions
core         the nouns: ids, states, errors, limits, agent files
setup        what a host needs before it can run machines
bench        measurements of torpor on its host
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # what editors and type checkers see: the names of `torpor.sdk.__all__`
    from torpor import sdk
    from torpor.sdk import *  # noqa: F403

    __all__: list[str] = []
    __all__ += sdk.__all__
else:  # the same names, late: host processes do not load the SDK, nor agents anything else

    def __getattr__(name: str) -> Any:
        # `from torpor import sdk` would ask this very function for `sdk`; so would any module's.
        if not name.startswith("_") or name == "__all__":
            import torpor.sdk as sdk

            if name == "__all__" or name in sdk.__all__:
                return getattr(sdk, name)
        raise AttributeError(f"module 'torpor' has no attribute {name!r}")

    def __dir__() -> list[str]:
        import torpor.sdk as sdk

        return sorted({*globals(), *sdk.__all__})
