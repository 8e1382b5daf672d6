"""Revision 4: the engine of an agent is a column; until then its image told of it."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import text

from torpor.logstore import migrate
from torpor.logstore.sqlite import make_engine

OLD = (
    "INSERT INTO agents (version, name, entry, source, spec, agents, first_at, used_at)"
    " VALUES (:version, 'a', 'a.py', x'00', :spec, '[]', 1.0, 1.0)"
)


def test_agents_that_there_were_get_the_engine_of_their_image() -> None:
    engine = make_engine(Path(":memory:"), connections=1, begin="BEGIN")
    specs = {"m": '{"image":"0123abcd"}', "p": '{"image":"process","x":1}', "n": "{}"}
    with engine.begin() as c:
        migrate.run_revisions(c, 3)
        for version, spec in specs.items():
            c.execute(text(OLD), {"version": version, "spec": spec})
        migrate.run_revisions(c, 4)
        found = c.execute(text("SELECT version, engine FROM agents")).all()
    engine.dispose()
    assert {row[0]: row[1] for row in found} == {"m": "qemu", "p": "process", "n": "qemu"}
