"""Serve moto over HTTP on 127.0.0.1: one change at a time, each on the disk before it is answered.

``local.up`` starts this module as ``python -m bakehouse.local.server FOLDER CHECKOUT``.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

# before moto is imported: it has hundreds of images and a validation of its own, and a reset that anyone may ask for
os.environ.update(
    MOTO_EC2_LOAD_DEFAULT_AMIS="false",
    AWS_ACCESS_KEY_ID="local",
    AWS_SECRET_ACCESS_KEY="local",  # noqa: S106  # nobody's
    AWS_DEFAULT_REGION="us-east-1",
)
for _name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_EC2"):
    os.environ.pop(_name, None)

from moto.ec2.exceptions import EC2ClientError  # noqa: E402
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app  # noqa: E402
from werkzeug.serving import make_server  # noqa: E402
from werkzeug.test import EnvironBuilder, run_wsgi_app  # noqa: E402

from bakehouse import documents, system  # noqa: E402
from bakehouse.errors import ToolError  # noqa: E402
from bakehouse.local import LOCK, adoption, answers, ec2, engine, last_told, policies, signatures  # noqa: E402
from bakehouse.local.bodies import Bodies, BodyError  # noqa: E402
from bakehouse.local.drivers import DriverError  # noqa: E402
from bakehouse.local.folders import digest  # noqa: E402
from bakehouse.local.lifecycle import Lifecycle  # noqa: E402
from bakehouse.local.notes import Notes  # noqa: E402
from bakehouse.local.ports import GateDriver, public_block  # noqa: E402
from bakehouse.local.signatures import RefusedError, Signed  # noqa: E402
from bakehouse.local.state import State  # noqa: E402
from bakehouse.local.watch import Watch  # noqa: E402

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1  # between two looks whether the folder is still there

_READS = re.compile(r"(Describe|Get|List|Search|Lookup|Head|Select|Preview|Validate|Estimate|Decode)[A-Z]")

# These changes move no body, so they don't wait for Docker. Of all others Docker is asked first whether it is there:
# a stack or a group of Auto Scaling launches machines too.
_BODILESS = re.compile(
    r"(Create|Delete)(Tags|KeyPair|SecurityGroup)|ImportKeyPair|(Authorize|Revoke)SecurityGroup(In|E)gress"
    r"|Modify(Image|Instance|Snapshot)Attribute|ModifyInstanceMetadataDefaults"
    r"|(En|Dis)ableImage\w+|(Put|Delete)Parameter|AssumeRole"
)

# These never launch a machine, which a group of Auto Scaling or a stack may do with other changes of theirs.
_LAUNCHES_NONE = re.compile(r"(Terminate|Stop|Reboot|CreateImage|CopyImage|Delete|Deregister)")

_IMAGE = re.compile(rb"<imageId>(ami-[0-9a-f]+)</imageId>")

_SERVICES = ("ec2", "ssm", "sts", "kms", "iam", "autoscaling", "elasticloadbalancing", "cloudformation", "ebs")
_KIT = "bakehouse"  # the service for which the kit's own questions are signed

_JSON = "application/json"

_LARGEST = 16 * 1024 * 1024  # bytes of a request: EC2 takes less

Environ = dict[str, Any]
Respond = Callable[..., Any]
Answer = tuple[str, list[tuple[str, str]], bytes]
"""Status, headers and body."""


class Operations:
    """Hold which operations have been asked for with each key; many threads ask and tell."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[str, set[str]] = {}

    def add(self, key: str, operation: str) -> None:
        """Note that an operation has been asked for with a key."""
        with self._lock:
            self._of.setdefault(key, set()).add(operation)

    def told(self) -> dict[str, list[str]]:
        """Return the operations of each key, by its name."""
        with self._lock:
            return {key: sorted(operations) for key, operations in self._of.items()}


