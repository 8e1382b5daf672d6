"""The artifacts of a run, as its log has them: operations (`torpor.core.artifacts`) whose results
are large values (`torpor.contextlog.values`). So forks share them, exports carry them, and they go
with their run, as all results do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Select, literal_column, or_, select

from torpor.contextlog import schema
from torpor.contextlog.entries import BEGIN, END
from torpor.core.artifacts import KINDS
from torpor.core.errors import NotFound
from torpor.core.ids import OpId, RunId, Seq

_ops = schema.log_ops
_NAMED_MAX = 8


@dataclass(frozen=True)
class ArtifactRow:
    """One version of an artifact."""

    op: OpId
    name: str
    version: int  # of its name, from 1
    bytes: int
    digest: str
    media_type: str
    at: float  # when it was recorded
    seq: Seq
    step: OpId | None  # in whose body it was published
    kept: bool  # not published: it was there when the agent ended

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def list_artifacts(c: Connection, run: RunId) -> list[ArtifactRow]:
    """Those that were published by name, then what was kept at the end, the newest version first.
    What was kept and is the same as what was published is left out; and so is what a fork's origin
    kept at its end."""
    found: list[ArtifactRow] = []
    versions: dict[str, int] = {}
    for row in c.execute(_published(run)):
        request, ended = row.begin["data"], row.end
        kept = bool(request.get("kept"))
        if "blob" not in ended or (kept and row.source != run):
            continue
        name, blob = request["name"], ended["blob"]
        version = versions[name] = versions.get(name, 0) + 1
        found.append(
            ArtifactRow(
                op=row.op,
                name=name,
                version=version,
                bytes=blob["bytes"],
                digest=blob["digest"],
                media_type=request["media_type"],
                at=row.at,
                seq=row.seq,
                step=request.get("step"),
                kept=kept,
            )
        )
    published = {(each.name, each.digest) for each in found if not each.kept}
    shown = [each for each in found if not each.kept or (each.name, each.digest) not in published]
    return sorted(shown, key=lambda each: (each.kept, each.name, -each.version))


def find_artifact(c: Connection, run: RunId, name: str, version: int | None = None) -> ArtifactRow:
    """Raises NotFound."""
    artifacts = list_artifacts(c, run)
    for each in artifacts:
        if each.name == name and version in (None, each.version):
            return each
    names = sorted({each.name for each in artifacts})
    more = f" and {len(names) - _NAMED_MAX:,} more" if len(names) > _NAMED_MAX else ""
    hint = f"It has {', '.join(names[:_NAMED_MAX])}{more}." if names else "It has none."
    numbered = "" if version is None else f" in version {version}"
    raise NotFound(f"{run} has no artifact {name!r}{numbered}", hint=hint)


def _published(run: RunId) -> Select[Any]:
    """In the order of their ends."""
    begin, end = _ops.alias("published"), _ops.alias("stored")
    begun = (begin.c.run == run, begin.c.kind == literal_column(f"'{BEGIN}'"))
    named = or_(*(schema.begins_with(begin.c.op, f"{kind}:") for kind in KINDS))
    return (
        select(
            begin.c.op,
            begin.c.data.label("begin"),
            end.c.data.label("end"),
            end.c.at,
            end.c.seq,
            end.c.source,
        )
        .join_from(
            begin,
            end,
            (end.c.run == begin.c.run)
            & (end.c.op == begin.c.op)
            & (end.c.kind == literal_column(f"'{END}'")),
        )
        .where(*begun, named)
        .order_by(end.c.seq)
    )
