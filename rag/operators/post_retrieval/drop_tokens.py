"""A context without the words that a small language model could have guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rag.models import ScoringModel, scoring
from rag.operators.base import Operator
from rag.operators.post_retrieval.surprise import SPARE, Word, tail, words_of
from rag.operators.resources import ChatModel
from rag.types import Context, Passage, Query

__all__ = ["DropTokens"]

_ASKED = "\n\n{question} We can get the answer to this question in the given documents."


class DropTokens(Operator, name="post_retrieval.drop_tokens", waits=True):
    """Leave out the words of a context that a small language model would have guessed anyway.

    What the reader gets is `Passage.shown`; `text`, `start` and `end` stay exact, so citations still are checked
    against, and quote, the document itself. Order stays; passages of which nothing is left are dropped, counted in
    `left_out`, and the others numbered anew. The question and the instructions of a prompt are not part of a context:
    they are never shortened.

    - Budget: `rate` of all tokens, or `max_tokens`. Each passage gets a share of it by its rank under
      log p(question | passage), up to `spread` more for the first and less for the last, all of them moved alike so
      that the budget is met. (The contrastive form subtracts log p(question), which changes no rank.)
    - Compression: passages are gone through in segments, each scored behind what was kept of all before it, so that
      what was said once is no news again. Of each segment the tokens are kept that score highest, as far as the budget
      goes: by `surprise`, -log p(token | before), or by `question`, log p(token | question, before) - log p(token |
      before).

    With a token its whole word is kept, where the papers drop single tokens: half a number would be another number.
    Even so a "not" may go; let `CheckSupport` look at the answer. Tokens are those of the scoring model: the resource
    `scorer` where the pipeline has one, `Pipeline(..., resources={"scorer": "local:..."})`, otherwise its language
    model. Raises ModelError for one that does not score given text. (LLMLingua: Jiang et al. 2023, arXiv:2310.05736,
    section 3; LongLLMLingua: Jiang et al. 2023, arXiv:2310.06839, sections 4.1 to 4.3.)
    """

    rate: float = Field(0.5, gt=0, le=1, description="share of the tokens that is kept")
    max_tokens: int | None = Field(None, ge=16, description="tokens that are kept, in place of `rate`")
    spread: float = Field(0.3, ge=0, le=1, description="how far a passage's share may lie from the mean, by its rank")
    segment: int = Field(200, ge=8, le=32768, description="tokens scored at a time behind what was kept before")
    by: Literal["surprise", "question"] = Field(
        "surprise", description="what makes a word worth keeping: that it is news, or that the question makes it likely"
    )

    def run(self, query: Query, context: Context, scorer: ChatModel) -> Context:
        return self.run_batch([query], [context], scorer)[0]

    def run_batch(self, query: list[Query], context: list[Context], scorer: ChatModel) -> list[Context]:
        model = scoring(scorer, self.operator_name)
        works = [_Work(q, c, [_Text.of(p.reading, model) for p in c]) for q, c in zip(query, context, strict=True)]
        large = [work for work in works if work.tokens > self._budget(work)]
        for work, ranks in zip(large, self._ranks(large, model), strict=True):
            work.share(self._budget(work), ranks, self.spread)
            work.cut(min(self.segment, max((model.context_tokens - SPARE) // 4, 1)))
        while waiting := [work for work in large if work.segments]:
            self._step(waiting, model)
        shortened = set(large)
        return [work.compressed() if work in shortened else work.context for work in works]

    def _budget(self, work: _Work) -> int:
        return max(round(self.rate * work.tokens), 1) if self.max_tokens is None else self.max_tokens

    def _ranks(self, works: Sequence[_Work], model: ScoringModel) -> list[NDArray[np.int64]]:
        """For each passage its place in the order of log p(question | passage), 0 for the likeliest."""
        if not self.spread:
            return [np.zeros(len(work.texts), np.int64) for work in works]
        items = []
        for work in works:
            asked = _ASKED.format(question=work.query.text)
            room = model.context_tokens - len(model.token_ends(asked)) - SPARE
            items += [(tail(text.text, room, model), asked) for text in work.texts]
        means = iter([float(scored.logprobs.mean()) for scored in model.score_batch(items)])
        found = []
        for work in works:
            order = np.argsort([-next(means) for _ in work.texts], kind="stable")
            ranks = np.empty(len(order), np.int64)
            ranks[order] = np.arange(len(order))
            found.append(ranks)
        return found

    def _step(self, works: Sequence[_Work], model: ScoringModel) -> None:
        """The next segment of each context, all scored together."""
        items: list[tuple[str, str]] = []
        for work in works:
            text = work.segment_text()
            question = f"{work.query.text}\n\n" if self.by == "question" else ""
            taken = len(model.token_ends(text)) + len(model.token_ends(question)) + SPARE
            before = tail(work.before(), model.context_tokens - taken, model)
            items.append((before, text))
            if question:
                items.append((question + before, text))
        scored = iter(model.score_batch(items))
        for work in works:
            alone = next(scored)
            logprobs = -alone.logprobs if self.by == "surprise" else next(scored).logprobs - alone.logprobs
            work.take(alone.ends, np.asarray(logprobs, np.float64))


@dataclass
class _Text:
    """What the reader would read of a passage, in words."""

    text: str
    words: list[Word]
    tokens: int
    budget: int = 0
    kept: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, text: str, model: ScoringModel) -> _Text:
        ends = model.token_ends(text)
        return cls(text, words_of(text, ends), len(ends))

    def kept_text(self) -> str:
        return "".join(self.text[slice(*self.words[i][:2])] for i in self.kept).strip()


@dataclass(eq=False)
class _Work:
    """One context while it is compressed."""

    query: Query
    context: Context
    texts: list[_Text]
    segments: list[tuple[int, int, int]] = field(default_factory=list)
    """Those that are still to be scored: row of the text, first word, word after the last."""

    @property
    def tokens(self) -> int:
        return sum(text.tokens for text in self.texts)

    def share(self, budget: int, ranks: NDArray[np.int64], spread: float) -> None:
        """Deal out the budget: a share of each text by its rank, moved alike until together they are the budget."""
        lengths = np.array([text.tokens for text in self.texts], np.float64)
        tilt = spread * (1 - 2 * ranks / max(len(ranks) - 1, 1)) if len(ranks) > 1 else np.zeros(1)
        low, high = -2.0, 2.0
        for _ in range(60):
            middle = (low + high) / 2
            if float(np.clip(tilt + middle, 0, 1) @ lengths) < budget:
                low = middle
            else:
                high = middle
        exact = np.clip(tilt + high, 0, 1) * lengths
        whole = np.floor(exact + 1e-6)
        for row in np.argsort(-np.round(exact - whole, 6), kind="stable")[: max(budget - int(whole.sum()), 0)]:
            whole[row] += 1
        for text, tokens in zip(self.texts, whole.astype(int).tolist(), strict=True):
            text.budget = min(tokens, text.tokens)

    def cut(self, size: int) -> None:
        """Into segments of whole words, each with at most `size` tokens unless a single word has more."""
        for row, text in enumerate(self.texts):
            first = held = 0
            for index, (_, _, tokens) in enumerate(text.words):
                if held and held + tokens > size:
                    self.segments.append((row, first, index))
                    first, held = index, 0
                held += tokens
            if held:
                self.segments.append((row, first, len(text.words)))

    def segment_text(self) -> str:
        row, first, last = self.segments[0]
        words = self.texts[row].words
        return self.texts[row].text[words[first][0] : words[last - 1][1]]

    def before(self) -> str:
        """What was kept so far."""
        return "\n\n".join(kept for text in self.texts if (kept := text.kept_text()))

    def take(self, ends: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """Keep the words of the segment with the tokens that are worth most; what is left of the budget goes on."""
        row, first, last = self.segments.pop(0)
        text = self.texts[row]
        words = text.words[first:last]
        own = np.searchsorted([end - words[0][0] for _, end, _ in words], ends)
        worth = np.full(len(words), -np.inf)
        np.maximum.at(worth, own, values)
        passed = sum(tokens for _, _, tokens in text.words[:last])
        left = text.budget * passed // text.tokens - sum(text.words[i][2] for i in text.kept)
        chosen = []
        for index in np.argsort(-worth, kind="stable").tolist():
            if words[index][2] <= left:
                chosen.append(first + index)
                left -= words[index][2]
        text.kept += sorted(chosen)

    def compressed(self) -> Context:
        passages: list[Passage] = []
        for passage, text in zip(self.context, self.texts, strict=True):
            if kept := text.kept_text():
                shown = kept if len(text.kept) < len(text.words) else passage.shown
                passages.append(replace(passage, number=len(passages) + 1, shown=shown))
        return Context(tuple(passages), self.context.left_out + len(self.context) - len(passages))