class Server:
    """Answer AWS's APIs and the few questions of the kit itself (under /bakehouse), to those who have a key."""

    def __init__(self, lifecycle: Lifecycle, folder: Path) -> None:
        self.lifecycle = lifecycle
        self.folder = folder
        self.told: list[str] = []
        self.notes = Notes(lifecycle, self._restore)
        self._since: int | None = None
        lifecycle.noting = self.notes.follow
        self._code = f"{digest(Path(__file__).parent)} {folder}"
        self._operations = Operations()
        self._decisions: dict[str, policies.Decision] = {}  # one of each kind
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._own: dict[str, Callable[[Environ], Any]] = {
            "/bakehouse/health": self._health,
            "/bakehouse/caller": lambda environ: {"address": environ["REMOTE_ADDR"]},
            "/bakehouse/decisions": self._told_decisions,
            "/bakehouse/adopt": self._adopt,
            "/bakehouse/stand-in": self._stand_in,
        }

    def __call__(self, environ: Environ, respond: Respond) -> Iterable[bytes]:
        """Answer one request (WSGI)."""
        try:
            signed = self._caller(environ)
        except RefusedError as refusal:
            return _error(environ, "403 Forbidden", refusal.code, str(refusal), respond)
        except ToolError as damaged:
            return _error(environ, "403 Forbidden", "AccessDenied", damaged.text, respond)
        if signed.service == _KIT:
            return self._answer_own(environ, signed, respond)
        return self._answer_aws(environ, signed, respond)

    def _caller(self, environ: Environ) -> Signed:
        """Return who signed a request, and for what; raises RefusedError when it isn't answered.

        A page in a browser of this host may send requests here, and so may another user of it. A browser says from
        where a page is (Origin), and asks for the name by which the page knows us (Host); nothing of ours does either.
        Another user has no key.
        """
        port = environ["SERVER_PORT"]
        if "HTTP_ORIGIN" in environ:
            raise RefusedError("AccessDenied", "the local EC2 answers no page of a browser")
        if environ.get("HTTP_HOST", "") not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            raise RefusedError("AccessDenied", "the local EC2 answers by the address 127.0.0.1 alone")
        keys = signatures.read(self.folder)
        asked = _asked(environ)
        with self.lifecycle.lock:
            sessions = answers.sessions()
        signed = signatures.signer({**keys, **sessions}, asked)
        if signed.key in sessions:  # what the kit's own tasks do as a role is limited as they are
            signed = replace(signed, key=signatures.OWN)
        path, service = environ.get("PATH_INFO", "/"), signed.service
        if path in self._own and environ["REQUEST_METHOD"] != "POST":
            raise RefusedError("AccessDenied", "this question is asked by POST")
        if service not in (*_SERVICES, _KIT) or path.startswith("/moto-api"):
            raise RefusedError("AccessDenied", f"the local EC2 has no service {service}")
        if (path in self._own) != (service == _KIT):
            raise RefusedError("AccessDenied", f"{path} is no question to {service}")
        return signed

    def _answer_aws(self, environ: Environ, signed: Signed, respond: Respond) -> Iterable[bytes]:
        form = _form(environ)
        action = _action(environ, form)
        self._operations.add(signed.key, action)
        if signed.key == signatures.OWN and (denied := self._denied(environ, signed, action)):
            code = "UnauthorizedOperation" if signed.service == "ec2" else "AccessDeniedException"
            return _error(environ, "403 Forbidden", code, denied, respond)
        self._prepare(action, form)
        try:
            if _READS.match(action):
                with self.lifecycle.lock:
                    status, headers, body = self._ask(environ)
            else:
                with self.lifecycle.changing():
                    status, headers, body = self._ask_once(environ, signed, action, form)
                self._follow_up(action, form, body)
        except EC2ClientError as refusal:
            return _error(environ, "400 Bad Request", refusal.code, refusal.message, respond)
        except Exception as error:  # moto's own faults arrive here
            log.exception("%s failed", action)
            return _internal_error(environ, f"{type(error).__name__}: {error}", respond)
        if status.startswith("500"):
            log.error("%s: %s", action, body[-4000:].decode(errors="replace"))
            return _internal_error(environ, f"{action} is not possible in the local EC2", respond)
        respond(status, headers)
        return [body]

    def _ask(self, environ: Environ) -> Answer:
        """Return moto's answer."""
        told: list[Any] = []

        def keep(status: str, headers: list[tuple[str, str]], _: Any = None) -> None:
            told[:] = [status, headers]

        body = b"".join(self._moto(environ, keep))
        return told[0], told[1], body

    def _ask_once(self, environ: Environ, signed: Signed, action: str, form: Mapping[str, list[str]]) -> Answer:
        """Return moto's answer, or what it was when the same ClientToken came before.

        Raises EC2's error when the token came before with other parameters.
        """
        if signed.service != "ec2" or "ClientToken" not in form:
            return self._ask(environ)
        before = answers.answered(signed.region, action, form)
        if before is not None:
            return "200 OK", [("Content-Type", "text/xml"), ("Content-Length", str(len(before)))], before
        answer = self._ask(environ)
        if answer[0].startswith("200"):
            answers.remember(signed.region, action, form, answer[2])
        return answer

    def _follow_up(self, action: str, form: Mapping[str, list[str]], body: bytes) -> None:
        """Let ports and notes follow a change, before it is answered."""
        self._follow()
        if "Tags" in action or "Image" in action:
            self.notes.follow()
        if action == "CreateImage" and _tags_image(form):
            # Packer's plugin 1.8 asks for an image at once, and then only after 15 s.
            self.lifecycle.wait_for_image(b"".join(_IMAGE.findall(body)).decode())

    def _denied(self, environ: Environ, signed: Signed, action: str) -> str:
        """Return why the policy that is enforced denies a request of the kit's own tasks; empty when it doesn't."""
        try:
            policy = policies.read((self.folder / policies.FILE).read_text(), policies.FILE)
        except FileNotFoundError:
            return ""
        with self.lifecycle.lock:
            tags = answers.tags_in(signed.region)
            wanted = policies.accesses(signed.service, action, _parameters(environ), signed.region, tags)
        decisions = [policy.decide(access) for access in wanted]
        self._decisions.update({f"{one.access.action} {one.allowed} {one.by}": one for one in decisions})
        return next((str(one) for one in decisions if not one.allowed), "")

    def _prepare(self, action: str, form: Mapping[str, list[str]]) -> None:
        """Ask Docker what this request needs of it, before the request takes the lock."""
        console_of = form.get("InstanceId", [""])[0] if action == "GetConsoleOutput" else ""
        moves = not _READS.match(action) and not _BODILESS.fullmatch(action)
        self.lifecycle.prepare(moves, moves and not _LAUNCHES_NONE.match(action), console_of)

    def _follow(self) -> None:
        """Let the ports follow; where Docker is away they follow when it is back, and the answer stands."""
        try:
            self.lifecycle.open_ports()
        except DriverError as error:
            log.warning("%s", error)

    def _answer_own(self, environ: Environ, signed: Signed, respond: Respond) -> Iterable[bytes]:
        """Answer one of the kit's own questions; the answer shows that we have the key too."""
        key = signatures.read(self.folder)[signed.key]
        ours = (signatures.PROOF, signatures.proof(key, environ["HTTP_AUTHORIZATION"]))
        try:
            return _answer(respond, "200 OK", json.dumps(self._own[environ["PATH_INFO"]](environ)).encode(), ours)
        except Exception as error:
            log.exception("%s failed", environ["PATH_INFO"])
            return _answer(respond, "500 Internal Server Error", _told(error), ours)

    def _health(self, _: Environ) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "code": self._code,
            "checkout": self.lifecycle.bodies.checkout,
            "unopened": dict(self.lifecycle.unopened),
            "told": self.told,
            "docker": self.lifecycle.bodies.answers(),
            "engine": engine(),
            "operations": self._operations.told(),
        }

    def restore(self, since: int) -> None:
        """Let the backends, which were kept at that time, follow what Docker knows more, or do so when it is back."""
        self._since = since
        try:
            self.told += adoption.restore(self.lifecycle, since)
            self._since = None
        except BodyError as error:
            log.warning("%s", error)
            if not since:
                self.told.append(f"the local EC2 does not know its images and machines: {error}")

    def _restore(self) -> None:
        """Do what ``restore`` could not do yet; raises BodyError."""
        if self._since is not None:
            lines = adoption.restore(self.lifecycle, self._since, late=True)
            self._since = None
            self.told += lines
            log.warning("Docker is back: %s", "; ".join(lines) or "it knows nothing more")

    def check(self) -> None:
        """Ask moto for all that its backends hold; raises RuntimeError where it can't tell."""
        for action in ("Instances", "Images", "Snapshots", "Volumes", "SecurityGroups", "KeyPairs", "Tags", "Subnets"):
            form = {"Action": f"Describe{action}", "Version": "2016-11-15"}
            asked = EnvironBuilder("/", method="POST", data=form, headers=[("Host", "ec2.us-east-1.amazonaws.com")])
            body, status, _ = run_wsgi_app(self._moto, asked.get_environ(), buffered=True)
            if not status.startswith("200"):
                raise RuntimeError(f"Describe{action}: {b''.join(body).decode(errors='replace')[-200:]}")

    def _told_decisions(self, _: Environ) -> dict[str, Any]:
        return {"decisions": [asdict(one) for one in list(self._decisions.values())]}

    def _adopt(self, _: Environ) -> dict[str, Any]:
        adopted = adoption.bases(self.lifecycle)
        self._follow()
        return {"adopted": adopted}

    def _stand_in(self, environ: Environ) -> dict[str, Any]:
        asked = parse_qs(environ.get("QUERY_STRING", ""))
        package, family = asked.get("package", [""])[0], asked.get("family", ["debian"])[0]
        return adoption.stand_in(self.lifecycle, package, family, self.folder)


