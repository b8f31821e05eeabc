"""A prefix in an S3 bucket as named bytes: read, listed, deleted, and written under conditions that let exactly one writer through.

A conditional write whose reply is lost is made again and comes back as "there is one already". Every such write carries a token of its
own by which it knows itself, so that of all writers one, and only one, is told that the object is his.
"""

import base64
import hashlib
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from ratchet.errors import InputError
from ratchet.infra.bucket_connection import Connection
from ratchet.infra.bucket_errors import Changed, Missing, StoreAway, Torn

__all__ = ["Body", "Bucket", "Entry", "StoreAway"]

PAGE = 1000
"""How much a listing says at a time."""
WRITER = "writer"
"""The metadata field that holds a write's token."""


@dataclass(frozen=True, kw_only=True)
class Body:
    """An object that was read."""

    data: bytes
    etag: str
    age_s: float
    """How long ago it was written, both by the server's clock."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An object in a listing, or an upload in parts that was never completed."""

    key: str
    etag: str
    bytes: int
    age_s: float
    upload: str = ""


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """A prefix in a bucket; keys are relative to it."""

    connection: Connection
    _bare: list[bool] = field(default_factory=list[bool], compare=False, repr=False)
    """Filled once the server turned out to want ETags without their quotes."""

    @property
    def uri(self) -> str:
        return self.connection.uri.rstrip("/")

    def address(self, key: str) -> str:
        """An object's URI."""
        return f"{self.uri}/{key}"

    def place(self, key: str) -> dict[str, str]:
        """An object's bucket and full key, as boto3 wants them."""
        bucket, _, prefix = self.uri.removeprefix("s3://").partition("/")
        return {"Bucket": bucket, "Key": f"{prefix}/{key}" if prefix else key}

    def _prefixed(self, prefix: str) -> dict[str, str]:
        place = self.place(prefix)
        return {"Bucket": place["Bucket"], "Prefix": place["Key"]}

    def _relative(self, key: str) -> str:
        return key.removeprefix(self.place("")["Key"])

    def read(self, key: str) -> Body | None:
        """An object whole, or None. Only its absence is a miss."""

        def get(client: Any) -> Body:
            answer = client.get_object(**self.place(key))
            return Body(data=whole(answer), etag=answer["ETag"], age_s=_age(answer, answer["LastModified"]))

        try:
            return self.connection.call(get)
        except Missing:
            return None

    def read_all(self, keys: Sequence[str]) -> dict[str, Body | None]:
        """Many objects, side by side."""
        found: dict[str, Body | None] = {}
        self._each(keys, lambda key: found.update({key: self.read(key)}))
        return {key: found[key] for key in keys}

    def size(self, key: str) -> int | None:
        """How many bytes an object has, or None."""
        try:
            return int(self._head(key)["ContentLength"])
        except Missing:
            return None

    def list(self, prefix: str, *, after: str = "", pages: int = 1_000_000) -> Iterator[Entry]:
        """Objects whose keys begin with a prefix, in the order of their keys, `PAGE` at a time."""
        more = {"StartAfter": self.place(after)["Key"]} if after else {}
        for _ in range(pages):
            answer = self.connection.call(lambda client, more=more: client.list_objects_v2(**self._prefixed(prefix), MaxKeys=PAGE, **more))  # type: ignore[misc]
            for found in answer.get("Contents", ()):
                yield Entry(key=self._relative(found["Key"]), etag=found["ETag"], bytes=found["Size"], age_s=_age(answer, found["LastModified"]))
            if not answer.get("IsTruncated"):
                return
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    def write_new(self, key: str, data: bytes) -> str | None:
        """Write an object unless there is one; its ETag, or None if there is. Of many at once exactly one is told that it is his."""
        token = uuid.uuid4().hex
        while True:
            try:
                return str(self._put(key, data, token, IfNoneMatch="*")["ETag"])
            except Changed:
                try:
                    now = self._head(key)
                except Missing:
                    continue  # deleted since, so that there is none again
                return str(now["ETag"]) if now["Metadata"].get(WRITER) == token else None

    def replace(self, key: str, data: bytes, etag: str) -> str | None:
        """Write an object in place of one known by its ETag; the new ETag, or None if it is not that one any more."""
        token = uuid.uuid4().hex
        forms = [etag, etag.strip('"')]
        for form in reversed(forms) if self._bare else forms:
            try:
                return str(self._put(key, data, token, IfMatch=form)["ETag"])
            except (Changed, Missing):
                try:
                    now = self._head(key)
                except Missing:
                    return None
            if now["Metadata"].get(WRITER) == token:
                return str(now["ETag"])
            if now["ETag"] != etag:
                return None
            # It is that one, and yet refused: some servers (Ceph 16) compare the quotes that an ETag comes in with a text that has none.
            self._bare[:] = [] if self._bare else [True]
        return None

    def write(self, key: str, data: bytes) -> None:
        """Write an object, whatever was there."""
        self._put(key, data, uuid.uuid4().hex)

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is deleted."""
        self.connection.call(lambda client: client.delete_object(**self.place(key)))

    def delete_all(self, keys: Iterable[str]) -> None:
        """Delete many objects, side by side."""
        self._each(list(keys), self.delete)

    def _head(self, key: str) -> Any:
        return self.connection.call(lambda client: client.head_object(**self.place(key)))

    def _put(self, key: str, data: bytes, token: str, **condition: str) -> Any:
        request = {**self.place(key), "Body": data, "ChecksumSHA256": sha256(data), "Metadata": {WRITER: token}, **condition}
        return self.connection.call(lambda client: client.put_object(**request))

    def _each(self, keys: Sequence[str], does: Callable[[str], object]) -> None:
        self.connection.side_by_side([lambda key=key: does(key) for key in keys])  # type: ignore[misc]

    def uploads(self) -> Iterator[Entry]:
        """Uploads in parts that were never completed."""
        more: dict[str, str] = {}
        while True:
            answer = self.connection.call(lambda client, more=more: client.list_multipart_uploads(**self._prefixed(""), **more))  # type: ignore[misc]
            for found in answer.get("Uploads", ()):
                age = _age(answer, found["Initiated"])
                yield Entry(key=self._relative(found["Key"]), etag="", bytes=0, age_s=age, upload=found["UploadId"])
            if not answer.get("IsTruncated"):
                return
            more = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}

    def abort(self, upload: Entry) -> None:
        """End an upload in parts and free what it holds."""
        try:
            self.connection.call(lambda client: client.abort_multipart_upload(**self.place(upload.key), UploadId=upload.upload))
        except Missing:
            return  # ended since

    def check_conditions(self) -> None:
        """InputError unless the server honours conditional writes: without them two writers could both believe that they won."""
        key, wrong = f"probes/{uuid.uuid4().hex}", f'"{"0" * 32}"'
        etag = self.write_new(key, b"first")
        kept = {
            "If-None-Match": self.write_new(key, b"second") is None,
            "If-Match": self.replace(key, b"third", wrong) is None and self.replace(key, b"fourth", str(etag)) is not None,
        }
        self.delete(key)
        if not all(kept.values()):
            raise InputError(
                f"the server of {self.uri} does not honour conditional writes, so two writers could both believe that they won",
                got=f"it ignores {' and '.join(name for name, is_kept in kept.items() if not is_kept)}",
                allowed="a server that does, such as AWS S3, MinIO or Ceph's radosgw",
            )


def whole(answer: Mapping[str, Any]) -> bytes:
    """The body of an answer, or Torn."""
    data: bytes = answer["Body"].read()
    if len(data) != answer["ContentLength"]:
        raise Torn(f"{len(data)} of {answer['ContentLength']} bytes came")
    return data


def sha256(data: bytes) -> str:
    """A checksum as S3 writes it."""
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def _age(answer: Mapping[str, Any], written: Any) -> float:
    now = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return max(0.0, (parsedate_to_datetime(now) - written).total_seconds()) if now else 0.0


def check_uri(uri: str) -> None:
    """InputError unless it is `s3://bucket/prefix`; what could be a secret is not repeated."""
    if "@" in uri or "?" in uri:
        raise InputError("uri holds more than a bucket and a prefix", allowed="s3://bucket/prefix", next="leave credentials to boto3's own chain")
    if not re.fullmatch(r"s3://[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9](/\S*)?", uri):
        raise InputError("uri has a wrong value", got=repr(uri), allowed="s3://bucket/prefix")


def check_endpoint(url: str) -> None:
    """InputError unless it is a server's URL; what could be a secret is not repeated."""
    if "@" in url or "?" in url:
        raise InputError("endpoint_url holds more than an address", allowed="http(s)://host:port", next="leave credentials to boto3's own chain")
    if not re.fullmatch(r"https?://[A-Za-z0-9._\-\[\]:]+(/\S*)?", url):
        raise InputError("endpoint_url has a wrong value", got=repr(url), allowed="http(s)://host:port")
