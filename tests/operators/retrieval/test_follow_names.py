"""Documents that the best hits name join them, or gain."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag.collection import Collection
from rag.errors import ConfigError, InputError
from rag.operators.retrieval import FollowNames
from rag.types import Chunk, Document, Hits, Query

TEXTS = {
    "song": ("Hello Love", "Hello Love is a song by Hank Snow."),
    "singer": ("Hank Snow", "Hank Snow was a singer. He lived in Nashville, Tennessee."),
    "city": ("Nashville", "Nashville lies on a river."),
    "planet": ("Mercury (planet)", "The planet nearest to the sun."),
    "metal": ("Mercury (element)", "A liquid metal."),
    "list": ("Other things", "Mercury is named here, and Other Things too."),
    "plain": ("", "no title and no names"),
}


@pytest.fixture(scope="module")
def kb(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return make(tmp_path_factory.mktemp("names") / "kb")


def make(path: Path) -> Collection:
    return filled(Collection.create(path, encoder="hashing:64"), TEXTS)


def filled(kb: Collection, texts: dict[str, tuple[str, str]]) -> Collection:
    """One chunk for each line."""
    documents = [Document(id, text, {"title": title} if title else {}) for id, (title, text) in texts.items()]
    with kb.writer() as writer:
        pieces = [chunks(document) for document in documents]
        writer.add(documents, pieces, kb.encoder.encode_documents([chunk.text for own in pieces for chunk in own]))
        writer.commit()
    return kb.refresh()


def chunks(document: Document) -> list[Chunk]:
    starts = [0, *(at + 1 for at, letter in enumerate(document.text) if letter == "\n")]
    ends = [*(start - 1 for start in starts[1:]), len(document.text)]
    return [Chunk(document.id, document.text[a:b], a, b) for a, b in zip(starts, ends, strict=True)]


def ids(kb: Collection, *documents: str) -> list[int]:
    return [int(kb.chunk_ids(document)[0]) for document in documents]


def hits(kb: Collection, **scores: float) -> Hits:
    order = sorted(scores, key=lambda document: -scores[document])
    return Hits(ids(kb, *order), [scores[document] for document in order], store=kb)


def named(kb: Collection, found: Hits) -> list[str]:
    return [chunk.document for chunk in kb.chunks(found.ids)]


def test_what_the_best_hit_names_joins_by_its_share_of_the_score(kb: Collection):
    found = FollowNames(follow=1).run(hits(kb, song=3.0, plain=2.2, planet=1.0), collection=kb)
    assert named(kb, found) == ["song", "plain", "singer", "planet"]
    assert found.scores.tolist() == pytest.approx([1.0, 0.6, 0.5, 0.0])
    assert found.columns["named_by"].tolist() == [-1, -1, *ids(kb, "song"), -1]


def test_what_was_found_and_is_named_gains(kb: Collection):
    found = FollowNames(weight=1.5).run(hits(kb, song=1.0, plain=0.9, singer=0.0), collection=kb)
    assert named(kb, found)[0] == "singer"
    assert found.scores[0] == pytest.approx(1.5)


def test_further_steps_follow_what_was_named(kb: Collection):
    once, twice = (FollowNames(hops=hops).run(hits(kb, song=1.0), collection=kb) for hops in (1, 2))
    assert named(kb, once) == ["song", "singer"]
    assert named(kb, twice) == ["song", "singer", "city"]
    assert twice.scores.tolist() == [1.0, 0.5, 0.25]
    assert named(kb, FollowNames(hops=4).run(hits(kb, song=1.0), collection=kb)) == named(kb, twice)


def test_what_was_named_stays_when_it_outranks_what_names_it(kb: Collection):
    found = FollowNames(hops=2, follow=1, weight=1.5).run(hits(kb, song=1.0), collection=kb)
    assert named(kb, found) == ["city", "singer", "song"]
    assert found.scores.tolist() == [2.25, 1.5, 1.0]
    assert found.columns["named_by"].tolist() == [*ids(kb, "singer", "song"), -1]


def test_a_title_of_several_documents_is_shared_and_ones_own_is_none(kb: Collection):
    found = FollowNames(weight=0.5).run(hits(kb, list=1.0), collection=kb)
    assert sorted(named(kb, found)) == ["list", "metal", "planet"]
    assert found.scores.tolist() == [1.0, 0.25, 0.25]


def test_filters_hold_for_what_is_followed_to(kb: Collection):
    some = hits(kb, song=1.0)
    assert named(kb, FollowNames(filter='document != "singer"').run(some, collection=kb)) == ["song"]
    assert named(kb, FollowNames().run(some, Query("x", filter='document != "singer"'), collection=kb)) == ["song"]
    with pytest.raises(ConfigError):
        FollowNames(filter="title ==").run(some, collection=kb)


def test_k_cuts_and_nothing_stays_nothing(kb: Collection):
    assert named(kb, FollowNames(k=1).run(hits(kb, song=1.0), collection=kb)) == ["song"]
    assert len(FollowNames().run(Hits(store=kb), collection=kb)) == 0
    assert named(kb, FollowNames(field="colour").run(hits(kb, song=1.0), collection=kb)) == ["song"]


def test_titles_are_those_of_the_collections_present_state(tmp_path: Path):
    kb = make(tmp_path / "kb")
    some = hits(kb, song=1.0)
    assert len(FollowNames().run(some, collection=kb)) == 2
    kb = filled(kb, {"singer": ("Somebody Else", "renamed")})
    assert len(FollowNames().run(hits(kb, song=1.0), collection=kb)) == 1


def test_a_document_of_several_chunks_gains_where_it_was_found(tmp_path: Path):
    texts = {"long": ("Long Tale", "one\ntwo\nthree"), "short": ("Short", "It cites Long Tale.")}
    kb = filled(Collection.create(tmp_path / "kb", encoder="hashing:64"), texts)
    first, second, _ = kb.chunk_ids("long").tolist()
    (short,) = kb.chunk_ids("short").tolist()
    found = FollowNames().run(Hits([short, second], [1.0, 0.0], store=kb), collection=kb)
    assert found.ids.tolist() == [short, second]
    assert FollowNames().run(Hits([short], [1.0], store=kb), collection=kb).ids.tolist() == [short, first]


def test_hits_of_another_collection_are_refused(kb: Collection, tmp_path: Path):
    with pytest.raises(InputError, match="meet the collection"):
        FollowNames().run(hits(kb, song=1.0), collection=make(tmp_path / "other"))