def _asked(environ: Environ) -> signatures.Asked:
    """Return what the signature of a request covers; its body is read here, so that nobody waits with the lock held."""
    if "HTTP_AUTHORIZATION" not in environ:  # nothing more is read of it
        raise RefusedError("MissingAuthenticationToken", "the request is not signed; ./inv local.env prints how to")
    told = str(environ.get("CONTENT_LENGTH") or 0)
    if not re.fullmatch(r"[0-9]{1,9}", told) or int(told) > _LARGEST:
        raise RefusedError("RequestEntityTooLarge", f"the request has {told[:20]} bytes; {_LARGEST} are the most")
    if int(told) and environ.get("QUERY_STRING") and environ["PATH_INFO"] == "/":
        raise RefusedError("InvalidParameter", "the request has parameters in its address and in its body")
    data: bytes = environ["wsgi.input"].read(int(told))
    environ["wsgi.input"] = io.BytesIO(data)
    headers = {
        name.removeprefix("HTTP_").replace("_", "-").lower(): str(value)
        for name, value in environ.items()
        if name.startswith("HTTP_") or (name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value)
    }
    return signatures.Asked(environ["REQUEST_METHOD"], environ["REQUEST_URI"], headers, data)


def _told(error: Exception) -> bytes:
    return json.dumps({"error": str(error), "hint": getattr(error, "hint", "")}).encode()


