"""/docs: the description of the API (/openapi.json) as a page that people read. It runs nothing and
loads nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

Schema = Mapping[str, Any]

_VERBS = ("get", "post", "put", "patch", "delete")
_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}
_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 0 auto; padding: 1rem }
code { font: 0.9em ui-monospace, monospace; overflow-wrap: anywhere }
h2 { font-size: 1rem; margin: 2rem 0 0; padding-top: 0.5rem; border-top: 1px solid #8886 }
p { margin: 0.25rem 0 } table { border-collapse: collapse; margin: 0.25rem 0 }
th, td { text-align: left; vertical-align: top; padding: 0.1rem 1rem 0.1rem 0 }
th { font-weight: normal }
"""


def install(app: FastAPI) -> None:
    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(page(request.app.openapi()), headers=_HEADERS)

    app.add_route("/docs", docs)


def page(api: Schema) -> str:
    """`api` is an OpenAPI document."""
    operations = [
        _operation(api, path, verb, item[verb])
        for path, item in api["paths"].items()
        for verb in _VERBS
        if verb in item
    ]
    about = api["info"]
    title = escape(f"{about['title']} {about['version']}: its HTTP API")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style><main><h1>{title}</h1>"
        '<p>The same for programs: <a href="/openapi.json">/openapi.json</a>. Errors are problem '
        f"details (RFC 9457).</p>{''.join(operations)}</main></html>"
    )


def _operation(api: Schema, path: str, verb: str, operation: Schema) -> str:
    parameters = (
        (each["name"], each["in"], each["schema"], each.get("required", False))
        for each in operation.get("parameters", ())
    )
    bodies = [("Takes", operation.get("requestBody", {}))]
    bodies += [("Gives", answer) for code, answer in operation["responses"].items() if code < "300"]
    return (
        f"<section><h2><code>{verb.upper()} {escape(path)}</code></h2>"
        f"<p>{escape(operation.get('description') or operation.get('summary', ''))}</p>"
        + _table("Parameters", parameters)
        + "".join(_body(api, what, _content(body)) for what, body in bodies)
        + "</section>"
    )


def _content(body: Schema) -> Schema:
    """Its schema; empty if there is none."""
    by_media: Mapping[str, Schema] = body.get("content", {})
    schema: Schema = next((each.get("schema", {}) for each in by_media.values()), {})
    return schema


def _body(api: Schema, what: str, schema: Schema) -> str:
    named = api["components"]["schemas"].get(_name(schema.get("items", schema)), {})
    required = named.get("required", ()) if what == "Takes" else ()
    fields = (
        (name, "", field, name in required) for name, field in named.get("properties", {}).items()
    )
    return _table(f"{what} {_type(schema)}", fields)


def _table(title: str, rows: Iterable[tuple[str, str, Schema, bool]]) -> str:
    cells = "".join(_rows(rows))
    return f"<p>{escape(title)}</p><table>{cells}</table>" if cells else ""


def _rows(rows: Iterable[tuple[str, str, Schema, bool]]) -> Iterator[str]:
    for name, where, schema, required in rows:
        needed, about = "required" if required else "", schema.get("description", "")
        parts = [_type(schema), where, needed, about]
        words = escape(", ".join(filter(None, parts)))
        yield f'<tr><th scope="row"><code>{escape(name)}</code></th><td>{words}</td></tr>'


def _type(schema: Schema) -> str:
    """In words."""
    if "$ref" in schema:
        return _name(schema)
    if several := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(_type(each) for each in several)
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "any JSON"))


def _name(schema: Schema) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]
