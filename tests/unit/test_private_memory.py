"""Promises: a process that holds keys leaves no core dump and shows its memory to root alone; what watches it still can."""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sluice import private_memory

ROOT = Path(__file__).parents[2]
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
SLUICE = "from sluice import cli; cli.run_to_end(lambda: cli.sluice.main(sys.argv[1:], standalone_mode=False))"
LOOK = """
import ctypes, resource, sys
{before}
print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), file=sys.stderr)
"""
"""Runs something, then tells the limit of core dumps and whether the process is dumpable."""
PRIVATE = "(0, 0) 0"
KEEP = "from sluice.private_memory import keep_memory_private; keep_memory_private()"


def look(before: str, *arguments: str, **environment: str) -> str:
    """What is found in a process of its own that was free to dump before; the last line of its stderr."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK.format(before=before), *arguments],
        cwd=ROOT, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr, done
    return done.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("private")
    file = folder / "config.yaml"
    file.write_text(
        "kafka: {brokers: ['127.0.0.1:1']}\nkeys: {provider: file, path: keys.yaml}\n"
        "pipelines: {events: {from: raw.events, schema: event}}\n"
    )
    subprocess.run(
        [sys.executable, "-c", f"import sys; {SLUICE}", "keys", "new", str(file), "--all"], cwd=ROOT, check=True
    )
    assert (folder / "keys.yaml").exists()
    return file


@ON_LINUX
def test_without_it_the_process_is_as_dumpable_as_any() -> None:
    assert look("").endswith(" 1")


@ON_LINUX
@pytest.mark.parametrize(
    "command",
    [
        ["try", "CONFIG", "events"], ["check", "--offline", "CONFIG"], ["keys", "list", "CONFIG"],
        ["keys", "rotate", "CONFIG", "dead-letters"], ["keys", "new", "CONFIG", "another"],
    ],
)  # fmt: skip
def test_commands_that_read_keys_keep_their_memory_private(config: Path, command: list[str]) -> None:
    arguments = [str(config) if one == "CONFIG" else one for one in command]
    assert look(SLUICE, *arguments) == PRIVATE


@ON_LINUX
def test_a_worker_keeps_its_memory_private(config: Path) -> None:
    """It does so before it looks for brokers, of which there are none."""
    before = f"import sluice.worker; sluice.worker.START_SECONDS = 0.1\n{SLUICE}"
    assert look(before, "worker", str(config), "events") == PRIVATE


@ON_LINUX
def test_up_does_where_the_keys_are_in_its_environment(config: Path) -> None:
    file = config.with_name("env.yaml")
    file.write_text(config.read_text().replace("provider: file, path: keys.yaml", "provider: env"))
    before = f"import sluice.supervisor; sluice.supervisor.Supervisor = None\n{SLUICE}"
    assert look(before, "up", str(file), SLUICE_KEYS="x") == PRIVATE


@ON_LINUX
def test_a_crash_leaves_no_core(tmp_path: Path) -> None:
    if not _dumps_core("import ctypes", tmp_path):
        pytest.skip("this machine makes no core dumps")
    assert not _dumps_core(KEEP, tmp_path)


def _dumps_core(before: str, folder: Path) -> bool:
    script = f"""
import os, resource, sys
sys.path.insert(0, {str(ROOT)!r})
os.chdir({str(folder)!r})
resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
{before}
os.abort()
"""
    process = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", script])
    _, status = os.waitpid(process, 0)
    assert os.WTERMSIG(status) == signal.SIGABRT
    return os.WCOREDUMP(status)


@ON_LINUX
def test_what_watches_processes_still_reads_stat_and_status() -> None:
    """`ps`, `top` and `sluice bench` need no more."""
    with subprocess.Popen(
        [sys.executable, "-c", f"{KEEP}; print('ready', flush=True); input()"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        script = f"""
import sys
for name in ("stat", "status", "limits"):
    assert open("/proc/{process.pid}/" + name).read()
for name in ("environ", "maps"):
    try: open("/proc/{process.pid}/" + name).read()
    except PermissionError: continue
    sys.exit(name + " can be read")
"""
        reading = subprocess.run(
            ["/usr/bin/env", "python3", "-S", "-c", script],
            preexec_fn=_as_nobody if os.geteuid() == 0 else None, capture_output=True, text=True, check=False,
        )  # fmt: skip
        process.stdin.write("\n")
        process.stdin.flush()
    assert reading.returncode == 0, reading.stderr


def _as_nobody() -> None:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


def test_elsewhere_it_does_what_can_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []
    monkeypatch.setattr(private_memory.resource, "setrlimit", lambda *given: limits.append(given))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    private_memory.keep_memory_private()
    assert limits == [(private_memory.resource.RLIMIT_CORE, (0, 0))]
