"""Where the server that was started listens, what it takes to be let in, and which processes listen there."""

import contextlib
import errno
import http.client
import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psutil

from dsa_doctor.launch.request import LaunchOptions

_ANY = {None, "", "0.0.0.0"}  # noqa: S104 - compared, not bound
_LARGEST = 1 << 20


class Listener(NamedTuple):
    """A process that listens; the pid is None, and the name empty, where the system does not tell."""

    pid: int | None
    name: str

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.name})" if self.pid is not None else "a process of another user"


class Reply(NamedTuple):
    """An HTTP reply. `cut` says that it was longer than what is read of one."""

    status: int
    content: bytes
    cut: bool = False


@dataclass(frozen=True)
class Endpoint:
    """How this machine reaches the server.

    Attributes:
        hosts: addresses to try, in this order; without brackets.
        port: TCP port.
        socket_path: Unix domain socket, which then takes the place of host and port.
        certificate: file of the server's certificate; None is plain HTTP.
        api_key: key that the server asks for; never shown.
    """

    hosts: tuple[str, ...]
    port: int
    socket_path: str | None = None
    certificate: str | None = None
    api_key: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Return the address for people; behind a Unix domain socket every host is as good."""
        scheme = "http" if self.certificate is None else "https"
        if self.socket_path is not None:
            return f"{scheme}://localhost"
        host = self.hosts[0]
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    def ask(self, method: str, path: str, body: bytes | None, *, timeout: float) -> Reply:
        """Make one request; `timeout` bounds the whole of it, however slowly the answer comes.

        Raises:
            TimeoutError: it took longer.
            OSError: nobody listens, or the connection broke.
            http.client.HTTPException: what came is not HTTP, or broke off.
        """
        deadline = _Deadline(timeout)
        headers = {"Content-Type": "application/json", "Connection": "close"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        try:
            connection = http.client.HTTPConnection(self.hosts[0], self.port)
            connection.sock = self._connect(deadline)
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            content = reply.read(_LARGEST + 1)
            missing = reply.length  # of an announced length
        except (OSError, ValueError, http.client.HTTPException) as error:
            if deadline.is_over:
                raise TimeoutError from error
            raise
        finally:
            deadline.end()
        if deadline.is_over:
            raise TimeoutError
        if missing and len(content) <= _LARGEST:
            raise http.client.IncompleteRead(content, missing)
        return Reply(reply.status, content[:_LARGEST], len(content) > _LARGEST)

    def listeners(self) -> list[Listener] | None:
        """Return the processes that listen where `ask` asks; None where the system does not tell."""
        if self.socket_path is not None:
            path = os.path.abspath(self.socket_path)  # noqa: PTH100 - links stay as the server wrote them
            return _owners("unix", lambda one: one.laddr in {self.socket_path, path})
        try:
            return listeners_on(self.port, [address[0] for _, address in self._addresses()])
        except OSError:
            return None

    def _connect(self, deadline: "_Deadline") -> socket.socket:
        context = self._context() if self.certificate is not None else None
        families = [(socket.AF_UNIX, self.socket_path)] if self.socket_path is not None else self._addresses()
        failure = OSError(errno.EADDRNOTAVAIL, "no address to connect to")
        for family, address in families:
            connected = deadline.watch(socket.socket(family, socket.SOCK_STREAM))
            try:
                connected.connect(address)
                return connected if context is None else deadline.watch(context.wrap_socket(connected))
            except ssl.SSLError:
                raise
            except OSError as error:
                failure = error
        raise failure

    def _addresses(self) -> list[tuple[socket.AddressFamily, Any]]:
        """Return the socket addresses behind the hosts, in order."""
        found = [socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM) for host in self.hosts]
        return [(family, address) for each in found for family, _, _, _, address in each]

    def _context(self) -> ssl.SSLContext:
        """Trust exactly the certificate that the server was given: it names a public host, and is asked locally."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(self.certificate)
        return context


def endpoint_of(options: LaunchOptions, environment: Mapping[str, str] = os.environ) -> Endpoint:
    """Return where a launch will listen, and its key: that of --api-key, else VLLM_API_KEY, as vLLM has it."""
    host = options.host.value
    hosts: tuple[str, ...]
    if host in _ANY:
        hosts = ("127.0.0.1",)
    elif host == "::":
        hosts = ("127.0.0.1", "::1")  # both, unless the system keeps the families apart
    else:
        hosts = (str(host).strip("[]"),)
    keys = [key for key in (options.api_keys.value or (environment.get("VLLM_API_KEY"),)) if key]
    return Endpoint(
        hosts=hosts,
        port=options.port.value,
        socket_path=options.uds.value,
        certificate=options.ssl_certfile.value,
        api_key=keys[0] if keys else None,
    )


def listeners_on(port: int, addresses: Sequence[str] = ()) -> list[Listener] | None:
    """Return the processes that listen on a TCP port, at one of the addresses or at all; None is not known.

    Args:
        port: TCP port.
        addresses: numeric addresses; empty looks at every one.
    """
    wanted = {_plain(one) for one in addresses}

    def fits(one: Any) -> bool:
        if one.status != psutil.CONN_LISTEN or one.laddr.port != port:
            return False
        bound = _plain(one.laddr.ip)
        return not wanted or bound in wanted or bound.is_unspecified

    return _owners("tcp", fits)


def _owners(kind: str, fits: Callable[[Any], bool]) -> list[Listener] | None:
    try:
        pids = {one.pid for one in psutil.net_connections(kind) if fits(one)}
    except (psutil.Error, OSError):
        return None
    return [Listener(pid, process_name(pid)) for pid in sorted(pids, key=lambda one: one or 0)]


def process_name(pid: int | None) -> str:
    """Return the short name of a process; empty where it has ended or may not be looked at."""
    try:
        return str(psutil.Process(pid).name()) if pid is not None else ""
    except psutil.Error:
        return ""


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address without its zone, and an IPv4 one that a dual socket shows as IPv6 as what it is."""
    read = ipaddress.ip_address(address.partition("%")[0])
    return read.ipv4_mapped or read if isinstance(read, ipaddress.IPv6Address) else read


class _Deadline:
    """Ends what a request waits for when its time is over: a socket's own timeout begins anew with every byte."""

    def __init__(self, seconds: float) -> None:
        self.is_over = False
        self._seconds = seconds
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._give_up)
        self._timer.daemon = True
        self._timer.start()

    def watch(self, connected: socket.socket) -> socket.socket:
        """Take a socket under the deadline."""
        connected.settimeout(self._seconds)
        self._sockets.append(connected)
        return connected

    def end(self) -> None:
        """Close every socket."""
        self._timer.cancel()
        for one in self._sockets:
            one.close()

    def _give_up(self) -> None:
        self.is_over = True
        for one in list(self._sockets):
            with contextlib.suppress(OSError):  # not connected yet, or gone
                one.shutdown(socket.SHUT_RDWR)
