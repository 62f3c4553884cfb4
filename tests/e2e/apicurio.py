"""A real schema registry for tests: Apicurio 3.0.9 by Maven, with its database in memory, on a free port of this machine."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from sluice.kafka_installation import Missing, find_java, locked
from sluice.local_kafka import _free_ports

VERSION = "3.0.9"
ARTIFACT = f"io.apicurio:apicurio-registry-app:{VERSION}:zip:all"
API = "/apis/ccompat/v7"
START_SECONDS = 90


def jar() -> Path:
    """The registry in the user's cache (115 MB), fetched at the first call. Raises Missing."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sluice" / f"apicurio-{VERSION}"
    if not folder.is_dir():
        with locked(folder):
            if not folder.is_dir():
                _fetch(folder)
    return folder / f"apicurio-registry-app-{VERSION}-runner.jar"


def _fetch(folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise Missing(f"Apicurio {VERSION} is fetched by Maven, and there is no `mvn`: apt-get install maven")
    beside = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    names = "<groupId>t</groupId><artifactId>t</artifactId><version>1</version>"
    (beside / "pom.xml").write_text(f"<project><modelVersion>4.0.0</modelVersion>{names}</project>")
    fetch = [maven, "-q", "-B", "dependency:unpack", f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={beside}"]
    done = subprocess.run(fetch, cwd=beside, capture_output=True, text=True, check=False)
    if done.returncode or not any(beside.glob("*-runner.jar")):
        shutil.rmtree(beside)
        raise Missing(f"Maven could not fetch Apicurio {VERSION}: {done.stdout[-500:]}")
    beside.rename(folder)


class Apicurio:
    """One registry process. `start` it; `kill` it; its schemas go with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (self.port,) = _free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{API}"

    def start(self) -> None:
        """Blocks until it answers. Fails after START_SECONDS."""
        environment = {
            **os.environ,
            "QUARKUS_HTTP_HOST": "127.0.0.1",
            "QUARKUS_HTTP_PORT": str(self.port),
            "QUARKUS_LOG_LEVEL": "WARN",
        }
        java = [find_java().path, "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-jar", str(jar())]
        with (self._folder / "apicurio.log").open("ab") as log:
            self._process = subprocess.Popen(java, env=environment, stdout=log, stderr=log, cwd=self._folder)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "apicurio.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the registry does not answer"
            time.sleep(0.1)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/subjects", timeout=2) as answer:
            return bool(answer.status == 200)
        return False


@contextlib.contextmanager
def apicurio(folder: Path) -> Iterator[Apicurio]:
    """A registry that runs, and is gone afterwards."""
    one = Apicurio(folder)
    try:
        one.start()
        yield one
    finally:
        one.kill()
