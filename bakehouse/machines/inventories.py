"""Inventories: our running machines as an inventory of Ansible."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from bakehouse import accounts, machines
from bakehouse.machines import Machine, shells
from bakehouse.settings import Settings

_UNSAFE = "__ansible_unsafe"
_ONE_CONNECTION = ("-o", "ControlMaster=auto", "-o", "ControlPersist=60s")


def read(settings: Settings) -> dict[str, Any]:
    """Return the inventory of the account's running machines, in the form of an Ansible inventory script."""
    account = accounts.connected(settings)
    found = machines.find(account, "*") if account else []
    return inventory(settings, [machine for machine in found if machine.state == "running" and machine.address])


def inventory(settings: Settings, found: Sequence[Machine]) -> dict[str, Any]:
    """Return these machines as an inventory: a group for each recipe, and the variables of each machine."""
    groups: dict[str, Any] = {}
    for machine in found:
        groups.setdefault(machine.recipe, {"hosts": []})["hosts"].append(machine.id)
    return {**groups, "_meta": {"hostvars": {machine.id: variables(settings, machine) for machine in found}}}


def static(settings: Settings, found: Sequence[Machine]) -> dict[str, Any]:
    """Return these machines as ``inventory`` does, but in the form of an inventory file of Ansible."""
    groups: dict[str, Any] = {}
    for machine in found:
        hosts = groups.setdefault(machine.recipe, {"hosts": {}})["hosts"]
        hosts[machine.id] = variables(settings, machine)
    return groups


def variables(settings: Settings, machine: Machine) -> dict[str, Any]:
    """Return the variables with which Ansible connects to a machine.

    Those that the account has told are marked as unsafe, so that a template in them is text for Ansible.
    """
    return {
        "ansible_connection": "ssh",
        "ansible_host": {_UNSAFE: machine.address},
        "ansible_user": {_UNSAFE: machine.user},
        "ansible_ssh_args": shlex.join([*_ONE_CONNECTION, *shells.options(settings, machine)]),
        "ansible_host_key_checking": True,
        "bakehouse_image": {_UNSAFE: machine.image},
    }
