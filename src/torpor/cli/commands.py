"""The commands of `torpor`, by panel of its help: data, so that nothing is loaded to show it.

To add one: write a function in a module of its own or of its kind, with typer's annotations and a
docstring, or a `typer.Typer` with a few; list it here as "module:name", with the first paragraph of
that docstring (a test compares the two); and name it in docs/cli.md (a test looks). A module may
import what its commands need: it is loaded only when one of them is used (`cli.lazy`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torpor.cli.lazy import Listed

COMMANDS: Mapping[str, Sequence[Listed]] = {
    "Agents": (
        Listed(
            "run",
            "agents:run",
            "Run an agent and follow it until it ends. Ctrl-C leaves it running.",
        ),
        Listed(
            "dev",
            "dev:dev",
            "Run an agent while you write it: each save runs at once, as a plain process.",
        ),
        Listed(
            "deploy",
            "agents:deploy",
            "Make an agent's template now, so that its runs can start at once.",
        ),
        Listed("agents", "versions:app", "List, show and retire deployed agents."),
        Listed(
            "egress",
            "egress:app",
            "See what agents may reach, try rules, and list what went out or was refused.",
        ),
    ),
    "Runs": (
        Listed("ps", "ps:ps", "List runs: unfinished ones, and those that ended in the last day."),
        Listed("top", "top:top", "Watch unfinished runs, those at work first. Ctrl-C leaves."),
        Listed("show", "runs:show_run", "Show everything about one run."),
        Listed(
            "logs",
            "logs:logs",
            "Show a run's context log, or what its agent printed.",
        ),
        Listed(
            "attach",
            "attach:command",
            "Follow a run as `torpor run` does: its output, its questions, its end.",
        ),
        Listed(
            "trace",
            "runs:trace",
            "Show a run as a tree: its machines, its operations with their durations, its freezes.",
        ),
        Listed(
            "query",
            "query:query",
            "Query runs and their logs with SQL. The views are in docs/sql.md.",
        ),
        Listed(
            "exec",
            "exec:exec_command",
            "Run a command beside a run's agent: in its machine, its directory, its environment.",
            options_first=True,
        ),
        Listed(
            "shell",
            "exec:shell",
            "Open a shell beside a run's agent: in its machine, its directory, its environment.",
        ),
        Listed("snapshots", "storage:snapshots", "List the snapshots of a run."),
        Listed("cancel", "runs:cancel", "Cancel a run."),
        Listed(
            "delete",
            "deleting:delete",
            "Delete ended runs for good: log, waits, snapshots, keys, files.",
        ),
        Listed("fork", "forks:fork", "Start a new run from any point of RUN's log."),
        Listed(
            "retry",
            "forks:retry",
            "Start a new run that goes on from where RUN failed or was cancelled.",
        ),
        Listed(
            "cp",
            "copying:cp",
            "Copy files out of a run: published ones, or files in its working directory.",
        ),
        Listed(
            "result",
            "storage:result",
            "Print an operation's result, whole: JSON, or the bytes that a step returned.",
        ),
        Listed(
            "upgrade",
            "versions:upgrade",
            "Move a run that sleeps at a wait to another version of its agent.",
        ),
        Listed(
            "export",
            "storage:export",
            "Write a run to one file, from which another torpor can go on.",
        ),
        Listed(
            "import",
            "storage:import_run",
            "Take in a run that another torpor exported. It goes on here.",
        ),
        Listed("schedules", "schedules:app", "Manage schedules, which start agents at set times."),
        Listed(
            "queues",
            "queues:app",
            "Manage queues, where runs wait for a machine, and their limits.",
        ),
    ),
    "Waits": (
        Listed("waits", "waits:waits", "List what runs wait for."),
        Listed("approve", "waits:approve", "Answer an agent's question with yes."),
        Listed("deny", "waits:deny", "Answer an agent's question with no."),
        Listed("complete", "waits:complete", "Answer a wait with data."),
        Listed("send", "events:send", "Send an event to a run that waits for it, or will."),
        Listed(
            "hooks",
            "hooks:hooks",
            "Manage webhooks: messages from other systems, and torpor's own.",
        ),
    ),
    "This host": (
        Listed(
            "setup",
            "host:setup",
            "Install what machines need: Debian packages, the binding of FUSE, the guest image.",
        ),
        Listed("up", "host:up", "Start the server if it is not running."),
        Listed(
            "down",
            "host:down",
            "Stop the server with its machines and processes.",
        ),
        Listed(
            "dashboard",
            "dashboard:dashboard",
            "Print a link that opens the dashboard in a browser of this host.",
        ),
        Listed(
            "doctor",
            "host:doctor",
            "Say what this host can do, which engine will be used, and why.",
        ),
        Listed(
            "mcp",
            "mcp:mcp",
            "Serve runs, waits and SQL as tools of the Model Context Protocol.",
        ),
        Listed(
            "gc",
            "storage:gc",
            "Remove what no run needs any more. The server does this from time to time.",
        ),
        Listed(
            "retention",
            "deleting:retention",
            "Set how long ended runs are kept; by default for ever.",
        ),
        Listed(
            "backup",
            "storage:backup",
            "Copy runs, logs and snapshots to a new directory, while they are in use.",
        ),
        Listed("restore", "storage:restore", "Make a data directory (TORPOR_HOME) from a backup."),
        Listed("keys", "keys:keys", "Manage API keys, for access over TCP."),
        Listed(
            "secrets",
            "secrets:secrets",
            "Manage secrets: sent with agents' requests, never seen by the agents.",
        ),
        Listed("bench", "bench:bench", "Measure torpor on this host."),
    ),
}
