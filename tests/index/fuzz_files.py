"""Opens damaged and forged index files: `python -m tests.index.fuzz_files --seconds 60 --seed 1`.

Sound files are changed in four ways: bytes at random, as damage does it; bytes at random under checksums made anew;
the table's JSON, value by value, under checksums made anew; and what is stored (settings and sections) written by the
writer itself. Whatever is then opened and used must work or raise a child of RagError. Damage that no checksum covers
up must be noticed, or change nothing. The file at which it stopped is left where the last line says.
"""

from __future__ import annotations

import argparse
import copy
import faulthandler
import json
import random
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from rag._native import crc32c
from rag.errors import CollectionError, RagError
from rag.index import CODECS, LexicalIndex, ScanIndex, merge_lexical, search_lexical
from rag.index.files import ALIGNMENT, HEADER, read_sections, write_sections
from rag.index.multivector import TOKEN_CODECS, MultiVectorIndex, TokenStore

DIM = 20
WORDS = "wings of birds and jets in the flutter of wind over engines".split()

Json: TypeAlias = Any


@dataclass(frozen=True)
class Sample:
    """A sound file, and what is answered from it."""

    kind: str
    data: bytes
    answer: bytes


def parts(data: bytes) -> tuple[bytes, Json, bytes]:
    """Header, table, and the rest, of a sound file."""
    end = ALIGNMENT + HEADER.unpack_from(data)[2]
    return data[:ALIGNMENT], json.loads(data[ALIGNMENT:end]), data[end:]


def assembled(table: Json, rest: bytes, room: int, version: int = 2) -> bytes:
    """A file with this table, padded to `room` bytes, under checksums that are right."""
    text = json.dumps(table).encode().ljust(room)
    return sealed(HEADER.pack(b"RAGINDEX", version, len(text), 0, 0, 0).ljust(ALIGNMENT, b"\0") + text + rest)


def sealed(data: bytes) -> bytes:
    """The same file with lengths and checksums of header and table made right."""
    magic, version, table, *_ = HEADER.unpack_from(data)
    text = data[ALIGNMENT : ALIGNMENT + table]
    start = HEADER.pack(magic, version, table, len(data), crc32c(text), 0)[:-4]
    return start + struct.pack("<I", crc32c(start)) + data[HEADER.size :]


def use(kind: str, path: Path) -> bytes:
    """Open a file and do everything that reads it; what it answers."""
    if kind == "lexical":
        index = LexicalIndex.open(path)
        merge_lexical([index, LexicalIndex.build([1 << 40], ["other wings"], language=index.language)])
        index.save(path.with_suffix(".saved"))
        found = search_lexical([index], ["wings jets", "flutter"], 5, threads=1)
        return found.ids.tobytes() + found.scores.tobytes()
    if kind in ("tokens", "multivector"):
        return use_tokens(kind, path)
    scan = ScanIndex.open(path)
    queries = np.cos(np.arange(3 * scan.dim, dtype=np.float32)).reshape(3, scan.dim)
    answers = [scan.search(queries, 5, threads=1), scan.search(queries, 40, rerank=40, threads=2)]
    answers.append(scan.search(queries, 3, filter=np.arange(0, 30, 3), threads=1))
    scan.save(path.with_suffix(".saved"))
    known = answers[1].ids[answers[1].ids >= 0]
    decoded = scan.vectors(known)
    scan.stats()
    scan.delete(known[:3])
    if scan.dim < 500:  # an empty index would first learn, from one vector, for long
        scan.add(np.array([1 << 40]), np.ones((1, scan.dim), np.float32))
        scan.search(queries, 5, threads=1)
    return b"".join(found.ids.tobytes() + found.scores.tobytes() for found in answers) + decoded.tobytes()


