"""The calls of pymilvus that we use, with its failures explained and the token kept out of them."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rag.errors import CollectionError, EngineError, MissingExtraError, RagError

__all__ = ["MilvusClient"]

TOKEN = "MILVUS_TOKEN"  # noqa: S105  the name of the variable
CONNECT_SECONDS = 10.0
CALL_SECONDS = 60.0
LOAD_SECONDS = 600.0
_REFUSED = ("unauthenticated", "auth check failure", "permission deny", "permissiondenied", "invalid token")
_UNREACHABLE = ("unavailable", "deadline", "connect", "channel", "timeout")


class MilvusClient:
    """A connection to a Milvus server, or to a file (`embedded`) that is served within this process.

    `address` is how messages name it, `uri` what pymilvus takes. Every call has a time-out and raises EngineError.
    """

    def __init__(self, address: str, uri: str, database: str, *, embedded: bool = False) -> None:
        self.address = address
        self._embedded = embedded
        self._pymilvus = _import_pymilvus(embedded=embedded)
        self._closed = False
        token = os.environ.get(TOKEN, "")
        if embedded:
            with self._explained():
                Path(uri).parent.mkdir(parents=True, exist_ok=True)
            _use_file(uri)
        try:
            with self._explained():
                self._client = self._pymilvus.MilvusClient(
                    uri, db_name=database, token="" if embedded else token, timeout=CONNECT_SECONDS
                )
        except BaseException:
            if embedded:
                _leave_file(uri)
            raise

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._client.close()
            if self._embedded:
                _leave_file(self.address)

    def ensure_collection(self, name: str, dim: int, metric: str) -> None:
        """Make the collection, or check that the one that is there fits, and have it loaded for searching."""
        with self._explained():
            if self._client.has_collection(name, timeout=CALL_SECONDS):
                self._check_fit(name, dim, metric)
                self._client.load_collection(name, timeout=LOAD_SECONDS)
                return
            types = self._pymilvus.DataType
            schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("id", types.INT64, is_primary=True)
            schema.add_field("vector", types.FLOAT_VECTOR, dim=dim)
            index = self._client.prepare_index_params()
            kind = "FLAT" if self._embedded else "AUTOINDEX"
            index.add_index("vector", index_type=kind, metric_type=metric)
            self._client.create_collection(
                name, schema=schema, index_params=index, consistency_level="Strong", timeout=LOAD_SECONDS
            )

    def _check_fit(self, name: str, dim: int, metric: str) -> None:
        fields = {f["name"]: f for f in self._client.describe_collection(name, timeout=CALL_SECONDS)["fields"]}
        types = self._pymilvus.DataType
        found = {field: description["type"] for field, description in fields.items()}
        if found != {"id": types.INT64, "vector": types.FLOAT_VECTOR}:
            raise EngineError(
                f"{self._where}: collection {name!r} has the fields {sorted(fields)}, not a number 'id' and a 'vector'",
                hint="it was made by something else: name another",
            )
        stored = int(fields["vector"]["params"]["dim"])
        if stored != dim:
            raise EngineError(f"{self._where}: collection {name!r} holds vectors of {stored} numbers, not {dim}")
        measured = self._client.describe_index(name, "vector", timeout=CALL_SECONDS)["metric_type"]
        if measured != metric:
            raise EngineError(f"{self._where}: collection {name!r} measures by {measured}, not {metric}")

    def insert(self, name: str, rows: list[dict[str, Any]]) -> None:
        with self._explained():
            self._client.insert(name, rows, timeout=CALL_SECONDS)

    def delete(self, name: str, ids: list[int]) -> None:
        with self._explained():
            self._client.delete(name, ids=ids, timeout=CALL_SECONDS)

    def query(self, name: str, **wanted: Any) -> Sequence[dict[str, Any]]:
        with self._explained():
            found: Sequence[dict[str, Any]] = self._client.query(
                name, consistency_level="Strong", timeout=CALL_SECONDS, **wanted
            )
        return found

    def search(self, name: str, **wanted: Any) -> Sequence[Sequence[dict[str, Any]]]:
        with self._explained():
            found: Sequence[Sequence[dict[str, Any]]] = self._client.search(
                name, anns_field="vector", consistency_level="Strong", timeout=CALL_SECONDS, **wanted
            )
        return found

    @property
    def _where(self) -> str:
        return f"Milvus at {self.address}"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the client raises into EngineError; the token never shows."""
        if self._closed:
            raise CollectionError(f"{self._where} was closed", hint="open it again")
        try:
            yield
        except RagError:
            raise
        except Exception as error:  # noqa: BLE001  of pymilvus, of gRPC beneath it, of a server that answers nonsense
            text = _without_token(_reason(error))
            raise EngineError(f"{self._where}: {text}", hint=self._hint(text.lower())) from None

    def _hint(self, text: str) -> str | None:
        if self._embedded:
            return "is another process using it (embedded Milvus serves one at a time), or can it not be written?"
        if any(sign in text for sign in _REFUSED):
            return f"set the environment variable {TOKEN} to USER:PASSWORD or to an API key that may use this database"
        if "database" in text and ("not found" in text or "not exist" in text):
            return "make the database on the server, or leave it out of the URI"
        if any(sign in text for sign in _UNREACHABLE):
            return "is the server running, and are host and port right?"
        return None


def _reason(error: BaseException) -> str:
    """What the error says, or gRPC's beneath it, of which pymilvus tells no more than "Fail connecting"."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:  # pymilvus says `raise e from e`
        chain.append(cause)
        cause = cause.__cause__
    for deeper in reversed(chain):
        if callable(code := getattr(deeper, "code", None)) and callable(details := getattr(deeper, "details", None)):
            return f"{code().name}: {details()}"
    return str(getattr(error, "message", "") or error) or type(error).__name__


def _without_token(text: str) -> str:
    token = os.environ.get(TOKEN, "")
    for secret in (token, token.partition(":")[2]):
        if secret:
            text = text.replace(secret, "***")
    return text


def _import_pymilvus(*, embedded: bool) -> Any:
    """The module, silent where it is not the caller's own: what fails is raised, and not printed besides."""
    first = "pymilvus" not in sys.modules
    try:
        pymilvus = importlib.import_module("pymilvus")
        if embedded:
            importlib.import_module("milvus_lite")
    except ImportError as error:
        raise MissingExtraError("the engine milvus", "milvus") from error
    if first:
        for name in ("pymilvus", "pymilvus.milvus_client", "milvus_lite"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    return pymilvus


_files: Counter[str] = Counter()
_files_changing = threading.Lock()


def _use_file(path: str) -> None:
    with _files_changing:
        _files[path] += 1


def _leave_file(path: str) -> None:
    """Stop serving a file that nobody in this process uses any more, so that another process can."""
    with _files_changing:
        _files[path] -= 1
        if _files[path] > 0:
            return
        del _files[path]
        importlib.import_module("milvus_lite.server_manager").server_manager_instance.release_server(path)
