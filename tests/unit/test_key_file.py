"""Promises of the key file: nobody else reads it, it is replaced in one step, and a worker follows it without losing a key."""

import contextlib
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dead_letters import Sealer, unseal
from pipeline.keys import KeysError
from sluice import key_file
from sluice.key_file import KeyFile, new_keys_file, parsed, read, replace
from tests.raw import Raw

SECRET = "6B58703273357638792F423F4528482C"
OTHER = "3t6w9z$C&F)J@NcRfUjXn2r5u8x/A?D("


def versions(*texts: str) -> list[dict[str, str]]:
    """The first is active, and the newest."""
    states = ["active", *["decrypt-only"] * len(texts)]
    return [
        {"id": str(len(texts) - number), "state": state, "text": text}
        for number, (text, state) in enumerate(zip(texts, states, strict=False))
    ]


def written(path: Path, data: Any, mode: int = 0o400) -> Path:
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data), encoding="utf-8")
    path.chmod(mode)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


# Who may read it


@pytest.mark.parametrize("mode", [0o440, 0o404, 0o644, 0o620, 0o401])
def test_a_file_that_others_may_use_is_refused(path: Path, mode: int) -> None:
    with pytest.raises(KeysError, match="chmod 0400"):
        read(written(path, {"k": versions(SECRET)}, mode))


def test_a_writable_file_is_warned_about(path: Path) -> None:
    assert ["chmod 0400" in warning for warning in read(written(path, {"k": versions(SECRET)}, 0o600)).warnings] == [
        True
    ]
    assert read(written(path, {"k": versions(SECRET)})).warnings == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_somebody_else_is_warned_about(path: Path) -> None:
    os.chown(written(path, {"k": versions(SECRET)}), 12345, 12345)
    assert ["belongs to user 12345" in warning for warning in read(path).warnings] == [True]


def test_a_new_file_is_read_and_never_overwritten(path: Path) -> None:
    new_keys_file(path, ["card-number", "dead-letters"], size=16)
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    keys = read(path)
    assert keys.active("card-number").material != keys.active("dead-letters").material
    assert len(keys.active("card-number").material) == 16
    with pytest.raises(FileExistsError):
        new_keys_file(path, ["card-number"])


# What is in it


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"k: [{{text: {SECRET}\n", "keys.yaml: is not YAML at line 2"),
        (f"{SECRET}: *{SECRET}", "is not YAML at line 1"),
        (f"k: !{SECRET} x", "is not YAML"),
        (f"k: [{{id: !!int x, text: {SECRET}}}]", "is not YAML"),
        (f"k: [{{id: '1', text: {SECRET}, text: {SECRET}}}]", "is not YAML at line 1, or a key stands twice"),
        (f"k:\n- {{id: '1', state: active, text: {SECRET}}}\nk: []", "at line 3, or a key stands twice"),
        ("[" * 5000, "is not YAML"),
        (f"k: !!bool {SECRET}", "is not YAML"),
        (f"k: !!timestamp {SECRET}", "is not YAML"),
        ("\x00" + SECRET, "is not YAML"),
        (SECRET, "keys.yaml: holds no keys"),
    ],
)
def test_a_broken_file_is_not_quoted(path: Path, text: str, expected: str) -> None:
    with pytest.raises(KeysError, match=expected) as caught:
        read(written(path, text))
    assert SECRET not in str(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None), "a chained error quotes the file"
    assert not any(SECRET in str(names) for names in variables(caught.tb)), "the variables of a frame quote the file"


def variables(traceback: TracebackType | None) -> Iterator[dict[str, Any]]:
    """The local variables of the frames in code of Sluice's own."""
    while traceback is not None:
        if "/tests/" not in traceback.tb_frame.f_code.co_filename:
            yield traceback.tb_frame.f_locals
        traceback = traceback.tb_next


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_content_is_keys_or_says_what_is_wrong(content: bytes) -> None:
    with contextlib.suppress(KeysError):
        parsed(content, "keys.yaml")


def test_json_is_read_too() -> None:
    keys = parsed(b'{"k": [{"id": "1", "state": "active", "text": "%s"}]}' % SECRET.encode(), "SLUICE_KEYS")
    assert keys.active("k").material == SECRET.encode()


# Replaced in one step


def test_a_replaced_file_is_another_file_of_the_same_mode(path: Path) -> None:
    written(path, {"k": versions(SECRET)})
    with path.open("rb") as before:
        replace(path, {"k": versions(OTHER, SECRET)})
        assert before.read() == yaml.safe_dump({"k": versions(SECRET)}).encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert read(path).active("k").material == OTHER.encode()
    assert [one.name for one in path.parent.iterdir()] == ["keys.yaml"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_that_root_replaces_stays_that_of_its_owner(path: Path) -> None:
    os.chown(written(path, {"k": versions(SECRET)}), 12345, 12346)
    replace(path, {"k": versions(OTHER, SECRET)})
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)


