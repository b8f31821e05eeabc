"""Files to and from a bucket: large ones in parts, side by side; what an earlier try already fetched is not fetched again."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ratchet.errors import InputError
from ratchet.infra.bucket import Bucket, sha256, whole
from ratchet.infra.bucket_errors import Missing, StoreAway, WrongSize

LEAST_PART, MOST_PARTS = 5 << 20, 9_000
"""S3's limits: a part (but the last) has 5 MiB, an object 10,000 parts."""


def upload_all(bucket: Bucket, files: Mapping[str, Path], part_bytes: int) -> None:
    """Upload files by key, each (or each of its parts) with its SHA-256 for the server to compare.

    Nothing that lies there already is trusted: a second upload of the same content heals an object that was harmed.
    """
    large = {key: path for key, path in files.items() if path.stat().st_size > part_bytes}
    small = [(key, path) for key, path in files.items() if key not in large]
    bucket.connection.side_by_side([lambda k=key, p=path: bucket.write(k, p.read_bytes()) for key, path in small])  # type: ignore[misc]
    for key, path in large.items():
        _upload_in_parts(bucket, key, path, part_bytes)


def _upload_in_parts(bucket: Bucket, key: str, path: Path, part_bytes: int) -> None:
    place, call, size = bucket.place(key), bucket.connection.call, path.stat().st_size
    upload = call(lambda client: client.create_multipart_upload(**place, ChecksumAlgorithm="SHA256"))["UploadId"]
    step = max(part_bytes, LEAST_PART, -(-size // MOST_PARTS))
    parts: dict[int, dict[str, Any]] = {}
    with path.open("rb") as file:

        def put(number: int) -> None:
            data = os.pread(file.fileno(), step, (number - 1) * step)
            request = {**place, "UploadId": upload, "PartNumber": number, "Body": data, "ChecksumSHA256": sha256(data)}
            answer = call(lambda client: client.upload_part(**request))
            # A server that knows no such checksums does not repeat it, and is not asked to compare it once more.
            known = {"ChecksumSHA256": answer["ChecksumSHA256"]} if answer.get("ChecksumSHA256") else {}
            parts[number] = {"PartNumber": number, "ETag": answer["ETag"], **known}

        try:
            bucket.connection.side_by_side([lambda n=number: put(n) for number in range(1, -(-size // step) + 1)])  # type: ignore[misc]
            _complete(bucket, key, upload, [parts[number] for number in sorted(parts)], size)
        except InputError:  # refused for good, so it can be tidied; what dies otherwise is left to `ratchet gc`
            call(lambda client: client.abort_multipart_upload(**place, UploadId=upload))
            raise


def _complete(bucket: Bucket, key: str, upload: str, parts: Sequence[Mapping[str, Any]], size: int) -> None:
    request = {**bucket.place(key), "UploadId": upload, "MultipartUpload": {"Parts": list(parts)}}
    try:
        bucket.connection.call(lambda client: client.complete_multipart_upload(**request))
    except Missing:  # either it was completed and the reply was lost, or somebody ended it
        if bucket.size(key) != size:
            raise StoreAway(f"the upload of {bucket.address(key)} was ended by somebody else\n  next: give the same command again") from None


def download_all(bucket: Bucket, files: Mapping[str, tuple[Path, int]], part_bytes: int) -> None:
    """Download objects by key into files, given their sizes; Missing or WrongSize if an object is not there, or not in its size.

    Beside each file stands `<name>.done`, one byte a part: what an earlier try fetched is not fetched again. Whether a file is what it
    should be is for the caller to tell by its digest.
    """
    fetches = [fetch for key, (path, size) in files.items() for fetch in _fetches(bucket, key, path, size, part_bytes)]
    bucket.connection.side_by_side(fetches)


def _fetches(bucket: Bucket, key: str, path: Path, size: int, step: int) -> list[Callable[[], None]]:
    """What is still to be done for one file."""
    path.touch()
    done = path.with_name(f"{path.name}.done")
    count = -(-size // step)
    fetched = done.read_bytes() if done.exists() else b""
    if path.stat().st_size != size or len(fetched) != count:
        fetched = bytes(count)
        done.write_bytes(fetched)
        os.truncate(path, size)
    return [lambda n=index: _fetch(bucket, key, path, n, size, step) for index in range(count) if not fetched[index]]  # type: ignore[misc]


def _fetch(bucket: Bucket, key: str, path: Path, index: int, size: int, step: int) -> None:
    start, stop = index * step, min((index + 1) * step, size)
    ranged = {} if (start, stop) == (0, size) else {"Range": f"bytes={start}-{stop - 1}"}

    def get(client: Any) -> bytes:
        answer = client.get_object(**bucket.place(key), **ranged)
        total = int(answer["ContentRange"].rpartition("/")[2]) if ranged and "ContentRange" in answer else int(answer["ContentLength"])
        if total != size:
            raise WrongSize(key, total)
        return whole(answer)

    try:
        data = bucket.connection.call(get)
    except Missing:
        raise WrongSize(key, -1) from None
    _write_at(path, data, start)
    _write_at(path.with_name(f"{path.name}.done"), b"\1", index)


def _write_at(path: Path, data: bytes, offset: int) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        while data:
            written = os.pwrite(descriptor, data, offset)
            data, offset = data[written:], offset + written
    finally:
        os.close(descriptor)
