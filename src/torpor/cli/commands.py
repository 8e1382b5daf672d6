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
            "Run an agent, and follow it until it ends. Ctrl-C leaves it running.",
        ),
        Listed(
            "dev",
            "dev:dev",
            "Run an agent while you write it: each save is run at once, as a plain process.",
        ),
        Listed(
            "deploy",
            "agents:deploy",
            "Make an agent's template now, so that its runs start from it at once.",
        ),
        Listed("agents", "versions:app", "The agents that are deployed."),
    ),
    "Runs": (
        Listed("ps", "ps:ps", "Runs: the unfinished, and those that ended in the last day."),
        Listed("top", "top:top", "Unfinished runs, live: at work first. Ctrl-C leaves it."),
        Listed("show", "runs:show_run", "All about one run."),
        Listed(
            "logs",
            "logs:logs",
            "A run's context log, or what its agent printed.",
        ),
        Listed(
            "attach",
            "attach:command",
            "Follow a run as `torpor run` does: its output, what it asks, its end.",
        ),
        Listed(
            "trace",
            "runs:trace",
            "A run as a tree: its machines, its operations and how long they took, its freezes.",
        ),
        Listed(
            "query",
            "query:query",
            "Ask runs and their logs by SQL. What there is to be asked: docs/sql.md.",
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
            "A shell beside a run's agent: in its machine, its directory, its environment.",
        ),
        Listed("snapshots", "storage:snapshots", "The snapshots of a run."),
        Listed("cancel", "runs:cancel", "End a run."),
        Listed(
            "delete",
            "deleting:delete",
            "Delete ended runs for good: log, waits, snapshots, keys, files.",
        ),
        Listed("fork", "forks:fork", "Make a run that begins as RUN was at some place of its log."),
        Listed(
            "retry",
            "forks:retry",
            "Make a run that goes on from where RUN failed or was cancelled.",
        ),
        Listed(
            "cp",
            "copying:cp",
            "Copy files of a run: what it has published, or what is in its working directory.",
        ),
        Listed(
            "result",
            "storage:result",
            "What an operation of a run gave, whole: JSON, or the bytes that a step returned.",
        ),
        Listed(
            "upgrade",
            "versions:upgrade",
            "Move a run that sleeps at a wait to another version of its agent.",
        ),
        Listed(
            "export",
            "storage:export",
            "Write a run into one file, to go on from it on another torpor.",
        ),
        Listed(
            "import",
            "storage:import_run",
            "Take in a run that another torpor exported; it goes on here.",
        ),
        Listed("schedules", "schedules:app", "Runs that are started at times."),
        Listed("queues", "queues:app", "Where runs wait for a machine, and their limits."),
    ),
    "Waits": (
        Listed("waits", "waits:waits", "What runs wait for."),
        Listed("approve", "waits:approve", "Say yes to what an agent asks."),
        Listed("deny", "waits:deny", "Say no to what an agent asks."),
        Listed("complete", "waits:complete", "Answer a wait with data."),
        Listed("send", "events:send", "Send a run an event that it waits for, or will."),
        Listed("hooks", "hooks:hooks", "Webhooks: messages from others, and ours."),
    ),
    "This host": (
        Listed(
            "setup",
            "host:setup",
            "Bring what machines need to this host: Debian packages, the binding of FUSE, "
            "the guest image.",
        ),
        Listed("up", "host:up", "Start the server, if it does not run."),
        Listed(
            "down",
            "host:down",
            "Stop the server, its machines and processes.",
        ),
        Listed(
            "dashboard",
            "dashboard:dashboard",
            "Print a link that opens the dashboard in a browser of this host.",
        ),
        Listed(
            "doctor",
            "host:doctor",
            "What this host can do, and which engine will be used, and why.",
        ),
        Listed(
            "mcp",
            "mcp:mcp",
            "Serve runs, waits and SQL as tools of the Model Context Protocol.",
        ),
        Listed(
            "gc",
            "storage:gc",
            "Remove what no run needs any more. The server does it by itself now and then.",
        ),
        Listed(
            "retention",
            "deleting:retention",
            "How long ended runs are kept; by default for ever.",
        ),
        Listed(
            "backup",
            "storage:backup",
            "Copy all that there is to a new directory, while it is in use.",
        ),
        Listed("restore", "storage:restore", "Make a data directory (TORPOR_HOME) of a backup."),
        Listed("keys", "keys:keys", "Keys for the API, where it is reached by TCP."),
        Listed("bench", "bench:bench", "Measure torpor on this host."),
    ),
}