def _answer(respond: Respond, status: str, body: bytes, *more: tuple[str, str], kind: str = _JSON) -> list[bytes]:
    respond(status, [("Content-Type", kind), ("Content-Length", str(len(body))), *more])
    return [body]


def _form(environ: Environ) -> dict[str, list[str]]:
    """Return the parameters of a request."""
    data: bytes = environ["wsgi.input"].getvalue()
    return parse_qs(data.decode(errors="replace") or str(environ.get("QUERY_STRING", "")))


def _tags_image(form: Mapping[str, list[str]]) -> bool:
    """Tell whether a request gives the image that it makes its tags: then it's found by them, answered or not."""
    return any(re.fullmatch(r"TagSpecification\.\d+\.ResourceType", key) and "image" in form[key] for key in form)


def _parameters(environ: Environ) -> dict[str, Any]:
    """Return the parameters of a request, whether it is a form or JSON."""
    if _in_json(environ):
        told: Any = json.loads(environ["wsgi.input"].getvalue() or b"{}")
        return told if isinstance(told, dict) else {}
    return dict(_form(environ))


def _action(environ: Environ, form: Mapping[str, list[str]]) -> str:
    """Return the name of the API's operation that a request asks for, empty when it can't be told."""
    target = str(environ.get("HTTP_X_AMZ_TARGET", "")) if _in_json(environ) else ""
    return target.rpartition(".")[2] if target else form.get("Action", [""])[0]


