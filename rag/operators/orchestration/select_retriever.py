"""Which kind of retrieval suits a question."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from rag.operators.base import Operator
from rag.operators.signature import Channel
from rag.types import Query

__all__ = ["SelectRetriever"]

_QUOTED = re.compile(r"\"[^\"]+\"|“[^”]+”|„[^“”]+[“”]|«[^»]+»|`[^`]+`")
_CODE = re.compile(
    r"(?<!\w)(?:"
    r"[^\W\d_]+[-./]?\d[\w./-]*"  # X-12, RFC2616, arXiv.2407
    r"|\d+[^\W\d_][\w-]*"  # 3M, 0x80070057
    r"|\d{5,}"
    r"|\w*[^\W_]_\w+"  # snake_case
    r"|[^\W\d_]*[a-z][A-Z]\w*"  # camelCase
    r"|\w+(?:::|->|\(\))\w*"  # std::sort, run()
    r"|[\w-]+@[\w.-]+|(?:/[\w.-]+){2,}"  # addresses, paths
    r")"
)
_ORDINAL = re.compile(r"\d+(?:st|nd|rd|th|s)\Z", re.IGNORECASE)
_ASKS = re.compile(
    r"^(?:who|whom|whose|what|when|where|why|how|which|is|are|was|were|do|does|did|can|could|should|would|will|has|have|"
    r"explain|describe|compare|wer|was|wann|wo|warum|wie|welche[rsnm]?|qui|que|quand|pourquoi|comment)\b",
    re.IGNORECASE,
)


class SelectRetriever(Operator, name="orchestration.select_retriever"):
    """Choose sparse, dense or hybrid retrieval by the look of the question.

    What is to be met exactly (quoted words, codes, identifiers, long numbers, paths) speaks for sparse retrieval;
    natural language (a question mark or question word, or at least `words` words) for dense; both or neither for
    hybrid. (Retriever selection; Modular RAG, arXiv:2407.21059, section 3.3: sparse for rare entities, dense for
    meaning.)
    """

    words: int = Field(7, ge=1, le=1000, description="words from which on a query counts as natural language")

    def run(self, query: Query) -> Annotated[Literal["sparse", "dense", "hybrid"], Channel("route")]:
        text = query.text.strip()
        exact = bool(_QUOTED.search(text)) or any(not _ORDINAL.match(m[0]) for m in _CODE.finditer(text))
        natural = text.endswith(("?", "？", "؟")) or bool(_ASKS.match(text)) or len(text.split()) >= self.words
        if exact == natural:
            return "hybrid"
        return "sparse" if exact else "dense"
