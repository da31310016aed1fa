"""The service for agents: each pipeline is a tool of the Model Context Protocol, over stdio or streamable HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

import rag
from rag.errors import MissingExtraError
from rag.serve.problems import Problem, problem_of
from rag.serve.service import Service

if TYPE_CHECKING:
    from mcp.server import Server
    from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager

__all__ = ["http_manager", "make_server", "serve_stdio"]

_INSTRUCTIONS = (
    "These tools search indexed documents and answer from them. Quote the citations that an answer brings; "
    "when `found` is false, the documents do not hold an answer."
)


def make_server(service: Service) -> Server[Any]:
    """An MCP server with one read-only tool a pipeline: arguments and structured result have JSON Schemas.

    A failed call is a tool result with `isError` that says what was wrong and what to do, so that the agent can mend
    its arguments. Raises MissingExtraError without the official SDK.
    """
    try:
        import mcp_types as types
        from mcp.server import Server
    except ImportError:
        raise MissingExtraError("the Model Context Protocol", "serve") from None

    async def list_tools(context: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=tool.name,
                    description=tool.description,
                    input_schema=tool.input_schema(),
                    output_schema=tool.output_schema(),
                    annotations=types.ToolAnnotations(
                        read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
                    ),
                )
                for tool in service.tools.values()
            ]
        )

    async def call_tool(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        try:
            result = await service.run(params.name, params.arguments or {})
        except Exception as error:  # noqa: BLE001  the agent is told that it failed, not what it said
            return types.CallToolResult(content=[_text(_told(problem_of(error)))], is_error=True)
        # Clients that know no structured results read the same as text (specification, section Tools).
        text = to_json(result, inf_nan_mode="null").decode()
        return types.CallToolResult(content=[_text(text)], structured_content=result)

    def _text(text: str) -> types.TextContent:
        return types.TextContent(type="text", text=text)

    return Server(
        "modular-rag",
        version=rag.__version__,
        instructions=_INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def http_manager(service: Service) -> tuple[StreamableHTTPSessionManager, StreamableHTTPASGIApp]:
    """What keeps the sessions of the streamable HTTP transport, and the ASGI endpoint to mount.

    Sessions are stateless: every request stands alone. Host and token are checked by whoever mounts it.
    """
    server = make_server(service)
    from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager

    manager = StreamableHTTPSessionManager(
        server, stateless=True, json_response=True, max_request_body_size=service.limits.body
    )
    return manager, StreamableHTTPASGIApp(manager)


async def serve_stdio(service: Service) -> None:
    """Serve one client over standard input and output until it closes them."""
    server = make_server(service)
    from mcp.server.stdio import stdio_server

    service.start()
    try:
        async with stdio_server() as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())
    finally:
        await service.close()


def _told(problem: Problem) -> str:
    return f"{problem.title}: {problem.detail}" + (f" ({problem.hint})" if problem.hint else "")
