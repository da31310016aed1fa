"""Making an empty collection."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rag.collection import database, locks, segments
from rag.collection.engine import Mirror
from rag.collection.files import sync
from rag.collection.manifest import DAMAGED, EncoderRecord, Manifest, TokensRecord
from rag.collection.manifest import NAME as MANIFEST
from rag.collection.storage import Keeping, Storage
from rag.encoders import Encoder, MultiVectorEncoder
from rag.errors import CollectionError, DamagedFileError
from rag.index import LexicalIndex, Metric
from rag.index.engines import canonical_uri
from rag.index.multivector import TokenCodec, TokenStore

__all__ = ["make"]


def make(
    folder: Path,
    *,
    encoder: Encoder,
    token_encoder: MultiVectorEncoder | None,
    token_codec: TokenCodec | None,
    metric: Metric,
    codec: Keeping,
    engine: str | None,
    language: str,
    settings: Mapping[str, Any],
) -> None:
    """Make an empty collection in a new or empty folder; see `rag.collection.Collection.create`."""
    uri = None if engine is None else canonical_uri(engine)
    kept: Keeping = "float32" if codec == "auto" and uri is not None else codec
    Storage(uri, encoder.dim, metric, kept).buffer()  # refuses what cannot be
    if token_encoder is not None and token_codec is not None:
        TokenStore(token_encoder.dim, token_codec)
    LexicalIndex.build(segments.NONE, [], language=language)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CollectionError(f"{folder} cannot be made a collection: {error.strerror}") from error
    if (folder / MANIFEST).is_file():
        raise CollectionError(f"{folder} already holds a collection", hint="open it with Collection.open")
    # What a creation that was cut off leaves behind is taken over.
    ours = {"lock", "readers", "segments", "milvus.db", MANIFEST + ".new"}
    others = [p.name for p in folder.iterdir() if p.name not in ours and not p.name.startswith(database.NAME)]
    if others:
        raise CollectionError(f"{folder} holds other files, such as {others[0]!r}", hint="name a new folder")
    now = datetime.now(timezone.utc)
    manifest = Manifest(
        collection=uuid.uuid4().hex,
        generation=0,
        created=now,
        updated=now,
        encoder=EncoderRecord(
            name=encoder.name,
            fingerprint=encoder.fingerprint,
            dim=encoder.dim,
            max_tokens=encoder.max_tokens,
        ),
        tokens=None if token_encoder is None else TokensRecord.of(token_encoder, token_codec),
        metric=metric,
        codec=kept,
        engine=uri,
        language=language,
        settings=json.loads(database.dump_metadata(settings, "settings")),
        documents=0,
        chunks=0,
        next_chunk=0,
        next_file=0,
        segments=(),
    )
    with locks.writing(folder, wait=0), database.explained(folder):
        (folder / "segments").mkdir(exist_ok=True)
        if (mirror := Mirror.of(folder, manifest)) is not None:
            mirror.connect()
            mirror.close()
        db = database.connect_writer(folder)
        try:
            if int(database.recall(db).get("generation", 0)) > 0:
                raise DamagedFileError(
                    f"{folder} holds a collection whose {MANIFEST} is missing",
                    hint=DAMAGED,
                )
            database.remember(db, manifest)
        finally:
            db.close()
        locks.announce(folder, 0)
        manifest.write(folder)
        sync(folder.absolute().parent)
