"""Artifacts: files that a run publishes, or that are kept of it when it ends.

Two kinds of operations publish one. `artifact` is the agent's own, asked for again by a replay and
answered from the log. `file` is what a replay never asks for: published in a step's body, which
does not run again, or kept when the agent ends. Each is a version of the name that its data says.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from torpor.core.limits import NAME_MAX

ARTIFACT, FILE = "artifact", "file"
KINDS = (ARTIFACT, FILE)
MEDIA_TYPE_MAX = 128
BYTES_MAX = 1024 * 1024 * 1024

# Together, of what a run wrote and did not publish.
KEPT_BYTES_MAX = 64 * 1024 * 1024
KEPT_FILES_MAX = 200

_UNKNOWN = "application/octet-stream"
_TOKEN = r"[A-Za-z0-9!#$&^_.+-]+"
_MEDIA_TYPE = re.compile(
    rf'{_TOKEN}/{_TOKEN}(; ?{_TOKEN}=({_TOKEN}|"[^"\\\x00-\x1f\x7f-\uffff]*"))*'
)
# Not the standard library's table, which reads the host's own, and takes its time for that.
_MEDIA_TYPES = {
    "application/gzip": "gz tgz",
    "application/json": "json ipynb",
    "application/pdf": "pdf",
    "application/vnd.apache.parquet": "parquet",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.sqlite3": "sqlite sqlite3 db",
    "application/x-ndjson": "jsonl ndjson",
    "application/x-tar": "tar",
    "application/xml": "xml",
    "application/zip": "zip whl",
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "image/gif": "gif",
    "image/jpeg": "jpg jpeg",
    "image/png": "png",
    "image/svg+xml": "svg",
    "image/webp": "webp",
    "text/css": "css",
    "text/csv": "csv",
    "text/html": "html htm",
    "text/javascript": "js mjs",
    "text/markdown": "md markdown",
    "text/plain": "txt log toml yaml yml ini cfg rst diff patch sh sql",
    "text/tab-separated-values": "tsv",
    "text/x-python": "py",
    "video/mp4": "mp4",
}
_BY_ENDING = {f".{end}": kind for kind, ends in _MEDIA_TYPES.items() for end in ends.split()}


def name_fault(name: str) -> str:
    """What keeps `name` from being an artifact's, in words; else nothing. It is a path with
    forward slashes that leads nowhere else, and text that a terminal and a header can show."""
    if not 1 <= len(name) <= NAME_MAX:
        return f"has 1 to {NAME_MAX} characters, not {len(name):,}"
    if not name.isprintable() or "\\" in name:
        return "is printable text without backslashes"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "is a relative path such as report.pdf or out/report.pdf"
    return ""


def media_type_fault(media_type: str) -> str:
    """The same of a media type."""
    if len(media_type) > MEDIA_TYPE_MAX or _MEDIA_TYPE.fullmatch(media_type) is None:
        return "is such as text/csv or image/png"
    return ""


def guess_media_type(name: str) -> str:
    """By the name's ending."""
    return _BY_ENDING.get(PurePosixPath(name).suffix.lower(), _UNKNOWN)
