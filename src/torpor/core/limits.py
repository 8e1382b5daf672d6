"""How long a server waits, how often it tries again, how much it takes on: each limit once.

What a user meets when giving something (sizes, lengths, counts) is with the thing it limits, and in
docs/limits.md. Here is what the server allows itself and its machines. `ServerLimits` is passed to
whatever waits, so that a test gives other values.
"""

from __future__ import annotations

from dataclasses import dataclass

# A template's machine has this long to hold its agent still, before it is frozen.
PREPARE_LIMIT_S = 30.0
# A name in a run's log: of an operation, an event, an artifact.
NAME_MAX = 256
# What an agent prints is read ahead so far, and no further.
PIPE_BYTES_MAX = 1 << 20
# The fields of a form that a browser sends, anybody's included.
POSTED_FIELDS_MAX = 1000
# SQL that is kept: in a query that was saved, or in a console's address.
KEPT_SQL_CHARS_MAX = 20_000
# The most that a database holds, and SQL can speak of.
SQL_INT_MAX = 2**63 - 1
# A stream that says nothing is given a sign of life this often; who hears none for a while, in
# which some may be lost, takes the other side for gone.
HEARTBEAT_S = 15.0
SILENCE_S = 40.0
# A listener that closes lets requests in flight take this long.
DRAIN_S = 2
# An identity key: of a run, or of a child that a run spawns.
ID_KEY_MAX = 256


@dataclass(frozen=True)
class ServerLimits:
    """Seconds, unless a name says otherwise."""

    # A run that is cancelled has this long to clean up, and whoever asked for it waits this long.
    cancel_grace_s: float = 10.0
    cancel_wait_s: float = 15.0
    # Machines lost in a row, none of which got anything durable done.
    losses_max: int = 3

    # A run's lease is this long, and renewed this often: several tries fit in.
    lease_s: float = 30.0
    renew_s: float = 5.0

    # Freezing. After one that failed, the run goes on awake for a while before the next try.
    prepare_s: float = 15.0
    template_prepare_s: float = PREPARE_LIMIT_S
    freeze_retry_s: float = 15.0
    # A server that stops gives its machines and their model calls this long.
    hand_over_s: float = 30.0
    hand_over_retry_s: float = 1.0

    # A host that cannot is tried again: for one machine with growing pauses, then given up;
    # what only waits for the log or the disk, for ever.
    host_retry_s: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0, 30.0)
    full_disk_retry_s: float = 10.0
    full_disk_write_retry_s: float = 1.0
    pager_retry_s: float = 1.0

    # Everything is pushed by events; this finds what an event that never came would have told.
    safety_net_s: float = 30.0
    # Timers of one moment end so many waits in one write, not to keep the others from writing.
    due_at_once: int = 100

    # Spares and directories that nobody uses are looked for this often.
    idle_look_s: float = 60.0
    sweep_s: float = 300.0
    # The files of a run without a machine stay this long after its end: somebody may want to see
    # what it made. Its compiled code, since its last use.
    directory_kept_s: float = 3600.0
    compiled_kept_s: float = 7 * 86400.0

    # A template's machine.
    boot_s: float = 180.0
    # What comes before an agent's own, imported ahead in a process. The agent's import has a limit
    # of its own; what takes longer is left to that.
    ahead_s: float = 120.0
    # Importing ahead what takes less is not worth a base: to freeze and store it takes as long.
    base_worth_s: float = 1.0
    # Below this, a time that a run only waited is not worth a write of its own.
    rest_worth_s: float = 1.0

    # Garbage. What was put later than this before a collection is left alone: far more than a
    # snapshot needs from its first byte on the disk to its record. Runs that end together are
    # cleaned up after together, and one collection an hour is made at least.
    garbage_young_s: float = 600.0
    collect_after_end_s: float = 60.0
    collect_every_s: float = 3600.0
    # Runs that the host's retention deletes: so many before others get their turn.
    retention_look_s: float = 600.0
    deleted_at_once: int = 50

    # Webhooks: after an attempt that failed, as Standard Webhooks recommends; about a day in all.
    webhook_retry_s: tuple[float, ...] = (
        *(5.0, 30.0, 300.0, 1800.0),
        *(7200.0, 18000.0, 36000.0, 50400.0),
    )
    webhook_jitter: float = 0.2  # of it, to both sides
    webhook_attempt_s: float = 20.0
    webhooks_at_once: int = 16

    # Traces are sent this often; writes that were under way then may bear a time just before.
    traces_every_s: float = 5.0
    traces_late_s: float = 2.0


LIMITS = ServerLimits()
