"""Keep moto's backends on the disk, a generation after every change, and load nothing but what such a state is made of.

A state is one graph: an instance refers to its groups, a group to its network. Tables would be moto's own schema a
second time, and old with its next version. So it is pickled as a whole. But a pickle may call anything when it is
loaded, so this one may only name the classes of moto's services and of this package, and a few that hold plain values.
"""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import re
import time
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from threading import RLock
from typing import Any

from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives import serialization
from moto import __version__ as moto_version
from moto.backends import get_backend
from moto.ssm.models import ParameterDict

from bakehouse import __version__
from bakehouse.errors import printable
from bakehouse.local.coalescing import Coalesced
from bakehouse.local.generations import DamagedError, Generations

SERVICES: tuple[Any, ...] = ("ec2", "ssm", "iam", "sts", "kms", "autoscaling", "elbv2")
"""The services whose state is kept; in one document, because their objects refer to one another."""

OLD = "state.pickle"
"""The file in which older versions of the kit have kept the state."""

_OURS = re.compile(r"moto\.(ec2|ssm|iam|sts|kms|autoscaling|elb|elbv2|core|utilities)(\..+)?|bakehouse\.local\.\w+")


def _key(key: Any) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
    return _load_key, (
        key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _load_key(data: bytes) -> Any:
    return serialization.load_der_private_key(data, None)


def _parameters(found: ParameterDict) -> tuple[Any, ...]:
    return ParameterDict, (found.account_id, found.region_name), vars(found), None, iter(found.items())


def _filter(owner: Any, name: str) -> Any:
    """Return one of the methods by which moto filters groups and rules: each of them holds a table of its own."""
    if not name.startswith("filter_"):
        raise pickle.UnpicklingError(f"{name} has no place in a state")
    return getattr(owner, name)


def _nothing(*_: Any) -> None:
    """Stand for a function that can't be kept, such as the factory of a defaultdict: a new backend has another."""


def _stand_in(*_: Any) -> Callable[..., None]:
    return _nothing


_PLAIN: dict[tuple[str, str], Any] = {
    **{(one.__module__, one.__qualname__): one for one in (_load_key, _filter, _stand_in)},
    **{
        (one.__module__, one.__qualname__): one
        for one in (set, frozenset, bytearray, complex, dict, list, OrderedDict, defaultdict)
    },
    **{(one.__module__, one.__qualname__): one for one in (date, datetime, timedelta, timezone)},
    **{(one.__module__, one.__qualname__): one for one in (IPv4Address, IPv4Network, IPv6Address, IPv6Network)},
    ("re", "_compile"): re.compile,
}
"""What a state may name beside the classes of moto's services and of this package."""

_OF_OLD: dict[tuple[str, str], Any] = {
    ("cloudpickle.cloudpickle", "_make_function"): _stand_in,
    ("cloudpickle.cloudpickle", "_function_setstate"): _nothing,
    ("cloudpickle.cloudpickle", "_builtin_type"): lambda name: types.MethodType if name == "MethodType" else _nothing,
}
"""What the states of older kits name: code, which is not made here, and methods."""


class _Freezer(pickle.Pickler):
    dispatch_table = copyreg.dispatch_table.copy()

    def reducer_override(self, found: Any) -> Any:
        if isinstance(found, types.MethodType) and found.__name__.startswith("filter_"):
            return _filter, (found.__self__, found.__name__)
        if isinstance(found, types.FunctionType) and "<" in found.__qualname__:
            return _stand_in, ()
        return NotImplemented


for _kind in (openssl.rsa.RSAPrivateKey, openssl.ec.ECPrivateKey):
    _Freezer.dispatch_table[_kind] = _key
_Freezer.dispatch_table[ParameterDict] = _parameters


class _Thawer(pickle.Unpickler):
    def __init__(self, document: bytes, more: Mapping[tuple[str, str], Any]) -> None:
        super().__init__(io.BytesIO(document))
        self._known = {**_PLAIN, **more}
        self._old = bool(more)

    def find_class(self, module: str, name: str) -> Any:
        """Return what a state may name; raises UnpicklingError for all else."""
        if (module, name) in self._known:
            return self._known[module, name]
        if _OURS.fullmatch(module):
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:
                return found
            if self._old and re.fullmatch(r"SecurityGroup(Rule)?\.filter_\w+", name):
                return found
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a state")


class State:
    """Keep the backends in generations. Whoever changes them holds ``lock``, and never asks Docker meanwhile."""

    def __init__(self, folder: Path) -> None:
        self.lock = RLock()
        self._old = folder / OLD
        self._generations = Generations(folder / "state")
        self._write = Coalesced(self._add)

    def keep(self) -> None:
        """Return when all changes made so far are on the disk; never called with the lock held."""
        self._write()

    def _add(self) -> None:
        with self.lock:
            document, holds, now = _frozen(), _holds(), time.time_ns()
        self._generations.add(
            {
                "kit": __version__,
                "moto": moto_version,
                "at": datetime.fromtimestamp(now // 10**9, UTC).isoformat(),
                "kept": now,
                "holds": holds,
            },
            document,
        )

    def load(self, check: Callable[[], None]) -> tuple[int, list[str]]:
        """Put the newest sound generation into the backends; return when it was kept, and what is to be told.

        The time is in nanoseconds since 1970, and 0 when there is no sound generation. ``check`` uses the backends, and
        raises whatever it raises where this version of moto can't use what another has kept. To be told are the
        generations that were set aside, and which is used instead, a line each. Raises ToolError when a newer kit has
        written the state, and when its folder can't be used.
        """
        notes: list[str] = []
        for file in self._generations.files():
            try:
                head = self._take(file, check)
            except DamagedError as why:
                notes.append(f"{_when(file)} can't be used, {why}; it is kept: {self._generations.set_aside(file)}")
                continue
            if notes:
                notes.append(f"the local EC2's state of {head['at']} is used: {head['holds']}")
            return head.get("kept", file.lstat().st_mtime_ns), notes
        return self._migrate(notes), notes

    def _take(self, file: Path, check: Callable[[], None]) -> Mapping[str, Any]:
        """Put a generation into the backends and return its head; raises DamagedError when it can't be used."""
        generation = self._generations.read(file)
        try:
            _thaw(generation.document, {})
            if generation.head["moto"] != moto_version:
                check()
        except Exception as error:  # whatever another version's objects raise
            _empty()
            raise DamagedError(f"moto {moto_version} can't use it ({printable(str(error))})") from error
        return generation.head

    def _migrate(self, notes: list[str]) -> int:
        """Take the state of an older kit, keep it as a generation, and return its time; note why it can't be used."""
        if not self._old.exists():
            return 0
        try:
            _thaw(self._old.read_bytes(), _OF_OLD)
        except Exception as error:  # whatever a damaged pickle raises
            _empty()
            aside = self._old.with_name(f"{OLD}.damaged")
            notes.append(f"{_when(self._old)} can't be used ({error}); it is kept: {aside}")
            os.replace(self._old, aside)
            return 0
        kept = self._old.lstat().st_mtime_ns
        self.keep()
        self._old.unlink()
        return kept


def _when(file: Path) -> str:
    at = datetime.fromtimestamp(file.lstat().st_mtime, UTC).isoformat(timespec="seconds")
    return f"the local EC2's state of {at}"


def _holds() -> str:
    """Say in words what the backends hold."""
    backends = [backend for regions in get_backend("ec2").values() for backend in regions.values()]
    stores = [backend for regions in get_backend("ssm").values() for backend in regions.values()]
    parameters = sum(len(vars(backend)["_parameters"]) for backend in stores)
    images = sum(len(backend.amis) for backend in backends)
    instances = sum(len(list(backend.all_instances())) for backend in backends)
    return f"{images} images, {instances} machines, {parameters} parameters"


def _frozen() -> bytes:
    accounts = {name: get_backend(name) for name in SERVICES}
    services = {name: {account: dict(kept) for account, kept in found.items()} for name, found in accounts.items()}
    frozen = io.BytesIO()
    _Freezer(frozen, pickle.HIGHEST_PROTOCOL).dump(services)
    return frozen.getvalue()


def _thaw(document: bytes, more: Mapping[tuple[str, str], Any]) -> None:
    """Put what a document holds into the backends; raises whatever a damaged one raises, before anything is put."""
    services = _Thawer(document, more).load()
    for accounts in services.values():
        for account, regions in accounts.items():
            for region, backend in regions.items():
                _complete(backend, type(backend)(region, account_id=account))
    _empty()
    for name in SERVICES:
        for account, regions in services.get(name, {}).items():
            get_backend(name)[account].update(regions)


def _complete(backend: Any, new: Any) -> None:
    """Give a backend what a new one has that can't be kept, or that the version which kept it didn't know."""
    for name, value in vars(new).items():
        kept = vars(backend).setdefault(name, value)
        if isinstance(kept, defaultdict) and kept.default_factory is _nothing:
            kept.default_factory = value.default_factory


def _empty() -> None:
    for name in SERVICES:
        get_backend(name).clear()
