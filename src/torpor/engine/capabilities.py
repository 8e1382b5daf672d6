"""What engines can do, in terms that the rest of torpor decides by. Nobody asks for a name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """Of an engine on any host. What only the host decides is the `Engine`'s to say."""

    # An agent has a machine of its own: it can do nothing to the host, and its memory and disk
    # are what its file asks for. Without it, it is a process of the server's user.
    isolates: bool
    # Machines are frozen into snapshots and restored. Without it a run that waits is ended, and
    # replays its whole log. All below is about engines that freeze.
    freezes: bool = False
    # A machine that stands, warm, takes on the content of another snapshot.
    becomes: bool = False
    # It knows which pages a machine has written. Without it every page is compared.
    reports_changes: bool = False
    # Machines bring the files that their pages come from. Without it the pager serves them.
    own_page_files: bool = False
    # Machines boot the image's kernel. Without it only its root file system is used.
    boots_kernel: bool = False


NOT_ISOLATED = (
    "agents are plain processes: isolated from nothing, as free as you are; "
    "egress rules stop mistakes, not malice"
)
EMULATION = "tcg"  # what an engine's accelerator is called that emulates the processor
# Measured: `torpor bench computing`.
EMULATED = "computing takes some 15 times as long as on this host"
FASTER = (
    "Waiting, model calls, freezing and waking do not. For agents that compute much: a host with "
    "KVM, or --engine process for agents that you trust; `torpor bench computing` measures it."
)
