"""The PEM files of `kafka.security`: whether they are there, are what they should be, and belong together."""

import datetime
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from stream.connection import SecurityConfig


def problems(security: SecurityConfig) -> list[str]:
    """All that is wrong with the files, a sentence each with its remedy; nothing of what is in them is shown. Blocks for disk."""
    return list(_problems(security))


def _problems(security: SecurityConfig) -> Iterator[str]:
    if security.ca is not None:
        _, problem = _certificates("ca", security.ca)
        yield from problem
    if security.certificate is None:
        return
    certificates, problem = _certificates("certificate", security.certificate)
    yield from problem
    if certificates:
        yield from _outdated(security.certificate, certificates[0])
    key, problem = _key("key" if security.key else "certificate", security.key or security.certificate)
    yield from problem
    if certificates and key is not None and _public(key) != _public(certificates[0]):
        yield (
            f"kafka.security.key: {security.key or security.certificate} is not the key of {security.certificate}; "
            "give the key that the certificate was made for"
        )


def _certificates(name: str, file: Path) -> tuple[list[x509.Certificate], list[str]]:
    content, problem = _read(name, file)
    if problem:
        return [], problem
    try:
        return x509.load_pem_x509_certificates(content), []
    except ValueError:
        return [], [f"kafka.security.{name}: {file} holds no PEM certificate; give a file with BEGIN CERTIFICATE in it"]


def _outdated(file: Path, certificate: x509.Certificate) -> Iterator[str]:
    now = datetime.datetime.now(datetime.UTC)
    if certificate.not_valid_after_utc < now:
        yield f"kafka.security.certificate: {file} expired on {certificate.not_valid_after_utc:%Y-%m-%d}; renew it"
    if certificate.not_valid_before_utc > now:
        since = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        yield f"kafka.security.certificate: {file} is not valid before {since}; set this machine's clock right, or renew it"


def _key(name: str, file: Path) -> tuple[PrivateKeyTypes | None, list[str]]:
    content, problem = _read(name, file)
    if problem:
        return None, problem if name == "key" else []  # of the certificate's file it has been said
    where = f"kafka.security.{name}: {file}"
    try:
        return load_pem_private_key(content, password=None), []
    except TypeError:
        return None, [f"{where} has a passphrase, which nobody can type here; take it off with `openssl pkey`"]
    except (ValueError, UnsupportedAlgorithm):
        remedy = (
            "give a file with BEGIN PRIVATE KEY in it" if name == "key" else "name the key's file in kafka.security.key"
        )
        return None, [f"{where} holds no PEM private key; {remedy}"]


def _read(name: str, file: Path) -> tuple[bytes, list[str]]:
    try:
        return file.read_bytes(), []
    except OSError as error:
        return b"", [
            f"kafka.security.{name}: {file} cannot be read ({error.strerror}); correct the path, or its rights"
        ]


def _public(one: PrivateKeyTypes | x509.Certificate) -> bytes:
    return one.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
