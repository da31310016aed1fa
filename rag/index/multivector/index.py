"""Late interaction over a collection: candidates by one vector a document, then exact MaxSim on their tokens."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from rag.errors import ConfigError, DamagedFileError, InputError, did_you_mean
from rag.index.files import REBUILD, SectionFile, read_sections, write_sections
from rag.index.filter import IdFilter
from rag.index.graph import GraphIndex, GraphStats
from rag.index.inputs import as_ids, check_count, check_k
from rag.index.multivector.budget import DEPTHS, OTHERS, CandidateCurve, measure, predicted, stand_ins
from rag.index.multivector.candidates import Stages
from rag.index.multivector.centroids import LEARNED_FROM, CentroidIndex, centroids_for, learn_centroids
from rag.index.multivector.choice import suited_generator
from rag.index.multivector.fde import FixedDimensionalEncoding
from rag.index.multivector.first_stage import FirstStage, means
from rag.index.multivector.inputs import as_token_sets
from rag.index.multivector.kmeans import sampled
from rag.index.multivector.store import TokenCodec, TokenStats, TokenStore
from rag.index.native import Codec, ScanStats
from rag.index.protocol import Matches

__all__ = ["MultiVectorIndex", "MultiVectorStats"]

Candidates: TypeAlias = Literal["auto", "mean", "fde", "given", "centroids", "none"]

_FEW = 256  # fewer documents are all compared
_UNDECIDED = 2000  # and fewer than these, while it is open what candidates are found by
_BLOCK = 2048  # documents whose tokens are read at a time
_GROWTH = 1.5  # the curve is measured anew when there are so many times the documents
_PRODUCTS = 1 << 30  # of token pairs, that measuring the curve may take at most: some seconds
_QUERIES = (16, 256)  # stand-ins, at least and at most
_SAMPLE = 1024  # documents to which they are led, and whose vectors are compared with their tokens
_FOUND = 0.25  # of the misses that are allowed, the first stage may make
_MORE_TOKENS = 4  # centroids are learned anew when there are so many times the tokens, and more of them suit


@dataclass(frozen=True, slots=True)
class MultiVectorStats:
    """What an index holds: its tokens, its vectors (None without), its centroids (`bytes` by part, empty without), and
    the measured curve of candidates."""

    documents: int
    tokens: TokenStats
    vectors: ScanStats | GraphStats | None
    centroids: int
    centroid_bytes: Mapping[str, int]
    candidates: CandidateCurve | None


class MultiVectorIndex:
    """Documents as sets of token vectors, found by MaxSim: the sum of each query token's best inner product.

    `dim`: numbers a token. `generator`: how candidates are found. By one vector a document: "mean" of its tokens, "fde"
    (`encoding`, or 5,120 numbers), or "given" to `add` and `search` by the caller (of `vector_dim` numbers). By the
    "centroids" of its tokens alone. Or "none": every search compares all tokens. "auto" is "none" up to 2,000
    documents, and then "mean", "fde" or "centroids", whichever makes searches cheapest on these. `centroids`: whether
    what vectors find is narrowed down by centroids, after which far fewer documents must be compared, at a byte or two
    a token. `tokens`: the codec of the tokens. `codec`: that of the vectors, None for what suits (pq for encodings,
    else leanvec4). `links`: whether they are found along a graph, or scanned.

    How many candidates the wanted recall takes is measured on the index itself: runs of tokens of some documents are
    searched for among the others, exactly and by candidates. Until there are 256 documents all are compared.
    `search` may be called from several threads, also while one adds or deletes.
    MUVERA: Dhulipala et al., NeurIPS 2024; MaxSim: ColBERT, Khattab and Zaharia, SIGIR 2020; centroids: PLAID,
    Santhanam et al., CIKM 2022.
    """

    kind: ClassVar[str] = "multivector"

    def __init__(
        self,
        dim: int,
        generator: Candidates = "auto",
        *,
        encoding: FixedDimensionalEncoding | None = None,
        vector_dim: int | None = None,
        tokens: TokenCodec = "float16",
        codec: Codec | None = None,
        links: bool = True,
        centroids: bool = True,
        seed: int = 0,
    ) -> None:
        if generator not in get_args(Candidates):
            hint = did_you_mean(str(generator), get_args(Candidates))
            raise InputError(f"there is no generator {generator!r}", hint=hint)
        self._store = TokenStore(dim, tokens)
        self._first: FirstStage | None = None
        self._alone = generator == "centroids"  # they find candidates without any vectors
        self._open = generator == "auto"  # what candidates are found by is yet to be decided
        if generator in ("mean", "fde", "given"):
            self._first = FirstStage(dim, generator, encoding, vector_dim, codec, links)
        elif any(given is not None for given in (encoding, vector_dim, codec)):
            raise InputError(f"with generator {generator!r} there is no encoding, no vector_dim, and no codec")
        if self._alone and not centroids:
            raise InputError("generator 'centroids' goes with centroids")
        self._with_centroids = centroids
        self._centroids: CentroidIndex | None = None
        self._learned_at = 0  # tokens
        self._links = links
        self._seed = check_count(seed, "seed")
        self._curve: CandidateCurve | None = None
        self._changing = threading.RLock()

    @property
    def dim(self) -> int:
        """Numbers a token."""
        return self._store.dim

    @property
    def generator(self) -> Candidates:
        """How candidates are found; "auto" as long as that is open."""
        if self._first is not None:
            return self._first.generator
        return "auto" if self._open else "centroids" if self._alone else "none"

    @property
    def store(self) -> TokenStore:
        """The tokens, to read: decoded, or the matches of single tokens."""
        return self._store

    def __len__(self) -> int:
        """Documents that can be found."""
        return len(self._store)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(dim={self.dim}, generator={self.generator!r}, documents={len(self)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a MultiVectorIndex cannot be pickled; use save(path), and open(path) in the other process")

    def learn(self, tokens: NDArray[np.float32]) -> None:
        """Let the codec learn from tokens float32[t, dim], before any are added, as `TokenStore.learn` does."""
        with self._changing:
            self._store.learn(tokens)

    def add(
        self,
        ids: NDArray[np.int64],
        tokens: NDArray[np.float32],
        offsets: NDArray[np.int64],
        vectors: NDArray[np.float32] | None = None,
    ) -> None:
        """Add documents under new ids int64[n] (each >= 0): document i has tokens[offsets[i]:offsets[i + 1]].

        `tokens` float32[t, dim] are of unit length, `offsets` int64[n + 1]; `vectors` float32[n, vector_dim] go with
        generator "given". Raises InputError, and adds nothing, for a document without tokens, offsets that do not fit,
        NaN or infinity, a wrong dimension, an id that is there already or given twice, and vectors missing or too many.
        """
        numbers, (matrix, places) = as_ids(ids), as_token_sets(tokens, offsets, self.dim)
        with self._changing:
            if (first := self._first) is None:
                self._refuse(vectors)
            self._store.add(numbers, matrix, places)
            try:
                if first is not None:
                    first.index.add(numbers, first.vectors_of(matrix, places, vectors, False, 0))
                if self._centroids is not None:
                    self._centroids.add(numbers, matrix, places)
                if self._open and len(self) >= _UNDECIDED:
                    self._decide()
                if len(self) >= _FEW and (self._first is not None or self._alone):
                    self._learn_centroids()
                    curve = self._curve
                    if curve is None or (not curve.real and len(self) >= curve.documents * _GROWTH):
                        self._measure_itself()
            except BaseException:
                self.delete(numbers)
                raise

    def _refuse(self, vectors: Any) -> None:
        if vectors is not None:
            raise InputError(f"there are vectors, and the generator is {self.generator!r}")

    def _decide(self) -> None:
        generator = suited_generator(self._store, np.random.default_rng(self._seed), self._with_centroids)
        if generator != "centroids":
            first = FirstStage(self.dim, generator, links=self._links)
            for ids, tokens, offsets in self._blocks():
                first.index.add(ids, first.vectors_of(tokens, offsets, None, False, 0))
            self._first = first
        self._alone, self._open = generator == "centroids", False

    def _learn_centroids(self) -> None:
        """If they are missing, or others would suit what has come."""
        held = self._store.tokens
        grown = self._centroids is None or (
            held >= self._learned_at * _MORE_TOKENS and centroids_for(held) > self._centroids.centroids
        )
        if not self._with_centroids or not grown:
            return
        rng, ids = np.random.default_rng(self._seed), self._store.ids
        some = np.sort(rng.choice(ids, min(len(ids), LEARNED_FROM * len(ids) // held + 1), replace=False))
        made = CentroidIndex(learn_centroids(self._store.vectors(some)[0], rng))
        for block in self._blocks():
            made.add(*block)
        self._centroids, self._learned_at = made, held

    def _blocks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]]:
        """Ids, tokens and offsets of all documents, so many at a time."""
        ids = self._store.ids
        for start in range(0, len(ids), _BLOCK):
            some = ids[start : start + _BLOCK]
            yield some, *self._store.vectors(some)

    def delete(self, ids: NDArray[np.int64]) -> int:
        """Remove these ids (int64[n]); ids that are not there are passed over. Returns how many were there."""
        with self._changing:
            if self._first is not None:
                self._first.index.delete(ids)
            if self._centroids is not None:
                self._centroids.delete(ids)
            return self._store.delete(ids)

    def compact(self) -> None:
        """Give back the memory of deleted documents."""
        with self._changing:
            self._store.compact()
            if self._first is not None and isinstance(self._first.index, GraphIndex):
                self._first.index.compact()
            if self._centroids is not None:
                self._centroids.compact()

    def search(
        self,
        tokens: NDArray[np.float32],
        offsets: NDArray[np.int64],
        k: int,
        *,
        vectors: NDArray[np.float32] | None = None,
        filter: IdFilter | NDArray[np.int64] | None = None,
        recall: float = 0.95,
        candidates: int = 0,
        threads: int = 0,
    ) -> Matches:
        """The k best documents by MaxSim for each query: ids int64[m, k] and scores float32[m, k], best first.

        Query i has tokens[offsets[i]:offsets[i + 1]], of unit length; `vectors` float32[m, vector_dim] go with
        generator "given". With `filter` (an `IdFilter`, or allowed ids, sorted and unique) among those only. `recall`:
        share of the true k best to be found, on average, above 0 to 1 (all are compared); scores are exact in any case.
        `candidates`: how many documents are compared, in place of `recall`. `threads` 0 means all cores.
        Raises InputError for what `add` refuses, k < 1 and a recall out of range; DamagedFileError when the file it was
        opened from is damaged.
        """
        matrix, places = as_token_sets(tokens, offsets, self.dim)
        wanted, cores, budget = check_k(k), check_count(threads, "threads"), check_count(candidates, "candidates")
        if isinstance(recall, bool) or not isinstance(recall, float | int) or not 0 < recall <= 1:
            raise InputError(f"recall is {recall!r}, expected a number above 0, at most 1")
        allowed = filter if filter is None or isinstance(filter, IdFilter) else IdFilter(filter)
        there = len(self) if allowed is None else len(allowed)
        stages = Stages(self._first, self._centroids)
        if stages.vectors is None:
            self._refuse(vectors)
        if budget == 0 and self._curve is not None and recall < 1:
            budget = self._curve.candidates(wanted, recall, len(self)) or 0
        if not 0 < budget < there or (stages.vectors is None and stages.centroids is None):
            return self._store.maxsim(matrix, places, wanted, filter=allowed, threads=cores)
        made = None if stages.vectors is None else stages.vectors.vectors_of(matrix, places, vectors, True, cores)
        reached = 1 - (1 - recall) * _FOUND
        near = stages.search(matrix, places, made, max(budget, wanted), allowed, reached, cores)
        return self._store.maxsim(matrix, places, wanted, candidates=near, threads=cores)

    def calibrate(
        self,
        tokens: NDArray[np.float32],
        offsets: NDArray[np.int64],
        vectors: NDArray[np.float32] | None = None,
    ) -> CandidateCurve:
        """Measure how recall grows with the candidates, by real queries, given as to `search`; a hundred are enough.

        `add` does so with stand-ins, runs of tokens of documents, and no more once this was called. Hand over the
        latest queries of a log now and then: as documents come, the curve is but stretched. All documents are compared
        with each query. Raises InputError when the index or the queries are empty, and when there are no candidates.
        """
        matrix, places = as_token_sets(tokens, offsets, self.dim)
        if (self._first is None and self._centroids is None) or not len(self) or len(places) < 2:
            what = f"generator {self.generator!r}, {len(self)} documents and {len(places) - 1} queries"
            raise InputError(f"there is nothing to measure: {what}")
        with self._changing:
            first = self._first
            if first is None:
                self._refuse(vectors)
            asked = None if first is None else first.vectors_of(matrix, places, vectors, True, 0)
            return self._measure(matrix, places, asked, None, True)

    def _measure_itself(self) -> None:
        rng, first = np.random.default_rng(self._seed), self._first
        ids = self._store.ids
        most = _PRODUCTS // max(self._store.tokens * 16, 1)
        own = np.sort(rng.choice(ids, min(max(most, _QUERIES[0]), _QUERIES[1], len(ids) // 8), replace=False))
        rest = np.setdiff1d(ids, own)
        sample = np.sort(rng.choice(rest, min(len(rest), _SAMPLE), replace=False))
        others, ends = self._store.vectors(sample)
        tokens, offsets = stand_ins(*self._store.vectors(own), sampled(others, OTHERS, rng), rng)
        asked = None
        if first is not None:
            given = None
            if first.generator == "given":
                given = predicted(means(others, ends), first.index.vectors(sample), means(tokens, offsets))
            asked = first.vectors_of(tokens, offsets, given, True, 0)
        self._measure(tokens, offsets, asked, IdFilter(rest), False)

    def _measure(
        self,
        tokens: NDArray[np.float32],
        offsets: NDArray[np.int64],
        vectors: NDArray[np.float32] | None,
        among: IdFilter | None,
        real: bool,
    ) -> CandidateCurve:
        truth = self._store.maxsim(tokens, offsets, DEPTHS[-1], filter=among).ids
        documents = len(self) if among is None else len(among)
        stages = Stages(self._first, self._centroids)
        self._curve = measure(
            lambda budget: stages.search(tokens, offsets, vectors, budget, among, 0.99, 0), truth, documents, real
        )
        return self._curve

    def stats(self) -> MultiVectorStats:
        """Documents, bytes by part, and the measured curve of candidates."""
        with self._changing:
            vectors = None if self._first is None else self._first.index.stats()
            centroids = self._centroids
            count, sizes = (0, {}) if centroids is None else (centroids.centroids, centroids.bytes())
            return MultiVectorStats(len(self), self._store.stats(), vectors, count, sizes, self._curve)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one file, which is there completely or not at all; searches go on meanwhile.

        Raises CollectionError when it cannot be written; DamagedFileError, as `search` does, rather than copy damage.
        """
        with self._changing:
            parts = {"tokens": self._store._content()}
            first = self._first
            if first is not None:
                parts["vectors"] = first.index._content()
            if self._centroids is not None:
                parts["centroids"] = self._centroids._content()
            meta: dict[str, Any] = {
                "generator": self.generator,
                "encoding": None if first is None or first.encoding is None else first.encoding.describe(),
                "links": self._links,
                "narrowed": self._with_centroids,
                "learned_at": self._learned_at,
                "seed": self._seed,
                "candidates": None if self._curve is None else asdict(self._curve),
            }
            meta |= {name: own for name, (own, _) in parts.items()}
            sections = {f"{name}/{key}": pieces for name, (_, own) in parts.items() for key, pieces in own.items()}
            write_sections(Path(path), self.kind, meta, sections)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> MultiVectorIndex:
        """Map a saved index into memory. Changing it does not touch the file.

        What is small is checked at once, tokens and vectors before they are first read. Raises NotFoundError,
        DamagedFileError (naming the section), or CollectionError for another kind or a version from the future.
        """
        file = read_sections(Path(path), cls.kind)
        try:
            return cls._read(file)
        except (InputError, ConfigError, KeyError, TypeError, ValueError) as error:
            raise DamagedFileError(f"{path} holds no index that can be read: {error}", hint=REBUILD) from error

    @classmethod
    def _read(cls, file: SectionFile) -> MultiVectorIndex:
        meta, tokens = file.meta, file.part("tokens")
        encoding = None if meta["encoding"] is None else FixedDimensionalEncoding.from_description(meta["encoding"])
        form: dict[str, Any] = {"encoding": encoding, "links": meta["links"], "seed": meta["seed"]}
        form["centroids"] = meta.get("narrowed", False)  # older files have none
        if "vectors" in meta:
            form["codec"] = meta["vectors"]["codec"]
        if meta["generator"] == "given":
            form["vector_dim"] = meta["vectors"]["dim"]
        index = cls(tokens.meta["dim"], meta["generator"], tokens=tokens.meta["codec"], **form)
        index._store._attach(tokens)
        if index._first is not None:
            index._first.attach(file.part("vectors"))
            if len(index._first.index) != len(index._store):
                raise InputError(f"{len(index._first.index)} vectors for {len(index._store)} documents")
        if "centroids" in meta:
            index._centroids, index._learned_at = CentroidIndex._read(file.part("centroids")), meta["learned_at"]
            if (index._centroids.dim, len(index._centroids)) != (index.dim, len(index._store)):
                raise InputError(f"centroids for {len(index._centroids)} documents, not {len(index._store)}")
        if meta["candidates"] is not None:
            index._curve = CandidateCurve.read(meta["candidates"])
        return index
