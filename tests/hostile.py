"""A shell and a home folder as people have them: everything in them that once decided what the kit did."""

from __future__ import annotations

import select
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

_NOWHERE = "http://127.0.0.1:9"

PROXIES = {name: _NOWHERE for word in ("http_proxy", "https_proxy", "all_proxy") for name in (word, word.upper())} | {
    "no_proxy": "",
    "NO_PROXY": "",
}
"""Proxies that answer nothing. What fetches from outside would go through them."""

VARIABLES = {
    # Ansible
    "ANSIBLE_TRANSPORT": "local",
    "ANSIBLE_CONNECTION": "local",
    "ANSIBLE_CONFIG": "/nowhere/ansible.cfg",
    "ANSIBLE_PYTHON_INTERPRETER": "/nowhere/python",
    "ANSIBLE_BECOME": "false",
    "ANSIBLE_BECOME_METHOD": "su",
    "ANSIBLE_BECOME_ASK_PASS": "true",
    "ANSIBLE_ASK_PASS": "true",
    "ANSIBLE_RUN_TAGS": "none",
    "ANSIBLE_SKIP_TAGS": "all",
    "ANSIBLE_CACHE_PLUGIN": "jsonfile",
    "ANSIBLE_CACHE_PLUGIN_CONNECTION": "/tmp/bakehouse-facts",
    "ANSIBLE_GATHERING": "explicit",
    "ANSIBLE_ROLES_PATH": "/nowhere/roles",
    "ANSIBLE_COLLECTIONS_PATH": "/nowhere/collections",
    "ANSIBLE_INVENTORY": "/nowhere/hosts",
    "ANSIBLE_LIBRARY": "/nowhere/library",
    "ANSIBLE_STRATEGY": "debug",
    "ANSIBLE_STDOUT_CALLBACK": "minimal",
    "ANSIBLE_DISPLAY_OK_HOSTS": "false",
    "ANSIBLE_FORCE_COLOR": "true",
    "ANSIBLE_HOME": "/nowhere/ansible",
    "ANSIBLE_REMOTE_USER": "nobody",
    "ANSIBLE_PRIVATE_KEY_FILE": "/nowhere/key",
    "ANSIBLE_SSH_ARGS": "-o ProxyCommand=false",
    "ANSIBLE_SSH_COMMON_ARGS": "-o ProxyCommand=false",
    "ANSIBLE_SSH_EXTRA_ARGS": "-o ProxyCommand=false",
    "ANSIBLE_SSH_EXECUTABLE": "/nowhere/ssh",
    "ANSIBLE_VERBOSITY": "4",
    "ANSIBLE_LOG_PATH": "/nowhere/log",
    # Molecule, Packer
    "MOLECULE_EPHEMERAL_DIRECTORY": "/nowhere/molecule",
    "MOLECULE_GLOB": "/nowhere/*.yml",
    "MOLECULE_DEBUG": "1",
    "PKR_VAR_volume_size": "1",
    "PKR_VAR_base_image": "ami-0",
    "PACKER_LOG": "1",
    "PACKER_CONFIG": "/nowhere/packerconfig",
    "PACKER_PLUGIN_PATH": "/nowhere/plugins",
    "PACKER_CACHE_DIR": "/nowhere/cache",
    # git
    "GIT_DIR": "/nowhere/.git",
    "GIT_WORK_TREE": "/nowhere",
    "GIT_INDEX_FILE": "/nowhere/index",
    "GIT_OBJECT_DIRECTORY": "/nowhere/objects",
    "GIT_CEILING_DIRECTORIES": "/",
    "GIT_CONFIG_COUNT": "many",
    # pip, Python, the linker
    "PIP_USER": "1",
    "PIP_TARGET": "/nowhere/target",
    "PIP_PREFIX": "/nowhere/prefix",
    "PIP_REQUIRE_VIRTUALENV": "1",
    "PYTHONSAFEPATH": "1",
    "PYTHONPATH": "/nowhere/python",
    "PYTHONHOME": "/nowhere",
    "PYTHONWARNINGS": "error",
    "PYTHONOPTIMIZE": "2",
    # AWS
    "AWS_REGION": "eu-central-1",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_PROFILE": "nobody",
    "AWS_DEFAULT_PROFILE": "nobody",
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG",
    "AWS_SESSION_TOKEN": "a token",
    "AWS_ENDPOINT_URL": _NOWHERE,
    "AWS_ENDPOINT_URL_EC2": _NOWHERE,
    "AWS_CONFIG_FILE": "/nowhere/config",
    "AWS_RETRY_MODE": "no such mode",
    "AWS_MAX_ATTEMPTS": "many",
    "AWS_USE_FIPS_ENDPOINT": "true",
    "AWS_USE_DUALSTACK_ENDPOINT": "true",
    "AWS_CA_BUNDLE": "/nowhere/ca.pem",
    "AWS_DEFAULTS_MODE": "no such mode",
    "AWS_STS_REGIONAL_ENDPOINTS": "nowhere",
    "AWS_ROLE_ARN": "arn:aws:iam::1:role/nobody",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere/token",
    # the shell
    "SSH_AUTH_SOCK": "/nowhere/agent",
    "SSH_ASKPASS": "/nowhere/askpass",
    "GPG_TTY": "/nowhere/tty",
    "GNUPGHOME": "/nowhere/gnupg",
    "APT_CONFIG": "/nowhere/apt.conf",
    "INVOKE_RUN_DRY": "true",
    "INVOKE_TASKS_COLLECTION_NAME": "nowhere",
    "CDPATH": "/",
    "GREP_OPTIONS": "--color=always",
    "LESS": "nonsense",
    **PROXIES,
}
"""What scripts and profiles export, each with a value that must decide nothing."""

