"""The settings: which of flag, environment and default wins, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bakehouse import settings
from bakehouse.errors import InputError


@pytest.mark.parametrize(
    ("flag", "environ", "account"),
    [("", None, "local"), ("", "", "local"), ("", "staging", "staging"), ("prod", "staging", "prod")],
)
def test_the_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str, environ: str | None, account: str
) -> None:
    """A flag wins over the environment, and that over the default."""
    if environ is not None:
        monkeypatch.setenv("BAKEHOUSE_ACCOUNT", environ)

    assert account == settings.load(account=flag, root=tmp_path).account


def test_the_region_is_awss_own_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The region is what AWS's tools would take: AWS_REGION, then AWS_DEFAULT_REGION, then the profile's own."""
    assert "" == settings.load(root=tmp_path).region
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert "eu-west-1" == settings.load(root=tmp_path).region
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert "eu-central-1" == settings.load(root=tmp_path).region


@pytest.mark.parametrize("name", ["../etc", "a b", "-x", "a/b", "x" * 65])
@pytest.mark.parametrize("kind", ["account", "recipe"])
def test_a_name_that_is_none(tmp_path: Path, kind: str, name: str) -> None:
    """What could be a path or a flag is no name."""
    with pytest.raises(InputError, match=f"^{kind} "):
        settings.load(root=tmp_path, **{kind: name})


def test_the_state_folder_is_private(tmp_path: Path) -> None:
    """The state folder is made for its owner alone."""
    state = settings.load(root=tmp_path).state

    assert tmp_path / ".bakehouse" == state
    assert 0o700 == state.stat().st_mode & 0o777


def test_the_state_folder_can_be_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BAKEHOUSE_STATE moves it, and a relative path is meant from here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BAKEHOUSE_STATE", "elsewhere")

    assert tmp_path / "elsewhere" == settings.load(root=tmp_path).state


def test_a_state_folder_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's state folder is left alone, and the way to take it over is told."""
    state = tmp_path / ".bakehouse"
    state.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: state.stat().st_uid + 1)

    with pytest.raises(InputError) as raised:
        settings.load(root=tmp_path)

    assert f"{state} belongs to another user (uid {state.stat().st_uid})" == raised.value.text
    assert f"sudo chown -R $(id -u) {state}" in raised.value.hint


def test_a_state_folder_that_can_not_be_made(tmp_path: Path) -> None:
    """Where the state folder can't be made the error says why."""
    with pytest.raises(InputError, match=r"/\.bakehouse can't be made: No such file or directory$"):
        settings.load(root=tmp_path / "nowhere")


def test_the_root_is_this_checkout() -> None:
    """The checkout is where tasks.py is, whatever the current folder."""
    assert settings.ROOT == Path(__file__).resolve().parent.parent


def test_the_configuration_of_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BAKEHOUSE_SSH_CONFIG names a file for machines on AWS; the account local pays no heed to it."""
    (tmp_path / "bastion").write_text("ProxyJump bastion.example.org\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BAKEHOUSE_SSH_CONFIG", "bastion")

    assert str(tmp_path / "bastion") == settings.load("staging", root=tmp_path).ssh_config
    assert "" == settings.load("local", root=tmp_path).ssh_config
    monkeypatch.setenv("BAKEHOUSE_SSH_CONFIG", "/nowhere")
    with pytest.raises(InputError, match="BAKEHOUSE_SSH_CONFIG is /nowhere, which is no file"):
        settings.load("staging", root=tmp_path)
