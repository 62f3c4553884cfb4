"""Promise: what a batch is enciphered to is what AES gives for each value alone, as openssl and Vector have it."""

import base64
import shutil
import subprocess
from typing import Any

import pytest
from cryptography.hazmat.decrepit.ciphers.modes import CFB, OFB
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.modes import CBC, CTR
from cryptography.hazmat.primitives.padding import PKCS7
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ciphers import BLOCK_ALGORITHMS, DecryptionFailed, decrypt, encryption
from pipeline.keys import Key, key_bytes

MODES: dict[str, Any] = {"CFB": CFB, "OFB": OFB, "CTR": CTR, "CBC-PKCS7": CBC}
OPENSSL = {"CBC-PKCS7": "cbc"}
TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=300)


def key(algorithm: str) -> Key:
    return Key("k", "1", bytes(range(7, 7 + (key_bytes(algorithm) or 0))))


def one_at_a_time(algorithm: str, of: Key, plain: bytes, vector: bytes) -> bytes:
    mode = algorithm.split("-", 2)[2]
    if mode == "CBC-PKCS7":
        padder = PKCS7(128).padder()
        plain = padder.update(plain) + padder.finalize()
    encryptor = Cipher(algorithms.AES(of.material), MODES[mode](vector)).encryptor()
    return encryptor.update(plain) + encryptor.finalize()


@pytest.mark.parametrize("algorithm", BLOCK_ALGORITHMS)
@settings(max_examples=60)
@given(texts=st.lists(TEXT, max_size=30))
def test_a_batch_is_what_each_value_alone_gives(algorithm: Any, texts: list[str]) -> None:
    plains = [text.encode()[:300] for text in texts]
    ciphertexts, vectors = encryption(algorithm, key(algorithm))(plains)
    assert len(set(vectors)) == len(plains)
    for plain, ciphertext, vector in zip(plains, ciphertexts, vectors, strict=True):
        assert one_at_a_time(algorithm, key(algorithm), plain, vector) == ciphertext


@pytest.mark.parametrize("algorithm", [one for one in BLOCK_ALGORITHMS if "256" in one])
def test_ten_thousand_values_of_every_length(algorithm: Any) -> None:
    plains = [bytes([number % 251]) * (number % 301) for number in range(10_000)]
    encrypt = encryption(algorithm, key(algorithm))
    ciphertexts, vectors = encrypt(plains)
    for plain, ciphertext, vector in zip(plains, ciphertexts, vectors, strict=True):
        assert one_at_a_time(algorithm, key(algorithm), plain, vector) == ciphertext
    _, more = encrypt(plains)
    assert len({*vectors, *more}) == 20_000, "two values share a vector"


@pytest.mark.parametrize("encoding", ["base64", "hex"])
@pytest.mark.parametrize("algorithm", BLOCK_ALGORITHMS)
@settings(max_examples=20)
@given(text=TEXT)
def test_what_is_encrypted_decrypts(algorithm: Any, encoding: str, text: str) -> None:
    (ciphertext,), (vector,) = encryption(algorithm, key(algorithm))([text.encode()])
    value, block = (one.hex() if encoding == "hex" else base64.b64encode(one).decode() for one in (ciphertext, vector))
    assert decrypt(algorithm, key(algorithm), value, block, encoding) == text


@pytest.mark.parametrize(
    ("algorithm", "material", "vector", "plain", "ciphertext"),
    [
        ("AES-256-CFB", b"6B58703273357638792F423F4528482B", base64.b64decode("FmXUb0OPOWm1A2kw6diKYw=="), "bar", "vFza"),
        ("AES-256-CFB", b"01234567890123456789012345678912", b"0123456789012345", "data", "c/dIOA=="),
        (
            "AES-128-CBC-PKCS7", b"16_byte_keyxxxxx", b"1234567890123456", "super secret message",
            "GBw8Mu00v0Kc38+/PvsVtGgWuUJ+ZNLgF8Opy8ohIYE=",
        ),
    ],
)  # fmt: skip
def test_published_vectors(
    algorithm: Any, material: bytes, vector: bytes, plain: str, ciphertext: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of Mezmo's documentation, and of Vector's source."""
    monkeypatch.setattr("os.urandom", lambda size: vector * (size // 16))
    of = Key("k", "1", material)
    (written,), _ = encryption(algorithm, of)([plain.encode()])
    assert base64.b64encode(written).decode() == ciphertext
    assert decrypt(algorithm, of, ciphertext, base64.b64encode(vector).decode(), "base64") == plain


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is a program of its own, and not installed here")
@pytest.mark.parametrize("algorithm", BLOCK_ALGORITHMS)
def test_openssl_both_ways(algorithm: Any) -> None:
    _, bits, mode = algorithm.split("-", 2)
    of = key(algorithm)

    def openssl(data: bytes, vector: bytes, *more: str) -> bytes:
        cipher = f"-aes-{bits}-{OPENSSL.get(mode, mode.lower())}"
        command = ["openssl", "enc", *more, cipher, "-K", of.material.hex(), "-iv", vector.hex()]
        return subprocess.run(command, input=data, capture_output=True, check=True).stdout

    texts = ["4111111111111111", "Zoë Ødegård-Featherstonehaugh 王", "", "x" * 31, "x" * 32]
    ciphertexts, vectors = encryption(algorithm, of)([text.encode() for text in texts])
    for text, ciphertext, vector in zip(texts, ciphertexts, vectors, strict=True):
        assert openssl(ciphertext, vector, "-d").decode() == text
        theirs = base64.b64encode(openssl(text.encode(), vector)).decode()
        assert decrypt(algorithm, of, theirs, base64.b64encode(vector).decode(), "base64") == text


def test_a_counter_that_overflows_begins_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.urandom", lambda size: b"\xff" * size)
    plain = b"x" * 50
    (ciphertext,), (vector,) = encryption("AES-256-CTR", key("AES-256-CTR"))([plain])
    assert vector == b"\xff" * 16
    assert one_at_a_time("AES-256-CTR", key("AES-256-CTR"), plain, vector) == ciphertext


@pytest.mark.parametrize("algorithm", BLOCK_ALGORITHMS)
def test_what_cannot_be_decrypted_says_what_is_wrong_and_shows_nothing(algorithm: Any) -> None:
    vector = base64.b64encode(bytes(16)).decode()
    for value, block, said in (("!", vector, "is not base64"), ("vFza", "AAAA", "instead of 16")):
        with pytest.raises(DecryptionFailed, match=said):
            decrypt(algorithm, key(algorithm), value, block, "base64")
    if algorithm.endswith("CBC-PKCS7"):
        with pytest.raises(DecryptionFailed, match="cut off"):
            decrypt(algorithm, key(algorithm), "vFza", vector, "base64")
