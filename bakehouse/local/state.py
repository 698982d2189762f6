"""Keep moto's backends in one file, which is replaced atomically after every change."""

from __future__ import annotations

import copyreg
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from threading import RLock
from typing import Any

import cloudpickle
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives import serialization
from moto.backends import get_backend
from moto.ssm.models import ParameterDict

from bakehouse import documents
from bakehouse.local.coalescing import Coalesced

SERVICES: tuple[Any, ...] = ("ec2", "ssm", "iam", "sts", "kms", "autoscaling", "elbv2")
"""The services whose state is kept; one file, because their objects refer to one another."""


def _key(key: Any) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
    return _load_key, (
        key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _load_key(data: bytes) -> Any:
    return serialization.load_der_private_key(data, None)


def _parameters(found: ParameterDict) -> tuple[Any, ...]:
    return ParameterDict, (found.account_id, found.region_name), vars(found), None, iter(found.items())


for _kind in (openssl.rsa.RSAPrivateKey, openssl.ec.ECPrivateKey):
    copyreg.pickle(_kind, _key)
copyreg.pickle(ParameterDict, _parameters)


class State:
    """Keep the backends in a file. Whoever changes them holds ``lock``, and never asks Docker meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = RLock()
        self._write = Coalesced(self._replace)

    def keep(self) -> None:
        """Return when all changes made so far are on the disk; never called with the lock held."""
        self._write()

    def _replace(self) -> None:
        with self.lock:
            data = _frozen()
        documents.replace(self.path, data)

    def load(self) -> Path | None:
        """Put the kept state into the backends; set a file that can't be read aside and return its new name."""
        if not self.path.exists():
            return None
        try:
            services = pickle.loads(self.path.read_bytes())  # noqa: S301  # our own, in a folder of mode 0700
            for name, accounts in services.items():
                for account, regions in accounts.items():
                    get_backend(name)[account].update(regions)
        except Exception:  # whatever a damaged pickle raises
            aside = self.path.with_name(f"{self.path.name}.unreadable-{int(time.time())}")
            os.replace(self.path, aside)
            return aside
        return None


def _frozen() -> bytes:
    accounts = {name: get_backend(name) for name in SERVICES}
    services = {name: {account: dict(kept) for account, kept in found.items()} for name, found in accounts.items()}
    data: bytes = cloudpickle.dumps(services)
    return data
