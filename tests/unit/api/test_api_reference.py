"""/docs, for people: whole, and nothing of it from elsewhere."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from torpor.api.app import create_app
from torpor.api.reference import page
from torpor.core.home import Home
from torpor.testing.fakes.service import MemoryService

pytestmark = pytest.mark.anyio


@pytest.fixture
async def app(home: Home) -> AsyncIterator[FastAPI]:
    service = await MemoryService.open(home)
    yield create_app(service)
    await service.stop()


async def test_every_operation_is_there_and_loads_nothing(app: FastAPI) -> None:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://torpor"
    ) as client:
        answer = await client.get("/docs")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    described = app.openapi()["paths"]
    headings = set(re.findall(r"<h2><code>(\w+) (\S+)</code>", answer.text))
    assert headings == {(verb.upper(), path) for path, item in described.items() for verb in item}
    assert re.findall(r'(?:src|href)="([^"]*)"', answer.text) == ["/openapi.json"]
    assert "<script" not in answer.text and "url(" not in answer.text


def test_what_it_says_of_an_operation() -> None:
    text = {"type": "string", "description": "at most <10>"}
    api = {
        "info": {"title": "t", "version": "1"},
        "components": {
            "schemas": {
                "Ask": {
                    "properties": {
                        "a": text,
                        "b": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                        "c": {"type": "array", "items": {"$ref": "#/components/schemas/Ask"}},
                        "d": {"enum": ["x", "y"]},
                        "e": {},
                    },
                    "required": ["a"],
                }
            }
        },
        "paths": {
            "/it/{id}": {
                "post": {
                    "summary": "Do <it>",
                    "parameters": [
                        {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
                    ],
                    "requestBody": {
                        "content": {
                            "application/json": {"schema": {"$ref": "#/components/schemas/Ask"}}
                        }
                    },
                    "responses": {"204": {"description": ""}, "default": {"description": ""}},
                }
            }
        },
    }
    said = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page(api).split("</h1>")[1]))
    for words in (
        "POST /it/{id} Do &lt;it&gt;",
        "Parameters id string, path, required",
        "Takes Ask a string, required, at most &lt;10&gt; b integer or null "
        "c list of Ask d x | y e any JSON",
    ):
        assert words in said, said
