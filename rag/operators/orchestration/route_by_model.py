"""A router that asks a language model."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from rag.operators.asking import Asking
from rag.operators.orchestration.routers import RouteName
from rag.operators.replies import one_of
from rag.operators.resources import ChatModel
from rag.types import Query

__all__ = ["RouteByModel"]


class RouteByModel(Asking, name="orchestration.route_by_model"):
    """Let a language model choose the route from descriptions of the routes.

    The reply must be the name of one route, or hold exactly one in its first line; anything else is `default`.
    (Modular RAG, arXiv:2407.21059, section 3.6, semantic routing.)
    """

    prompt_folder: ClassVar[Path] = Path(__file__).parent / "prompts"
    placeholders: ClassVar[tuple[str, ...]] = ("routes", "question")

    prompt: str = Field("route_by_model", description="name of a prompt file, without .md")
    max_tokens: int = Field(16, ge=1, le=32768, description="tokens of a reply")
    routes: dict[str, str] = Field(description="what each route is for", min_length=1)
    default: str = Field(description="the route when the model names none")

    def route_names(self) -> tuple[str, ...]:
        return (*self.routes, self.default)

    def run(self, query: Query, llm: ChatModel) -> RouteName:
        described = "\n".join(f"{name}: {what}" for name, what in self.routes.items())
        reply = self.ask(llm, {"routes": described, "question": query.text}).text
        return one_of(reply, self.routes) or self.default