def use_tokens(kind: str, path: Path) -> bytes:
    store = TokenStore.open(path) if kind == "tokens" else MultiVectorIndex.open(path)
    query = np.cos(np.arange(5 * store.dim, dtype=np.float32)).reshape(5, store.dim)
    found = [store.search(query, [0, 2, 5], 9, threads=1)] if isinstance(store, MultiVectorIndex) else []
    tokens = store if isinstance(store, TokenStore) else store.store
    found += [tokens.maxsim(query, [0, 2, 5], k, threads=threads) for k, threads in ((5, 1), (40, 2))]
    found.append(tokens.maxsim(query, [0, 2, 5], 3, filter=np.arange(0, 30, 3), threads=1))
    known = np.unique(found[0].ids[found[0].ids >= 0])
    decoded, _ = tokens.vectors(known)
    copy = TokenStore.like(tokens)
    copy.append(tokens, known)
    store.save(path.with_suffix(".saved"))
    store.stats()
    store.delete(known[:3])
    store.compact()
    if store.dim < 500:  # an empty store would first learn matrices of that size
        store.add(np.array([1 << 40]), np.eye(2, store.dim, dtype=np.float32), np.array([0, 2]))
    return b"".join(one.ids.tobytes() + one.scores.tobytes() for one in found) + decoded.tobytes()


def samples(folder: Path) -> list[Sample]:
    rng = np.random.default_rng(0)
    found = []
    path = folder / "sample"

    def take(kind: str) -> None:
        found.append(Sample(kind, path.read_bytes(), use(kind, path)))

    for number, codec in enumerate(CODECS):
        for rows in (0, 70):
            index = ScanIndex(DIM, ("ip", "cosine", "l2")[number % 3], codec)
            index.add(np.arange(rows), rng.normal(size=(rows, DIM)).astype(np.float32))
            index.delete(np.arange(5))
            index.save(path)
            take("scan")
    offsets = np.arange(0, 91, 3)
    tokens = rng.normal(size=(90, DIM)).astype(np.float32)
    for token_codec in TOKEN_CODECS:
        for documents in (0, 30):
            store = TokenStore(DIM, token_codec)
            store.add(np.arange(documents), tokens[: 3 * documents], offsets[: documents + 1])
            store.delete(np.arange(5))
            store.save(path)
            take("tokens")
    many = MultiVectorIndex(DIM, generator="mean")
    many.add(np.arange(30), tokens, offsets)
    many.save(path)
    take("multivector")
    texts = [" ".join(rng.choice(WORDS, 8)) for _ in range(40)]
    LexicalIndex.build(np.arange(40), texts).save(path)
    take("lexical")
    return found


