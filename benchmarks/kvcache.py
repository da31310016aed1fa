"""Answers from cached chunks: time to the first token, tokens computed, and agreement with full prefill.

python benchmarks/kvcache.py --questions 20       Gemma 3 270M on squad_train_sample and hotpotqa_train_sample
python benchmarks/kvcache.py --data squad_train_sample --k 10 --questions 200
python benchmarks/kvcache.py --quick              four questions, three strategies; writes nothing
python benchmarks/kvcache.py --model llama-8b-shaped    random weights on a GPU, time alone (kv_device.py)

Every strategy reads the same stream of prompts from an empty store (`stream`), and one that reuses chunks each prompt
once more (`warm`: all chunks are in the store). Prompts are those of Generate with prompts/kvcache.md, answers greedy.
Full prefill of the same tokens is the reference: measured once, kept in the cache folder, and repeated for every fifth
prompt beside each strategy, so that times are compared as if they had been taken together. Times are CPU times of one
thread, up to the first token. A strategy that is done is not run again: remove its file in the cache to repeat it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import harness
import numpy as np
from index import default_cache
from kv_data import Question, stream

from rag.evaluate.measures import exact_match, f1
from rag.kvcache import KVCacheManager, MemoryStore, Segment, Strategy
from rag.kvcache.agreement import Begun, begin, divergence
from rag.kvcache.hosting import segments_of
from rag.kvcache.report import Report
from rag.kvcache.strategies import STRATEGIES, Full, as_strategy
from rag.kvcache.verdict import Finding
from rag.models import PrefillingModel, load
from rag.operators.generation import Generate
from rag.operators.generation.reading import passage_segments
from rag.operators.prompts import load_prompt
from rag.types import Context, Passage

NAMES = ("squad_train_sample", "hotpotqa_train_sample")
PROMPT = Generate(prompt="kvcache", prompts=str(Path(__file__).parent / "prompts"), max_tokens=16)
BY_SHARE = ("first", "share", "cacheblend", "cachecraft")
EVERY = 5  # prompts of which one is read in full beside each strategy


@dataclass(frozen=True)
class Run:
    """One prompt with one strategy. Times are shares of a full prefill, work counts tokens computed."""

    question: str
    tokens: int
    stream_time: float
    stream_work: float
    time: float
    work: float
    kl: float
    same_first: bool
    same_text: bool
    em: float
    f1: float


@dataclass(frozen=True)
class Outcome:
    """A strategy over a stream: its runs, and the bytes that the store held at the end."""

    runs: list[Run]
    nbytes: int


class Bench:
    """A model, a stream of prompts, and their references."""

    def __init__(self, model: PrefillingModel, questions: Sequence[Question], cache: Path, budget: int) -> None:
        self.model, self.questions, self.cache, self.budget = model, questions, cache, budget
        self.manager = KVCacheManager(model.network, model.tokenizer, store=MemoryStore(0))
        _ = self.manager.known_as  # the self-test is no part of any time
        self.prompts = [self._segments(question) for question in questions]
        cache.mkdir(parents=True, exist_ok=True)

    def _segments(self, question: Question) -> list[Segment]:
        template = load_prompt(PROMPT.prompt, PROMPT.prompts)
        turns, _ = PROMPT.fitted(template, question.query, Context(question.passages), [], self.model)
        return segments_of(self.model, turns)

    def reference(self, at: int) -> Begun:
        """A full prefill of a prompt, out of the cache where it is there."""
        file = self.cache / f"{digest(self.prompts[at : at + 1])}.npz"
        report = Report("full", True, ())
        if not file.exists():
            made = begin(self.manager.with_strategy(Full()), self.prompts[at], PROMPT.max_tokens)
            np.savez(file, logprobs=made.logprobs, said=made.said, seconds=made.seconds)
        with np.load(file) as kept:
            said = tuple(int(token) for token in kept["said"])
            return Begun(kept["logprobs"], said, float(kept["seconds"]), report)

    def outcome(self, name: str, strategy: Strategy) -> Outcome:
        """What comes of a strategy, out of the cache where it is there for this stream."""
        file = self.cache / f"{name.replace(' ', '_')}-{digest(self.prompts)}.json"
        if file.exists():
            kept = json.loads(file.read_text())
            return Outcome([Run(**run) for run in kept["runs"]], kept["nbytes"])
        store = MemoryStore(self.budget)
        manager = self.manager.with_strategy(strategy)
        manager.store = store
        runs, clocks = [], []
        for at, question in enumerate(self.questions):
            reference = self.reference(at)
            if at % EVERY == 0:
                again = begin(self.manager.with_strategy(Full()), self.prompts[at], 1)
                clocks.append(again.seconds / reference.seconds)
            runs.append(self._run(manager, question, self.prompts[at], reference))
            print(f"{name}: {at + 1} of {len(self.questions)}", flush=True)
        clock = float(np.median(clocks))
        runs = [Run(**{**asdict(r), "time": r.time / clock, "stream_time": r.stream_time / clock}) for r in runs]
        file.write_text(json.dumps({"runs": [asdict(run) for run in runs], "nbytes": store.nbytes}))
        return Outcome(runs, store.nbytes)

    def _run(self, manager: KVCacheManager, question: Question, prompt: list[Segment], reference: Begun) -> Run:
        if manager.strategy.reuse == "chunks":  # the first time, some of them may be missing
            first, warm = begin(manager, prompt, 1), begin(manager, prompt, PROMPT.max_tokens)
        else:
            first = warm = begin(manager, prompt, PROMPT.max_tokens)
        answer = self._answer(warm.said)
        return Run(
            question.id,
            first.report.tokens,
            first.seconds / reference.seconds,
            first.report.work * first.report.tokens,
            warm.seconds / reference.seconds,
            warm.report.work * warm.report.tokens,
            divergence(reference, warm),
            warm.first == reference.first,
            warm.said == reference.said,
            exact_match(answer, question.answers),
            f1(answer, question.answers),
        )

    def _answer(self, said: Sequence[int]) -> str:
        """The first line, without the numbers of passages."""
        tokenizer: Any = self.model._tokenizer  # type: ignore[attr-defined]
        text = tokenizer.decode(said, skip_special_tokens=True).strip().partition("\n")[0]
        return re.sub(r"\[\d+\]", "", text).strip()


def digest(prompts: Sequence[Sequence[Segment]]) -> str:
    """A name for the tokens of these prompts."""
    made = hashlib.sha256()
    for prompt in prompts:
        for segment in prompt:
            made.update(np.array([-1, *(segment.tokens or ())], np.int64).tobytes())
    return made.hexdigest()[:24]


def contestants(shares: Sequence[float], others: Sequence[Passage]) -> dict[str, Strategy]:
    """Strategies by name; those that compute a share again, with each share.

    One that rehearses chunks behind other texts does so behind its own and, called `rehearsed`, behind documents of the
    collection, two at a time.
    """
    found: dict[str, Strategy] = {name: as_strategy(name) for name in ("full", "prefix", "naive")}
    for name in BY_SHARE:
        kind: Any = STRATEGIES.get(name)
        if kind is None:
            continue
        found |= {f"{name} {share:g}": as_strategy(name, share=share) for share in shares}
        if any(field.name == "rehearsals" for field in fields(kind)):
            pairs = [
                tuple(passage_segments([replace(p, number=n) for n, p in enumerate(others[at : at + 2], 1)]))
                for at in range(0, len(others) - 1, 2)
            ]
            for share in shares:
                found[f"rehearsed {share:g}"] = as_strategy(name, share=share, rehearsals=tuple(pairs))
    return found


def column(outcome: Outcome, name: str) -> Any:
    return np.array([getattr(run, name) for run in outcome.runs], np.float64)


def paired(ours: Outcome, theirs: Outcome, name: str) -> str:
    """Mean difference with its 95 % interval, by the bootstrap over questions."""
    difference = column(ours, name) - column(theirs, name)
    draws = np.random.default_rng(0).integers(0, len(difference), (2000, len(difference)))
    low, high = np.quantile(difference[draws].mean(1), (0.025, 0.975))
    return f"{difference.mean():+.3f} ({low:+.3f}..{high:+.3f})"


def lines_of(title: str, outcomes: dict[str, Outcome]) -> list[str]:
    full = outcomes["full"]
    tokens = column(full, "tokens").mean()
    lines = [
        f"## {title}",
        "",
        f"{len(full.runs)} questions, prompts of {tokens:.0f} tokens; EM {column(full, 'em').mean():.3f}, "
        f"F1 {column(full, 'f1').mean():.3f} with full prefill.",
        "",
        "| strategy | TTFT warm | TTFT stream | tokens warm | tokens stream | MB | same first | KL | same text "
        "| F1 - full (95 %) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in outcomes.items():
        agreed = column(found, "same_first")
        low, high = Finding("", {}, len(agreed), int(agreed.sum()), 0, 0, 0, 0).interval
        cells = [
            name,
            f"{np.median(column(found, 'time')):.3f}",
            f"{np.mean(column(found, 'stream_time')):.3f}",
            f"{column(found, 'work').mean() / tokens:.3f}",
            f"{column(found, 'stream_work').mean() / tokens:.3f}",
            f"{found.nbytes / 1e6:.0f}",
            f"{agreed.mean():.3f} ({low:.2f}-{high:.2f})",
            f"{column(found, 'kl').mean():.4f}",
            f"{column(found, 'same_text').mean():.3f}",
            paired(found, full, "f1"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def rows_of(title: str, outcomes: dict[str, Outcome]) -> list[harness.Row]:
    rows = []
    full, peer = outcomes["full"], ("full prefill", "modular-rag")
    for name, found in outcomes.items():
        if name == "full":
            continue
        for way, time, work in (("warm", "time", "work"), ("stream", "stream_time", "stream_work")):
            case = f"{title}, {name}, {way}"
            # The middle where all chunks are there, the mean where it depends on what came before.
            ours = float(np.median(column(found, time)) if way == "warm" else np.mean(column(found, time)))
            rows.append(harness.compare(case, "ttft", "of full", ours, peer, 1.0, 1, more=False))
            computed = float(column(found, work).mean()), float(column(full, "tokens").mean())
            rows.append(harness.compare(case, "computed_tokens", "", computed[0], peer, computed[1], 1, more=False))
        values = float(column(found, "f1").mean()), max(float(column(full, "f1").mean()), 1e-9)
        rows.append(harness.compare(f"{title}, {name}", "f1", "", values[0], peer, values[1], 1))
    return rows


def draw(figure: Any, studies: dict[str, dict[str, Outcome]]) -> None:
    """A column a stream: divergence and agreement over the time to the first token, a curve a kind of strategy."""
    panels = np.atleast_2d(figure.subplots(2, len(studies), sharex="col", squeeze=False))
    marks = dict(zip(("full", "prefix", "naive", *BY_SHARE, "rehearsed"), cycle("os^v<>Dp"), strict=False))
    for place, (title, outcomes) in enumerate(studies.items()):
        kinds: dict[str, list[Outcome]] = {}
        for name, found in outcomes.items():
            kinds.setdefault(name.partition(" ")[0], []).append(found)
        for at, (kind, points) in enumerate(kinds.items()):
            times = [np.median(column(found, "time")) for found in points]
            style = {"marker": marks.get(kind, "x"), "color": f"C{at}", "label": kind}
            kl = np.array([column(found, "kl").mean() for found in points])
            panels[0][place].plot(times, np.where(kl > 1e-6, kl, np.nan), **style)  # what is exact has no place here
            panels[1][place].plot(times, [column(found, "same_first").mean() for found in points], **style)
        panels[0][place].set(title=title, yscale="log", ylabel="KL to full prefill, nats")
        panels[1][place].set(xlabel="time to first token, of full prefill", ylabel="same first token")
        for axes in panels[:, place]:
            axes.grid(alpha=0.3)
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=7)


def write(studies: dict[str, dict[str, Outcome]], model: str) -> None:
    notes = [
        f"{model} in float32 on one thread. `warm`: all chunks are in the store; `stream`: from an empty one. Times",
        "to the first token (CPU time; median warm, mean of the stream) and tokens computed as shares of a full",
        "prefill of the same tokens; KL of the first token's distribution; same text: of 16 greedy tokens. The",
        f"interval of the same first token is of 90 % (Wilson). {harness.machine()},",
        f"{harness.versions('torch', 'transformers')}.",
        "",
        *(line for title, outcomes in studies.items() for line in lines_of(title, outcomes)),
    ]
    rows = [row for title, outcomes in studies.items() for row in rows_of(title, outcomes)]
    harness.write("kvcache", "Cached chunks", notes, rows, lambda figure: draw(figure, studies))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four questions, three strategies; writes nothing")
    parser.add_argument("--model", default="local:gemma-3-270m", help="local:NAME, or llama-8b-shaped")
    parser.add_argument("--data", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--questions", type=int, default=200, help="of each stream, at most")
    parser.add_argument("--k", type=int, default=5, help="passages of a prompt")
    parser.add_argument("--shares", nargs="+", type=float, default=[0.1, 0.2])
    parser.add_argument("--strategies", nargs="+", help="kinds of strategies, all if left out; full always")
    parser.add_argument("--budget", type=float, default=2.0, help="GiB of a store")
    parser.add_argument("--cache", type=Path, default=default_cache() / "kvcache", help="references and results")
    options = parser.parse_args()
    if options.model == "llama-8b-shaped":
        import kv_device

        kv_device.main(options.k, options.shares)
        return
    with ExitStack() as stack:
        if options.quick:
            options.data, options.questions, options.shares = ["hotpotqa_train_sample"], 4, [0.2]
            options.strategies = ["naive", "cacheblend"]
            options.cache = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model: Any = load(options.model, threads=1)
        studies: dict[str, dict[str, Outcome]] = {}
        for data in options.data:
            title = f"{data}, {options.k} passages"
            questions, others = stream(data, options.questions, options.k, options.cache)
            chosen = {
                name: strategy
                for name, strategy in contestants(options.shares, others).items()
                if not options.strategies or name.partition(" ")[0] in ("full", *options.strategies)
            }
            folder = options.cache / f"{options.model.replace(':', '-')}-{data}-{options.k}"
            bench = Bench(model, questions, folder, int(options.budget * 2**30))
            studies[title] = {}
            for name, strategy in chosen.items():
                studies[title][name] = bench.outcome(name, strategy)
                print("\n".join(lines_of(title, studies[title])), flush=True)
                if not options.quick:  # after each: all of them take hours
                    write(studies, options.model)


if __name__ == "__main__":
    main()
