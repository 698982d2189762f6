"""Signatures: who may ask the local EC2. A checkout has an access key of its own, and signs each request with it.

The signature is AWS's (Signature Version 4), and botocore's own signer computes it here too.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bakehouse import documents
from bakehouse.errors import ToolError

OWN = "local"
"""The name of the key that the kit's own tasks use."""

FILE = "keys.json"
"""The name of the file with the keys, in the local EC2's folder."""
PROOF = "X-Bakehouse-Proof"
"""The header of an answer that shows from whom it comes."""

_TIME = "%Y%m%dT%H%M%SZ"
_LATE = timedelta(minutes=5)  # as on AWS
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/,\s]+)/(?P<day>\d{8})/(?P<region>[a-z0-9-]+)/(?P<service>[a-z0-9-]+)"
    r"/aws4_request, ?SignedHeaders=(?P<headers>[a-z0-9;-]+), ?Signature=(?P<signature>[0-9a-f]{64})"
)


@dataclass(frozen=True)
class AccessKey:
    """Hold an access key of AWS's form: its ID and its secret; that of a session has a token too, and an end."""

    id: str
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)
    until: datetime | None = None


@dataclass(frozen=True)
class Asked:
    """Hold what a signature covers.

    Attributes:
        method: the HTTP method.
        target: path and query, as they were sent.
        headers: the headers; their names are in lower case.
        body: the body.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Signed:
    """Hold the name of the key that signed a request, and the service and the region that it was signed for."""

    key: str
    service: str
    region: str


class RefusedError(Exception):
    """A request is not signed by a key of this checkout.

    Attributes:
        code: AWS's word for it.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def keep(folder: Path) -> AccessKey:
    """Return the key of the kit's own tasks in the local EC2's folder; make it if there is none.

    Who may read the file may use the local EC2: that is its owner alone.
    """
    if not (folder / FILE).exists():
        made = {
            "id": f"LOCAL{base64.b32encode(secrets.token_bytes(10)).decode()[:15]}",
            "secret": secrets.token_hex(20),
        }
        documents.create(folder / FILE, json.dumps({OWN: made}).encode())
    try:
        return read(folder)[OWN]
    except KeyError as error:
        raise _damaged(folder / FILE) from error


def read(folder: Path) -> dict[str, AccessKey]:
    """Return the keys by their names, none while there is no file; raises ToolError when the file is damaged."""
    file = folder / FILE
    try:
        return {name: AccessKey(told["id"], told["secret"]) for name, told in json.loads(file.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(file) from error


def _damaged(file: Path) -> ToolError:
    return ToolError(f"{file} does not hold the keys of the local EC2", "delete it: a new one is made")


def sign(key: AccessKey, service: str, region: str, request: Asked) -> dict[str, str]:
    """Return the headers of a request with those that sign it."""
    signer = _signer(key, service, region)
    signed = _for_botocore(request)
    signer.add_auth(signed)
    return dict(signed.headers.items())


def signer(known: Mapping[str, AccessKey], request: Asked, now: datetime | None = None) -> Signed:
    """Return who signed a request, and for what.

    Raises RefusedError when none of the known keys signed it, within five minutes, as it is now.
    """
    told = _AUTHORIZATION.fullmatch(request.headers.get("authorization", ""))
    if told is None:
        raise RefusedError("MissingAuthenticationToken", "the request is not signed; ./inv local.env prints how to")
    name, key = next(((name, key) for name, key in known.items() if key.id == told["key"]), ("", None))
    if key is None:
        raise RefusedError("AuthFailure", "the access key is none of this local EC2; ./inv local.env prints it")
    time = request.headers.get("x-amz-date", "")
    covered = told["headers"].split(";")
    for header in request.headers:
        if (header == "host" or header.startswith("x-amz-")) and header not in covered:
            raise RefusedError("SignatureDoesNotMatch", f"the signature leaves out the header {header}")
    now = now or datetime.now(UTC)
    if not _is_now(time, told["day"], now):
        raise RefusedError("RequestExpired", f"the request is not of these five minutes: {time}")
    if not hmac.compare_digest(request.headers.get("x-amz-security-token", ""), key.token):
        raise RefusedError("InvalidClientTokenId", "the security token is not the one that belongs to the access key")
    if key.until and now >= key.until:
        code = "RequestExpired" if told["service"] == "ec2" else "ExpiredToken"
        raise RefusedError(code, f"the session has ended at {key.until:%H:%M:%S} UTC")
    digest = hashlib.sha256(request.body).hexdigest()
    if request.headers.get("x-amz-content-sha256", digest) != digest:
        raise RefusedError("SignatureDoesNotMatch", "the signature is of another body")
    again = _for_botocore(request, covered)
    again.context["timestamp"] = time
    signer = _signer(key, told["service"], told["region"])
    signature = signer.signature(signer.string_to_sign(again, signer.canonical_request(again)), again)
    if not hmac.compare_digest(signature, told["signature"]):
        raise RefusedError("SignatureDoesNotMatch", "the request was signed with another secret access key")
    return Signed(name, told["service"], told["region"])


def proof(key: AccessKey, authorization: str) -> str:
    """Return what shows that an answer to a signed request comes from somebody who has the key too."""
    return hmac.new(key.secret.encode(), f"answer to {authorization}".encode(), "sha256").hexdigest()


def _is_now(time: str, day: str, now: datetime) -> bool:
    try:
        at = datetime.strptime(time, _TIME).replace(tzinfo=UTC)
    except ValueError:
        return False
    return time.startswith(day) and abs(now - at) <= _LATE


def _for_botocore(request: Asked, covered: list[str] | None = None) -> Any:
    """Return a request as botocore's signer takes it, with all its headers or with those that a signature covers."""
    from botocore.awsrequest import AWSRequest

    names = request.headers if covered is None else covered
    headers = {name: request.headers.get(name, "") for name in names}
    url = f"http://{request.headers['host']}{request.target}"
    return AWSRequest(method=request.method, url=url, headers=headers, data=request.body)


def _signer(key: AccessKey, service: str, region: str) -> Any:
    from botocore.auth import SigV4Auth
    from botocore.credentials import Credentials

    signer: Any = SigV4Auth(Credentials(key.id, key.secret), service, region)
    signer.headers_to_sign = _covered  # another client may cover headers that botocore leaves out
    return signer


def _covered(request: Any) -> Any:
    from botocore.compat import HTTPHeaders

    headers = HTTPHeaders()
    for name, value in request.headers.items():
        headers[name.lower()] = value
    return headers
