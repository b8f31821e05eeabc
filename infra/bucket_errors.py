"""What an S3 request that failed means: a miss, the user's to mend, or a reason to ask again later."""

from http import HTTPStatus
from typing import Any

from ratchet.errors import Away, InputError

LATER = {"OperationAborted", "ConditionalRequestConflict", "RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "SlowDown"}
"""Error codes that another try may cure although their HTTP status is the client's (4xx); throttling and 5xx are so anyway."""
LATER_STATUS = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS}
NEVER_STATUS = {HTTPStatus.NOT_IMPLEMENTED}

ELSEWHERE = {"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
"""Error codes of a bucket that is in another region."""

KEYS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "TokenRefreshRequired", "InvalidSecurity"}
"""Error codes of credentials that are not accepted."""

CHAIN = "credentials come by boto3's own chain: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, ~/.aws, or the machine's role"


class StoreAway(Away):
    """The store did not answer for longer than the user's patience."""


class Missing(Exception):
    """There is no such object, no such upload, or nothing in that range of it."""


class Changed(Exception):
    """The condition of a conditional write does not hold."""


class Torn(Exception):
    """A body ended before its announced length."""


class WrongSize(Exception):
    """An object has not the size that it should have."""

    def __init__(self, key: str, found: int) -> None:
        super().__init__(key, found)
        self.key, self.found = key, found


def verdict_on(error: Exception, uri: str, endpoint: str | None) -> Exception | str:
    """What to raise for an error of boto3's; or, if another try may cure it, what is the matter in words."""
    from botocore import exceptions as vendor
    from botocore.parsers import ResponseParserError

    if isinstance(error, vendor.ClientError):
        return _refused(error, uri, endpoint)
    if isinstance(error, Torn | vendor.IncompleteReadError | ResponseParserError):
        return f"a reply was cut short: {error}"
    if isinstance(error, vendor.SSLError) and "CERTIFICATE" in str(error).upper():
        return InputError(f"the server of {uri} is not trusted", got=str(error), next="give its certificate's authority in AWS_CA_BUNDLE")
    if isinstance(error, vendor.HTTPClientError | vendor.ConnectionError | ConnectionError | TimeoutError):
        return str(error)
    without = (vendor.NoCredentialsError, vendor.PartialCredentialsError, vendor.CredentialRetrievalError, vendor.ProfileNotFound, vendor.SSOError)
    if isinstance(error, without):
        return InputError(f"there are no credentials for {uri}", got=str(error), next=CHAIN)
    if isinstance(error, vendor.BotoCoreError | ValueError):
        return InputError(f"boto3 cannot use {uri}", got=str(error), next="check store.uri, store.endpoint_url and store.region")
    return error


def _refused(error: Any, uri: str, endpoint: str | None) -> Exception | str:
    """The same for what the server itself answered."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    said = f"{code}: {error.response.get('Error', {}).get('Message', '')}".strip(": ")
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    at = f" at {endpoint}" if endpoint else ""
    bucket = uri.split("/")[2]
    if code == "NoSuchBucket":
        return InputError(f"the bucket {bucket} does not exist{at}", got=uri, next="create it, or give another: store.uri=s3://BUCKET/PREFIX")
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
        return Missing(said)
    if status == HTTPStatus.PRECONDITION_FAILED:
        return Changed(said)
    if code in LATER or status in LATER_STATUS or (status >= HTTPStatus.INTERNAL_SERVER_ERROR and status not in NEVER_STATUS):
        return said or f"HTTP {status}"
    if code == "RequestTimeTooSkewed":
        return InputError(f"the server of {uri} refuses this machine's clock", got=said, next="set the clock (NTP)")
    if code in KEYS:
        return InputError(f"the credentials for {uri} are not accepted{at}", got=said, next=CHAIN)
    if code in ELSEWHERE or status in (HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.TEMPORARY_REDIRECT):
        return InputError(f"the bucket {bucket} is in another region", got=said, next="give it: store.region=REGION")
    if status == HTTPStatus.FORBIDDEN:
        rights = "s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload on the prefix and s3:ListBucket on the bucket"
        return InputError(f"access to {uri} is denied{at}", got=f"{error.operation_name}: {said}", next=f"the user or role needs {rights}")
    return InputError(f"the server of {uri} refuses {error.operation_name}", got=said, next="check store.uri and store.endpoint_url")
