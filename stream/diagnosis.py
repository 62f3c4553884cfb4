"""Whether the brokers can be used as the config says, in steps: name, TCP, TLS, Kafka, SASL. aiokafka says only that it failed.

Each step that fails has one reason in words, and a remedy. `docs/security.md` lists them.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aiokafka.client import AIOKafkaClient
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaError, SaslAuthenticationFailed

from stream.certificates import problems
from stream.connection import KafkaConfig

STEP_SECONDS = 5.0
API_VERSIONS, SASL_HANDSHAKE = (18, 0), (17, 1)
"""Requests and their versions (kafka.apache.org/protocol): the two that a broker answers before anybody has logged in."""
ILLEGAL_SASL_STATE = 34
TLS_ALERT = 0x15
EXPIRED, NOT_YET_VALID, OTHER_HOST, OTHER_ADDRESS = 10, 9, 62, 64
"""OpenSSL's X509_V_ERR_* codes."""


class Unreachable(Exception):
    """No broker can be used. The text says of each where it failed, why, and what to do. `final`: only another config helps."""

    def __init__(self, text: str, *, final: bool) -> None:
        super().__init__(text)
        self.final = final


@dataclass(frozen=True, slots=True)
class Fault:
    """Why one broker cannot be used. `final`: it does not go away by itself."""

    why: str
    remedy: str
    final: bool = False


async def reach(kafka: KafkaConfig) -> list[str]:
    """Find out whether the cluster can be used; returns what is wrong with single brokers, a sentence each.

    Looks at each broker that the config names, then at each that the cluster names, all at once; at most about 15 s for a
    broker, 5 s for most. Raises Unreachable when none can be used.
    """
    wrong_files = await asyncio.to_thread(problems, kafka.security)
    if wrong_files:
        raise Unreachable("\n  ".join(["the files of kafka.security cannot be used:", *wrong_files]), final=True)
    faults = await _look_at(kafka, kafka.brokers)
    usable = [broker for broker in kafka.brokers if broker not in faults]
    if not usable:
        raise Unreachable(
            f"no Kafka broker can be used: {_text(faults)}", final=any(one.final for one in faults.values())
        )
    advertised = await _advertised(kafka, usable[0])
    others = await _look_at(kafka, [one for one in advertised if one not in kafka.brokers])
    if advertised and all(one in others or one in faults for one in advertised):
        text = f"{usable[0]} answers, but the brokers that it names cannot be used: {_text(others)}"
        raise Unreachable(f"{text} (or correct advertised.listeners of the brokers)", final=False)
    return [f"{broker}: {one.why}; {one.remedy}" for broker, one in (faults | others).items()]


def _text(faults: dict[str, Fault]) -> str:
    """One clause for each kind of fault, with all the brokers that have it."""
    brokers: dict[Fault, list[str]] = {}
    for broker, fault in faults.items():
        brokers.setdefault(fault, []).append(broker)
    return ". ".join(f"{', '.join(names)}: {fault.why}; {fault.remedy}" for fault, names in brokers.items())


async def _advertised(kafka: KafkaConfig, broker: str) -> list[str]:
    """The addresses under which the cluster wants its brokers to be reached; empty when it does not say."""
    client = AIOKafkaClient(
        **(kafka.client_arguments() | {"bootstrap_servers": broker}), request_timeout_ms=int(STEP_SECONDS * 1000)
    )
    try:
        await client.bootstrap()
        return [f"{one.host}:{one.port}" for one in client.cluster.brokers()]
    except KafkaError:
        return []
    finally:
        await client.close()


async def _look_at(kafka: KafkaConfig, brokers: Sequence[str]) -> dict[str, Fault]:
    """The faults of these brokers; one that can be used is left out."""
    found = await asyncio.gather(*(_look_at_one(kafka, broker) for broker in brokers))
    return {broker: fault for broker, fault in zip(brokers, found, strict=True) if fault is not None}


async def _look_at_one(kafka: KafkaConfig, broker: str) -> Fault | None:
    host, _, port = broker.rpartition(":")
    address = host.strip("[]"), int(port)
    fault = await asyncio.to_thread(_before_login, kafka, address)
    if fault is None and kafka.security.mechanism is not None:
        fault = await _login(kafka, address)
    return fault


