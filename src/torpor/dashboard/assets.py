"""What pages load: files of static/, each under a name that changes with its content."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

_FOLDER = Path(__file__).parent / "static"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class _Asset:
    content: bytes
    type: str
    digest: str


def _read() -> dict[str, _Asset]:
    found = {}
    for path in _FOLDER.iterdir():
        if path.suffix in _TYPES:
            content = path.read_bytes()
            digest = blake2b(content, digest_size=8).hexdigest()
            found[path.name] = _Asset(content, _TYPES[path.suffix], digest)
    return found


_ASSETS = _read()


def url(name: str) -> str:
    return f"/ui/static/{name}?{_ASSETS[name].digest}"


async def serve(request: Request) -> Response:
    asset = _ASSETS.get(request.path_params["name"])
    if asset is None:
        raise HTTPException(404)
    fresh = request.url.query == asset.digest
    kept = "max-age=31536000, immutable" if fresh else "no-cache"
    return Response(asset.content, media_type=asset.type, headers={"cache-control": kept})
