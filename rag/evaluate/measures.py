"""How good rankings and answers are, query by query."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rag.errors import InputError, MissingExtraError, did_you_mean
from rag.evaluate.diversity import is_diversity_measure

__all__ = ["ANSWER_MEASURES", "check", "exact_match", "f1", "judge_answers", "judge_rankings"]

KNOWN = (
    "nDCG@10",
    "Recall@100",
    "RR",
    "RR@10",
    "AP",
    "P@5",
    "Success@5",
    "ILD@10",
    "StRecall@10",
    "alpha_nDCG@10",
    "EM",
    "F1",
)


def check(names: Iterable[str]) -> None:
    """Raises InputError for a name that is no measure, MissingExtraError when one needs the extra `eval`."""
    for name in names:
        if name not in ANSWER_MEASURES and not is_diversity_measure(name):
            _parse(name)


def judge_rankings(
    names: Sequence[str], qrels: Mapping[str, Mapping[str, int]], rankings: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float]]:
    """Measure -> query id -> value of a ranking (document ids, best first); 0 where nothing was found.

    Names are those of `ir_measures`, such as nDCG@10, Recall@100, RR, AP; values are trec_eval's (gains are linear).
    """
    if not names:
        return {}
    measures = {name: _parse(name) for name in names}
    # trec_eval orders by score and would break ties by itself, so ranks are the scores.
    run = {query: {d: -float(rank) for rank, d in enumerate(ids)} for query, ids in rankings.items() if len(ids)}
    values = {name: dict.fromkeys(qrels, 0.0) for name in names}
    import ir_measures

    plain = {query: dict(judged) for query, judged in qrels.items()}
    for metric in ir_measures.iter_calc(list(measures.values()), plain, run):
        for name in (name for name, measure in measures.items() if measure == metric.measure):
            values[name][metric.query_id] = float(metric.value)
    return values


def judge_answers(
    names: Sequence[str], accepted: Mapping[str, Sequence[str]], answers: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """Measure -> query id -> value of an answer, for the queries with accepted answers; 0 where there is none."""
    return {
        name: {query: ANSWER_MEASURES[name](answers.get(query, ""), wanted) for query, wanted in accepted.items()}
        for name in names
    }


def exact_match(answer: str, accepted: Sequence[str]) -> float:
    """1 when the answer equals an accepted one but for case, punctuation, articles and spaces, else 0.

    By the rules of SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1).
    """
    return float(any(_words(answer) == _words(wanted) for wanted in accepted))


def f1(answer: str, accepted: Sequence[str]) -> float:
    """The largest F1 of words shared by the answer and an accepted one, from 0 to 1, by the rules of SQuAD."""
    return max((_overlap(_words(answer), _words(wanted)) for wanted in accepted), default=0.0)


ANSWER_MEASURES: Mapping[str, Callable[[str, Sequence[str]], float]] = {"EM": exact_match, "F1": f1}


def _words(text: str) -> list[str]:
    plain = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def _overlap(answer: list[str], wanted: list[str]) -> float:
    if not answer or not wanted:
        return float(answer == wanted)
    return 2 * (Counter(answer) & Counter(wanted)).total() / (len(answer) + len(wanted))


def _parse(name: str) -> Any:
    try:
        import ir_measures
    except ImportError:
        raise MissingExtraError(f"the measure {name}", "eval") from None
    try:
        return ir_measures.parse_measure(name)
    except (NameError, ValueError):
        raise InputError(f"no measure {name!r}", hint=did_you_mean(name, KNOWN)) from None
