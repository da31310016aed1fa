"""Agents: real client sessions of the official SDK, in memory, over HTTP, and over stdio with `rag serve`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from mcp import Client, StdioServerParameters

from rag.collection import Collection
from rag.pipelines import Pipeline
from rag.serve.mcp import make_server
from rag.serve.service import Service, search_pipeline
from tests.serve.service import samples
from tests.serve.service.server import serving


def service(collection: Collection) -> Service:
    failing = Pipeline(samples.Spill(), name="spill")
    return Service([samples.quoting(collection), search_pipeline(collection), failing])


async def converse(client: Client) -> None:
    """What an agent does: look at the tools, call one, make a mistake, mend it."""
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert "search" in tools
    for tool in tools.values():
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is True
        assert tool.description
        Draft202012Validator.check_schema(tool.input_schema)
        assert tool.output_schema is not None
    found = await client.call_tool("search", {"query": "roux", "limit": 2})
    assert not found.is_error
    Draft202012Validator(tools["search"].output_schema).validate(found.structured_content)
    assert found.structured_content["hits"][0]["document"] == "sub/cooking.txt"
    assert "roux" in found.content[0].text
    wrong = await client.call_tool("search", {"query": "roux", "limitt": 2})
    assert wrong.is_error
    assert "did you mean 'limit'" in wrong.content[0].text


def test_in_memory(collection: Collection):
    async def main() -> None:
        async with Client(make_server(service(collection))) as client:
            await converse(client)
            answered = await client.call_tool("quoting", {"query": "What is a sheet?"})
            assert answered.structured_content["answer"]["citations"][0]["document"] == "sailing.md"
            spilled = await client.call_tool("spill", {"query": "x"})
            assert spilled.is_error
            assert spilled.content[0].text == "Pipeline failed: node 'spill' raised RuntimeError"
            unknown = await client.call_tool("serch", {"query": "x"})
            assert "did you mean 'search'" in unknown.content[0].text

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_over_http(collection: Collection, mode: Any):
    async def main(url: str) -> None:
        async with Client(f"{url}/mcp", mode=mode) as client:
            await asyncio.gather(*(converse(client) for _ in range(3)))

    with serving(service(collection), mcp=True) as url:
        asyncio.run(main(url))


def test_over_stdio(kb: Path, tmp_path: Path):
    """Nothing but the protocol is on standard output, and the process ends with its client."""
    command = ["-m", "rag", "serve", "hybrid", "-c", str(kb), "--mcp", "stdio"]

    async def main() -> None:
        server = StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ), cwd=tmp_path)
        async with Client(server) as client:
            await converse(client)

    asyncio.run(asyncio.wait_for(main(), 60))