def _before_login(kafka: KafkaConfig, address: tuple[str, int]) -> Fault | None:
    """Everything up to the password. Blocks for about 15 s at most."""
    tcp = _connected(address)
    if isinstance(tcp, Fault):
        return tcp
    context = kafka.ssl_context()
    with contextlib.closing(tcp):
        if context is None:
            answer = _first_words(kafka, address, tcp)
        else:
            try:
                with context.wrap_socket(tcp, server_hostname=address[0]) as tls:
                    answer = _first_words(kafka, address, tls)
            except ssl.SSLCertVerificationError as error:
                return _distrust(kafka, address[0], error)
            except TimeoutError:
                return _silence("TLS handshake")
            except OSError as error:
                return _no_handshake(kafka, address, error)
    return answer if isinstance(answer, Fault) else _logins(kafka, answer)


def _connected(address: tuple[str, int]) -> socket.socket | Fault:
    try:
        return socket.create_connection(address, STEP_SECONDS)
    except socket.gaierror as error:
        why = f"the name {address[0]} leads nowhere ({error.strerror})"
        return Fault(why, "correct kafka.brokers, or the name service")
    except TimeoutError:
        why = f"no connection within {STEP_SECONDS:.0f} s"
        return Fault(why, "see that the host is up and no firewall stands between")
    except ConnectionRefusedError:
        return Fault("nothing listens there (connection refused)", "start it, or correct kafka.brokers")
    except OSError as error:
        return Fault(f"no connection ({error.strerror or error})", "correct kafka.brokers, or the network")


def _first_words(kafka: KafkaConfig, address: tuple[str, int], connection: socket.socket) -> bytes | Fault:
    """What the broker says of the logins that it offers."""
    try:
        _ask(connection, API_VERSIONS, b"")
        return _ask(connection, SASL_HANDSHAKE, _string(kafka.security.mechanism or "PLAIN"))
    except TimeoutError:
        return _silence("first request")
    except ssl.SSLError as error:  # in TLS 1.3 the broker looks at our certificate after the handshake
        return _refused_certificate(kafka, error)
    except _NotKafka:
        return Fault("what answers there is no Kafka", "correct kafka.brokers", final=True)
    except (OSError, EOFError):
        return _hung_up(kafka, address)


def _hung_up(kafka: KafkaConfig, address: tuple[str, int]) -> Fault:
    security = kafka.security
    if security.protocol.endswith("SSL"):
        return _refused_certificate(kafka, None)
    if _takes_tls(address):
        remedy = (
            f"set kafka.security.protocol to {'SASL_SSL' if security.mechanism else 'SSL'}, or take the plaintext port"
        )
        return Fault(f"the port wants TLS, and kafka.security.protocol is {security.protocol}", remedy, final=True)
    return Fault("it closes the connection at the first request", "see the broker's log, or correct kafka.brokers")


def _logins(kafka: KafkaConfig, answer: bytes) -> Fault | None:
    """Whether the port wants what the config gives: user and password or none, and by which mechanism."""
    (code,) = struct.unpack_from(">h", answer)
    offered, security = ", ".join(sorted(_strings(answer[2:]))), kafka.security
    if security.mechanism is None and code != ILLEGAL_SASL_STATE:
        with_sasl = "SASL_SSL" if security.protocol == "SSL" else "SASL_PLAINTEXT"
        remedy = f"set kafka.security.protocol to {with_sasl}, with mechanism, username and password"
        return Fault(f"the port wants user and password (SASL {offered})", remedy, final=True)
    if security.mechanism is not None and code == ILLEGAL_SASL_STATE:
        without = "SSL" if security.protocol == "SASL_SSL" else "PLAINTEXT"
        remedy = f"set kafka.security.protocol to {without}, or take the port with SASL"
        return Fault("the port takes no user and password (SASL)", remedy, final=True)
    if security.mechanism is not None and code:
        remedy = "set kafka.security.mechanism to one of these"
        return Fault(f"it does not offer {security.mechanism}, but {offered}", remedy, final=True)
    return None


async def _login(kafka: KafkaConfig, address: tuple[str, int]) -> Fault | None:
    host, port = address
    arguments = kafka.client_arguments()
    del arguments["bootstrap_servers"]
    try:
        connection = await create_conn(host, port, **arguments, request_timeout_ms=int(STEP_SECONDS * 1000))
    except SaslAuthenticationFailed as error:
        who = f"user {kafka.security.username} with {kafka.security.mechanism}"
        remedy = "correct kafka.security.username and password, or the user's credentials on the broker"
        return Fault(f"it does not let in {who} ({error.args[0] if error.args else error})", remedy, final=True)
    except TimeoutError:
        return _silence("login")
    except (KafkaError, OSError) as error:
        return Fault(
            f"the login broke off ({str(error) or type(error).__name__})", "see the broker's log, then try again"
        )
    connection.close()
    return None