def test_what_fails_half_way_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(path, {"k": versions(SECRET)})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(key_file.UserError, match="No space left on device"):
        replace(path, {"k": versions(OTHER, SECRET)})
    assert read(path).active("k").material == SECRET.encode()
    assert [one.name for one in path.parent.iterdir()] == ["keys.yaml"]


# Followed


async def test_a_worker_follows_the_file(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = KeyFile(written(path, {"k": versions(SECRET), "dead-letters": versions(SECRET[::-1])}))
    source.open()
    keys = source.keys
    sealer = Sealer(keys)
    record = Raw(b"value", offset=7, key=b"key")
    before = sealer.seal(record, 1000)
    await source.look({})
    assert keys.version == 0
    with caplog.at_level(logging.INFO):
        replace(path, {"k": versions(OTHER, SECRET), "dead-letters": versions(OTHER[::-1], SECRET[::-1])})
        await source.look({})
        await source.look({})
    assert source.keys is keys, "whoever has it sees the new keys"
    assert (keys.version, keys.active("k").id, keys.find("k", "1").material) == (1, "2", SECRET.encode())
    assert caplog.messages == [f"{path} has changed; newly active: k/2, dead-letters/2."]
    after = sealer.seal(record, 1000)
    assert before is not None
    assert after is not None
    assert after.startswith(b"sluice-sealed\x01\x012"), "sealed with the new version"
    assert {unseal(one, keys).value for one in (before, after)} == {b"value"}
    assert keys.take_uses() == {("dead-letters", "1"): 1, ("dead-letters", "2"): 1}


async def test_a_weak_key_that_comes_later_is_warned_about_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = {"k": versions(SECRET)}
    source = KeyFile(written(path, content))
    source.open()
    for id_ in ("a", "b"):
        content["k"].append({"id": id_, "state": "decrypt-only", "text": "x" * 32})
        replace(path, content)
        await source.look({})
    assert [one.partition(":")[0] for one in caplog.messages if "as good as in clear" in one] == ["k/a", "k/b"]
    assert len(source.keys.warnings) == 2


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda path: written(path, "k: ["), "is not YAML"),
        (lambda path: written(path, {"k": versions(OTHER), "dead-letters": "x"}), "dead-letters: must be a list"),
        (lambda path: written(path, {"dead-letters": versions(OTHER)}), "k: is in use, and not there any more; put it back"),
        (lambda path: written(path, {"k": versions(OTHER[:16])}), "k/1 has 16 bytes, which is AES-128, and AES-256-GCM needs 32"),
        (lambda path: written(path, {"k": versions(OTHER)}), "k/1 is another key than before; give it an id of its own"),
        (lambda path: path.chmod(0o444), "others can read the keys; run `chmod 0400"),
        (lambda path: path.unlink(), "No such file or directory"),
        (lambda path: (path.unlink(), path.mkdir(0o700)), "Is a directory"),
    ],
)  # fmt: skip
async def test_a_file_that_cannot_be_used_is_said_once_and_the_keys_stay(
    path: Path, caplog: pytest.LogCaptureFixture, break_it: Any, said: str
) -> None:
    source = KeyFile(written(path, {"k": versions(SECRET)}))
    source.open()
    source.keys.demand("k", "AES-256-GCM")
    break_it(path)
    for _ in range(3):
        await source.look({})
    assert len(caplog.messages) == 1
    assert said in caplog.messages[0]
    assert caplog.messages[0].startswith("The keys stay as they were: ")
    assert caplog.records[0].levelno == logging.WARNING
    assert SECRET not in caplog.text
    assert (source.keys.version, source.keys.active("k").material) == (0, SECRET.encode())
    written(path, {"k": versions(OTHER, SECRET)})
    await source.look({})
    assert source.keys.active("k").material == OTHER.encode(), "a file that was put right is taken"


def overwrite(path: Path, text: str) -> None:
    """As an editor may do: the same file, and here of the same size and with the time of before."""
    before = path.stat()
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    same = ("st_ino", "st_size", "st_mtime_ns")
    assert [getattr(after, one) for one in same] == [getattr(before, one) for one in same]


async def test_a_file_that_is_written_to_in_place_is_noticed(path: Path) -> None:
    source = KeyFile(written(path, {"k": versions(SECRET)}, 0o600))
    source.open()
    overwrite(path, yaml.safe_dump({"k": [one | {"id": "9"} for one in versions(SECRET[::-1])]}))
    await source.look({})
    assert source.keys.active("k").material == SECRET[::-1].encode()
