"""bench: torpor, measured. What each measures is in `torpor.bench`, which is loaded only then."""

from __future__ import annotations

from typing import Annotated

import typer

from torpor.cli.options import Json
from torpor.client import refuse_remote, require_linux
from torpor.core.errors import Invalid
from torpor.core.sizes import MEMORY_MIB_MAX, MEMORY_MIB_MIN, size_mib

bench = typer.Typer(help="Measure torpor on this host.", no_args_is_help=True)


@bench.callback()
def _on_this_host() -> None:
    refuse_remote("torpor bench")
    require_linux()


Memory = Annotated[
    str, typer.Option(metavar="SIZE", help="Memory of the machine, such as 512M or 1G.")
]


@bench.command()
def sleep(
    memory: Memory = "512M",
    cycles: Annotated[
        int,
        typer.Option(min=2, max=10_000, help="How often it sleeps; half of its resumes are cold."),
    ] = 20,
    as_json: Json = False,
) -> None:
    """How fast a real agent falls asleep and wakes, and what its sleep costs, beside QEMU's own
    migration to a file.
    """
    memory_mib = _memory_mib(memory)
    from torpor.bench.sleep import main  # loads the engines: only here

    raise typer.Exit(main(memory_mib=memory_mib, cycles=cycles, as_json=as_json))


@bench.command(name="waits")
def bench_waits(
    answers: Annotated[
        int, typer.Option(min=2, max=100_000, help="How many answers, each to a sleeping run.")
    ] = 1000,
    as_json: Json = False,
) -> None:
    """Whether an agent with many waits acts on each answer, and how soon."""
    from torpor.bench.waits import main  # loads the engines: only here

    raise typer.Exit(main(answers, as_json=as_json))


@bench.command(name="snapshots")
def bench_snapshots(
    memory: Memory = "512M",
    many: Annotated[
        int,
        typer.Option(
            min=10, max=10_000, help="How many snapshots of one run; half of them are collected."
        ),
    ] = 100,
    as_json: Json = False,
) -> None:
    """What snapshots cost, beside QEMU's own migration to a file: figures, limits and bounds."""
    memory_mib = _memory_mib(memory)
    from torpor.bench.snapshots import main  # loads the engines: only here

    raise typer.Exit(main(memory_mib=memory_mib, many=many, as_json=as_json))


@bench.command()
def journal(
    steps: Annotated[
        int, typer.Option(min=100, max=100_000, help="How many steps, one after another.")
    ] = 10_000,
    machine_steps: Annotated[
        int, typer.Option(min=20, max=10_000, help="How many steps from a machine.")
    ] = 1000,
    peer_steps: Annotated[
        int, typer.Option(min=100, max=100_000, help="How many steps under dbos.")
    ] = 2000,
    kills: Annotated[
        int, typer.Option(min=1, max=10_000, help="How many processes are killed.")
    ] = 200,
    as_json: Json = False,
) -> None:
    """What durable steps, recovery and waking cost, beside raw SQLite and dbos, and whether
    kills lose or repeat anything."""
    from torpor.bench.journal import Sizes, main  # loads the engines: only here

    raise typer.Exit(main(Sizes(steps, machine_steps, peer_steps, kills), as_json=as_json))


@bench.command(name="control")
def bench_control(
    sleeping: Annotated[
        int, typer.Option(min=50, max=1_000_000, help="How many sleeping runs.")
    ] = 10_000,
    runs: Annotated[
        int, typer.Option(min=20, max=100_000, help="After how many runs its memory is measured.")
    ] = 500,
    machine_runs: Annotated[
        int,
        typer.Option(min=0, max=100_000, help="The same with machines; 0 leaves them out."),
    ] = 60,
    as_json: Json = False,
) -> None:
    """What the control plane costs: appends, starts, waking, many sleeping runs, and the memory
    of a server that runs many agents and freezes large ones.
    """
    from torpor.bench.control import Sizes, main  # loads the engines: only here

    raise typer.Exit(main(Sizes(sleeping, runs, machine_runs), as_json=as_json))


@bench.command(name="egress")
def bench_egress(
    requests: Annotated[
        int, typer.Option(min=10, max=1_000_000, help="How many small requests, each way.")
    ] = 2000,
    guests: Annotated[
        int, typer.Option(min=1, max=1000, help="How many guests' streams at once.")
    ] = 100,
    machine_requests: Annotated[
        int,
        typer.Option(min=0, max=100_000, help="How many from a machine; 0 leaves that out."),
    ] = 200,
    as_json: Json = False,
) -> None:
    """What the way out costs: a small request and its log, new connections, answers that stream,
    many guests at once, requests from a machine. Beside mitmproxy."""
    from torpor.bench.egress import Sizes, main  # loads the engines: only here

    raise typer.Exit(main(Sizes(requests, guests, machine_requests), as_json=as_json))


@bench.command(name="deploy")
def bench_deploy(
    edits: Annotated[
        int, typer.Option(min=1, max=1000, help="How often each agent is edited.")
    ] = 5,
    as_json: Json = False,
) -> None:
    """How long it takes to deploy an agent, and again after a comment was changed."""
    from torpor.bench.deploy import main  # loads the engines: only here

    raise typer.Exit(main(edits, as_json=as_json))


@bench.command(name="computing")
def bench_computing(
    turns: Annotated[int, typer.Option(min=1, max=100, help="How many turns.")] = 3,
    as_json: Json = False,
) -> None:
    """What computing costs in a machine: a mixed load, beside the same load on this host."""
    from torpor.bench.computing import main  # loads the engines: only here

    raise typer.Exit(main(turns, as_json=as_json))


@bench.command(name="query")
def bench_query(
    entries: Annotated[
        int, typer.Option(min=10_000, max=100_000_000, help="How many entries the log has.")
    ] = 1_000_000,
    as_json: Json = False,
) -> None:
    """How long SQL queries take on a long log, and what it costs to write for them."""
    from torpor.bench.query import main  # loads the store: only here

    raise typer.Exit(main(entries, as_json=as_json))


@bench.command(name="cli")
def bench_cli(
    times: Annotated[
        int, typer.Option(min=3, max=1000, help="How often each command is started.")
    ] = 15,
    as_json: Json = False,
) -> None:
    """How fast commands start: --version, --help and ps, beside a bare interpreter."""
    from torpor.bench.start import main  # loads the store: only here

    raise typer.Exit(main(times, as_json=as_json))


@bench.command(name="dev")
def bench_dev(
    saves: Annotated[int, typer.Option(min=3, max=1000, help="How often the file is saved.")] = 20,
    as_json: Json = False,
) -> None:
    """How soon torpor dev shows a saved change, beside a bare interpreter."""
    from torpor.bench.saving import main  # loads the server's side: only here

    raise typer.Exit(main(saves, as_json=as_json))


def _memory_mib(memory: str) -> int:
    try:
        return size_mib(memory, MEMORY_MIB_MIN, MEMORY_MIB_MAX, f"{memory!r}")
    except Invalid as error:
        raise typer.BadParameter(error.message, param_hint="--memory") from error