def _silence(step: str) -> Fault:
    remedy = "see that a broker listens there, and that it is not stuck"
    return Fault(f"it takes connections, but no answer to the {step} in {STEP_SECONDS:.0f} s", remedy)


def _distrust(kafka: KafkaConfig, host: str, error: ssl.SSLCertVerificationError) -> Fault:
    """The broker's certificate is not good enough for us. An outdated one is renewed over there, without another config."""
    why = error.verify_message.rstrip(".")
    match error.verify_code:
        case code if code == EXPIRED:
            return Fault("its certificate has expired", "renew it on the broker")
        case code if code == NOT_YET_VALID:
            return Fault("its certificate is not valid yet", "set the clocks right")
        case code if code in (OTHER_HOST, OTHER_ADDRESS):
            remedy = "name the broker as its certificate does, or give it a certificate with this name"
            return Fault(f"its certificate is for another host than {host}", remedy, final=True)
    if kafka.security.ca:
        return Fault(
            f"{kafka.security.ca.name} did not sign its certificate ({why})", "correct kafka.security.ca", final=True
        )
    remedy = "name who signed it in kafka.security.ca"
    return Fault(f"nobody whom this machine trusts signed its certificate ({why})", remedy, final=True)


def _no_handshake(kafka: KafkaConfig, address: tuple[str, int], error: OSError) -> Fault:
    if _takes_plaintext(address):
        without = "SASL_PLAINTEXT" if kafka.security.mechanism else "PLAINTEXT"
        remedy = f"take the port with TLS, or set kafka.security.protocol to {without}"
        return Fault("the port takes no TLS, it is a plaintext port", remedy, final=True)
    if kafka.security.certificate or "certificate" in str(error):
        return _refused_certificate(kafka, error)
    return Fault(f"no TLS handshake ({_reason(error)})", "see the broker's log, and correct kafka.security")


def _refused_certificate(kafka: KafkaConfig, error: OSError | None) -> Fault:
    said = f" ({_reason(error)})" if error else ""
    if kafka.security.certificate is None:
        remedy = "give kafka.security.certificate and key, or take the port without client certificates"
        why = f"it closes the connection after the TLS handshake, as it does without a client certificate{said}"
        return Fault(why, remedy, final=error is not None)
    remedy = "give a kafka.security.certificate that is signed by whom the brokers trust"
    why = f"it refuses our certificate {kafka.security.certificate.name}{said}"
    return Fault(why, remedy, final=error is not None)


def _reason(error: OSError) -> str:
    """`sslv3 alert bad certificate` of `[SSL: SSLV3_ALERT_BAD_CERTIFICATE] ...`."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return error.strerror or type(error).__name__


def _takes_tls(address: tuple[str, int]) -> bool:
    """Whether a port answers a TLS handshake. Nothing is sent there, so it need not be trusted."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(address, STEP_SECONDS) as tcp, context.wrap_socket(tcp):
            return True
    except OSError:
        return False


def _takes_plaintext(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, STEP_SECONDS) as tcp:
            _ask(tcp, API_VERSIONS, b"")
            return True
    except (OSError, EOFError, _NotKafka):
        return False


# Kafka's protocol, as far as it is spoken before the login: aiokafka closes the connection before it says what was offered.


class _NotKafka(Exception):
    pass


def _ask(connection: socket.socket, kind: tuple[int, int], body: bytes) -> bytes:
    """The body of the answer. Raises EOFError, OSError, TimeoutError, _NotKafka."""
    request = struct.pack(">hhi", *kind, 1) + _string("sluice") + body
    connection.sendall(struct.pack(">i", len(request)) + request)
    head = _exactly(connection, 5)
    if head[0] == TLS_ALERT:
        raise EOFError
    (size,) = struct.unpack_from(">i", head)
    if not 4 <= size < 1_000_000:
        raise _NotKafka
    answer = head[4:] + _exactly(connection, size - 1)
    if answer[:4] != struct.pack(">i", 1):
        raise _NotKafka
    return answer[4:]


def _exactly(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        more = connection.recv(count - len(found))
        if not more:
            raise EOFError
        found += more
    return found


def _string(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def _strings(body: bytes) -> Iterator[str]:
    (count,) = struct.unpack_from(">i", body)
    at = 4
    for _ in range(count):
        (length,) = struct.unpack_from(">h", body, at)
        yield body[at + 2 : at + 2 + length].decode()
        at += 2 + length