def scarred(rng: random.Random, data: bytes) -> bytes:
    """Bytes flipped, zeroed, overwritten, cut out, cut off or put in."""
    raw = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 4])):
        if not raw:
            break
        at = rng.choice([rng.randrange(len(raw)), rng.randrange(min(len(raw), 200))])
        size = rng.choice([1, 8, 64, 8192])
        what = rng.randrange(6)
        if what == 0:
            raw[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            raw[at : at + size] = bytes(len(raw[at : at + size]))
        elif what == 2:
            raw[at : at + size] = rng.randbytes(len(raw[at : at + size]))
        elif what == 3:
            del raw[at : at + size]
        elif what == 4:
            del raw[at:]
        else:
            raw[at:at] = rng.randbytes(size)
    return bytes(raw)


ODD: list[Json] = [
    None, True, False, -1, 0, 1, 7, 63, 64, 65, 1 << 20, 1 << 31, 1 << 32, 1 << 62, (1 << 63) - 1, 1 << 63,
    (1 << 64) - 1, 1 << 64, -(1 << 63), 10**40, 1.5, -0.0, 1e308, float("nan"), float("inf"), "", "x", "\ud800", "ids",
    "float32", "leanvec", "cosine", "uint16", "float64", "object", "S3", "scan", [], {}, [[]], [64, 64], [-1], {"x": 1},
]  # fmt: skip


def places(node: Json, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to every value in it."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*at, key)
        yield from places(value, (*at, key))


def forged(rng: random.Random, node: Json) -> Json:
    """A copy of it with a value or a few replaced, nudged, removed, doubled, or exchanged for another one."""
    node = copy.deepcopy(node)
    for _ in range(rng.choice([1, 1, 2, 5])):
        if not (paths := list(places(node))):
            break
        *path, key = rng.choice(paths)
        parent = node
        for step in path:
            parent = parent[step]
        what = rng.randrange(6)
        if what == 0 and type(parent[key]) is int:
            parent[key] += rng.choice([-64, -1, 1, 64, 4096])
        elif what == 1:
            del parent[key]
        elif what == 2 and isinstance(parent, list):
            parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(parent[key]))
        elif what == 3:
            other = rng.choice(paths)
            value = node
            for step in other:
                try:
                    value = value[step]
                except (LookupError, TypeError):
                    break
            parent[key] = copy.deepcopy(value)
        else:
            parent[key] = copy.deepcopy(rng.choice(ODD))
    return node


def as_damage(rng: random.Random, sample: Sample, path: Path) -> None:
    path.write_bytes(scarred(rng, sample.data))


def with_new_checksums(rng: random.Random, sample: Sample, path: Path) -> None:
    data = scarred(rng, sample.data)
    path.write_bytes(sealed(data) if len(data) >= HEADER.size else data)


def with_another_table(rng: random.Random, sample: Sample, path: Path) -> None:
    header, table, rest = parts(sample.data)
    room, version = HEADER.unpack(header[: HEADER.size])[2], rng.choice([1, 2, 2, 2])
    if version == 1:
        for entry in table["sections"]:
            entry["crc32c"] = (entry["crc32c"] or [0])[0]  # these sections are no longer than a chunk
    path.write_bytes(assembled(forged(rng, table) if rng.random() < 0.95 else table, rest, room, version))


def with_other_contents(rng: random.Random, sample: Sample, path: Path) -> None:
    path.write_bytes(sample.data)
    file = read_sections(path, sample.kind)
    meta, sections = file.meta, {name: file.section(name).tobytes() for name in file.names}
    if rng.random() < 0.5:
        meta = forged(rng, meta)
    for name in rng.sample(sorted(sections), rng.choice([0, 1, 1, 2])):
        sections[name] = scarred(rng, sections[name])
    if rng.random() < 0.1:
        del sections[rng.choice(sorted(sections))]
    pieces = {name: [np.frombuffer(content, np.uint8)] for name, content in sections.items()}
    write_sections(path, sample.kind, meta, pieces)


WAYS: list[Callable[[random.Random, Sample, Path], None]] = [
    as_damage, with_new_checksums, with_another_table, with_other_contents
]  # fmt: skip


def run(folder: Path, seed: int, seconds: float, rounds: int | None = None) -> tuple[int, int]:
    """Try until the time is over, or so many times; how many files there were, and how many of them were refused."""
    sound = samples(folder)
    path = folder / "current"
    deadline = time.monotonic() + seconds
    number = refused = 0
    while time.monotonic() < deadline and number != rounds:
        rng = random.Random(f"{seed} {number}")
        sample, way = rng.choice(sound), rng.choice(WAYS)
        way(rng, sample, path)
        try:
            answer = use(sample.kind, path)
            if way is as_damage and answer != sample.answer:
                raise AssertionError("a damaged file was answered from")
        except CollectionError:
            refused += 1
        except RagError as error:
            if way is as_damage:
                raise AssertionError(f"a damaged file is blamed on the caller: {error!r}") from error
            refused += 1
        except BaseException:
            print(f"round {number} of seed {seed}: {way.__name__}, {sample.kind}; the file is {path}", flush=True)
            raise
        number += 1
    return number, refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    faulthandler.enable()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-files-"))
    print(f"the file that is being tried: {folder / 'current'}", flush=True)
    number, refused = run(folder, chosen.seed, chosen.seconds)
    print(f"{number} files, {refused} of them refused, the others answered from; no other error")


if __name__ == "__main__":
    main()
