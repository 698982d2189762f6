"""Lending: a program that we start works with the account's keys, also when these are renewed while it runs."""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from bakehouse import console, patience
from bakehouse.accounts import Account, configured

# What would give a program other keys than ours, or lead it to them.
_OTHERS = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"),
    *("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
    *("AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
)
_NOWHERE = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
# What a profile says besides keys, and every program of AWS's reads from a variable too.
_SETTINGS = {"ca_bundle": "AWS_CA_BUNDLE", "use_fips_endpoint": "AWS_USE_FIPS_ENDPOINT"}


@contextmanager
def environ(account: Account, *passing: str) -> Iterator[dict[str, str]]:
    """Give the environment for a program that works on the account, with its keys as boto3 found them.

    Keys that expire are asked of us for as long as this context lasts: AWS's SDKs ask at an address of this host, with
    a token, whenever theirs are about to expire. ``passing`` is as for ``system.environment``.
    """
    told = {name: value for name, value in account.environ(*passing).items() if name not in _OTHERS}
    told |= {**_NOWHERE, **_settings(account)}
    credentials = account.session.get_credentials()
    if expires(credentials) is None:
        yield told | _keys(credentials)
        return
    token = secrets.token_urlsafe(32)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(credentials, token))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True, name="lending").start()
    try:
        place = f"http://127.0.0.1:{server.server_port}/"
        yield told | {"AWS_CONTAINER_CREDENTIALS_FULL_URI": place, "AWS_CONTAINER_AUTHORIZATION_TOKEN": token}
    finally:
        server.shutdown()
        server.server_close()


def expires(credentials: Any) -> Any:
    """Return when boto3's credentials expire, as a time; None when they don't. Boto3 tells it nowhere."""
    return getattr(credentials, "_expiry_time", None)


def _settings(account: Account) -> dict[str, str]:
    """Return as variables what the person's profile says besides keys, for a program that doesn't read the profile."""
    if account.endpoint:
        return {}
    core = configured(account)
    found = {variable: core.get_config_variable(name) for name, variable in _SETTINGS.items()}
    return {variable: str(value).lower() if value is True else str(value) for variable, value in found.items() if value}


def _keys(credentials: Any) -> dict[str, str]:
    frozen = credentials.get_frozen_credentials()
    keys = {"AWS_ACCESS_KEY_ID": frozen.access_key, "AWS_SECRET_ACCESS_KEY": frozen.secret_key}
    return keys | ({"AWS_SESSION_TOKEN": frozen.token} if frozen.token else {})


def _handler(credentials: Any, token: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = patience.KEYS.seconds

        def do_GET(self) -> None:
            if not secrets.compare_digest(self.headers.get("Authorization", ""), token):
                self._answer(403, {"code": "AccessDenied", "message": "this is for one program of Bakehouse's alone"})
                return
            try:
                frozen = credentials.get_frozen_credentials()  # renewed if need be
            except Exception as error:  # whatever a person's way to keys raises
                console.say(f"the account's keys can't be renewed: {' '.join(str(error).split())}")
                self._answer(500, {"code": "CredentialsNotRenewed", "message": str(error)})
                return
            keys = {"AccessKeyId": frozen.access_key, "SecretAccessKey": frozen.secret_key, "Token": frozen.token}
            self._answer(200, {**keys, "Expiration": f"{expires(credentials):%Y-%m-%dT%H:%M:%SZ}"})

        def _answer(self, code: int, told: dict[str, Any]) -> None:
            body = json.dumps(told).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing: a bake's own lines are on the terminal."""

    return Handler