def _in_json(environ: Environ) -> bool:
    return "json" in str(environ.get("CONTENT_TYPE", ""))


def _internal_error(environ: Environ, message: str, respond: Respond) -> list[bytes]:
    return _error(environ, "400 Bad Request", "InternalFailure", message, respond)


def _error(environ: Environ, status: str, code: str, message: str, respond: Respond) -> list[bytes]:
    """Answer with an error in EC2's form, or in JSON to who asks in JSON."""
    if _in_json(environ):
        told = json.dumps({"__type": code, "message": message}).encode()
        return _answer(respond, status, told, kind="application/x-amz-json-1.1")
    body = (
        f"<?xml version='1.0' encoding='UTF-8'?><Response><Errors><Error><Code>{code}</Code>"
        f"<Message>{escape(message)}</Message></Error></Errors><RequestID>local</RequestID></Response>"
    ).encode()
    return _answer(respond, status, body, kind="text/xml")


def main(folder: Path, checkout: str) -> None:
    """Serve until SIGTERM, alone in its folder; raises ToolError where another one serves."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    with system.alone(folder / LOCK, _refuse_second):
        _serve(folder, checkout)


def _refuse_second(holder: str) -> None:
    raise ToolError(f"{holder} serves already")


def _serve(folder: Path, checkout: str) -> None:
    """Serve; the endpoint's port is written to ``server.json`` as soon as it answers."""
    bodies = Bodies(checkout)
    gate = GateDriver(f"bakehouse-{checkout}-gate", public_block(checkout), bodies.labels("gate"))
    state = State(folder)
    lifecycle = Lifecycle(bodies, gate, state)
    signatures.keep(folder)
    ec2.install(lifecycle, folder)
    server = Server(lifecycle, folder)
    since, server.told = state.load(server.check)
    server.restore(since)
    listener = _listen(server, folder)
    watch = Watch(lifecycle, server.notes.follow)
    threading.Thread(target=watch.watch, daemon=True, name="watch").start()
    threading.Thread(target=watch.look_again, daemon=True, name="look").start()
    threading.Thread(target=watch.mend_gate, daemon=True, name="gate").start()
    threading.Thread(target=_end_with, args=(folder, listener), daemon=True, name="folder").start()
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=listener.shutdown).start())
    documents.replace(
        folder / "server.json", json.dumps({"pid": os.getpid(), "port": listener.server_address[1]}).encode()
    )
    listener.serve_forever(poll_interval=1)
    gate.close()
    bodies.close()


def _end_with(folder: Path, listener: Any) -> None:
    """End the server when its folder is gone: nothing could be kept any more."""
    began = os.stat(folder).st_ino
    while True:
        time.sleep(_LOOK_SECONDS)
        try:
            there = os.stat(folder).st_ino == began
        except OSError:
            there = False
        if not there:
            log.warning("the folder %s is gone: the local EC2 ends", folder)
            listener.shutdown()
            return


def _listen(server: Server, folder: Path) -> Any:
    """Listen on the port of the last time, so that the endpoint stays the same; on any other when it's taken."""
    for port in (last_told(folder).get("port", 0), 0):
        try:
            return make_server("127.0.0.1", port, server, threaded=True, request_handler=_Handler)
        except (OSError, SystemExit):
            log.warning("port %s is taken", port)
    raise OSError("no port can be listened on")


class _Handler(MotoRequestHandler):
    timeout = 30  # seconds for a request to arrive: who sends half of one doesn't hold a thread for ever

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Stay silent: the log tells what happened to machines."""


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except (BodyError, DriverError, ToolError) as error:
        sys.exit(str(error))