_FILES = {
    ".ssh/config": "Host *\n  ProxyCommand false\n  Port 2222\n  RemoteCommand false\n  AddKeysToAgent yes\n",
    ".ansible.cfg": "[defaults]\ntransport = local\n[privilege_escalation]\nbecome_ask_pass = true\n",
    ".ansible/plugins/callback/hostile.py": "raise SystemExit('the person has a callback')\n",
    ".aws/config": "[default]\nregion = nowhere\nretry_mode = nonsense\nendpoint_url = http://127.0.0.1:9\n",
    ".aws/credentials": "[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = x\n",
    ".invoke.yaml": "run:\n  dry: true\ntasks:\n  collection_name: nowhere\n",
    ".gitconfig": "[status]\n  showUntrackedFiles = no\n[core]\n  fsmonitor = /nowhere/monitor\n[safe]\n",
    ".config/pip/pip.conf": "[global]\ntarget = /nowhere/target\nuser = true\n",
    ".packerconfig": "{ nonsense",
    ".curlrc": "proxy = http://127.0.0.1:9\n",
    ".gnupg/gpg.conf": "nonsense\n",
}


def home(folder: Path) -> Path:
    """Make a home folder in which each file would change what some program does, and return it."""
    for name, content in _FILES.items():
        file = folder / name
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(0o600)
    return folder


class Proxy:
    """A proxy that lets everything through and notes for whom; what fetches from outside works behind it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            """Pass on what is asked for."""

            def do_GET(self) -> None:
                """Fetch a page and hand it over."""
                proxy.asked.append(urlsplit(self.path).hostname or "")
                request = Request(self.path, method=self.command)
                try:
                    with build_opener(ProxyHandler({})).open(request, timeout=30) as answer:
                        status, content = answer.status, answer.read()
                except HTTPError as error:
                    status, content = error.code, b""
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_HEAD = do_GET  # noqa: N815

            def do_CONNECT(self) -> None:
                """Join two connections until one of them ends."""
                host, _, port = self.path.partition(":")
                proxy.asked.append(host)
                with socket.create_connection((host, int(port)), timeout=30) as there:
                    self.send_response(200)
                    self.end_headers()
                    ends = {self.connection: there, there: self.connection}
                    while readable := select.select(list(ends), [], [], 60)[0]:
                        for one in readable:
                            if not (part := one.recv(65536)):
                                return
                            ends[one].sendall(part)

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.variables = {
            **dict.fromkeys(PROXIES, f"http://127.0.0.1:{self._server.server_port}"),
            "no_proxy": "",
            "NO_PROXY": "",
        }
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
