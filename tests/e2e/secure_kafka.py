"""A broker that asks who is there: SASL over TLS and in clear, client certificates, and ACLs; and the certificates for it."""

import datetime
import ipaddress
import os
import time
from collections import defaultdict
from pathlib import Path

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sluice.local_kafka import LocalKafka

USERS = ("sluice", "router", "stream", "operator", "device", "oncall")
"""Users of every mechanism; each may do what ACLs say. `sluice` may do everything."""
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
LISTENERS = {"SECURE": "SASL_SSL", "CLEAR": "SASL_PLAINTEXT", "MTLS": "SSL"}
"""SECURE takes every mechanism, CLEAR only SCRAM-SHA-512, MTLS a client certificate whose common name is the user."""
_DAY = datetime.timedelta(days=1)

Grant = tuple[str, str, str]
"""Kind (topic, group or cluster), name, operation: ("topic", "raw.events", "READ")."""


class SecureKafka:
    """One broker with the listeners of `LISTENERS`; its plain listener is the administrator's. Certificates are in `folder`."""

    def __init__(self, folder: Path, password: str) -> None:
        self.folder = folder
        authority = Authority("authority")
        authority.write(folder / "ca.pem")
        Authority("another").write(folder / "another-ca.pem")
        authority.sign(folder, "broker", addresses=["127.0.0.1"])
        for user in USERS:
            authority.sign(folder, user)
        Authority("another").sign(folder, "stranger")
        self.kafka = LocalKafka(folder / "kafka", listeners=LISTENERS, properties=_properties(folder, password))
        self._password = password
        self._granted: dict[str, set[Grant]] = defaultdict(set)

    def start(self) -> None:
        self.kafka.start()
        self.admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap, "log_level": 2})
        changes = [
            UserScramCredentialUpsertion(
                user, ScramCredentialInfo(mechanism, 4096), self._password.encode(), os.urandom(16)
            )
            for user in USERS
            for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512)
        ]
        for change in changes:  # one mechanism of a user at a time
            for done in self.admin.alter_user_scram_credentials([change]).values():
                done.result(30)

    def grant(self, user: str, *grants: Grant) -> None:
        """Let a user do this too. Returns when the broker knows it."""
        for done in self.admin.create_acls([_acl(user, grant) for grant in grants]).values():
            done.result(30)
        self._granted[user] |= set(grants)
        self._until_known(user)

    def revoke(self, user: str, *grants: Grant) -> None:
        """Take this from a user, or all. Returns when the broker knows it."""
        away = set(grants) or self._granted[user]
        if away:
            for done in self.admin.delete_acls([_filter(_acl(user, grant)) for grant in away]).values():
                done.result(30)
            self._granted[user] -= away
            self._until_known(user)

    def _until_known(self, user: str) -> None:
        """ACLs reach the controller first, and the broker's authorizer a moment later."""
        everything = AclBindingFilter(
            ResourceType.ANY, None, ResourcePatternType.ANY, f"User:{user}", None, AclOperation.ANY, AclPermissionType.ANY
        )  # fmt: skip
        wanted = {_acl(user, grant) for grant in self._granted[user]}
        deadline = time.monotonic() + 30
        while set(self.admin.describe_acls(everything).result(30)) != wanted:
            assert time.monotonic() < deadline, f"the broker does not know the rights of {user}"
            time.sleep(0.02)


def _filter(acl: AclBinding) -> AclBindingFilter:
    return AclBindingFilter(
        acl.restype, acl.name, acl.resource_pattern_type, acl.principal, acl.host, acl.operation, acl.permission_type
    )


def _acl(user: str, grant: Grant) -> AclBinding:
    kind, name, operation = grant
    return AclBinding(
        {"topic": ResourceType.TOPIC, "group": ResourceType.GROUP, "cluster": ResourceType.BROKER}[kind],
        name,
        ResourcePatternType.LITERAL,
        f"User:{user}",
        "*",
        AclOperation[operation],
        AclPermissionType.ALLOW,
    )


def _properties(folder: Path, password: str) -> dict[str, str]:
    module = "org.apache.kafka.common.security"
    users = " ".join(f'user_{user}="{password}"' for user in USERS)
    plain = f"{module}.plain.PlainLoginModule required {users};"
    scram = f"{module}.scram.ScramLoginModule required;"
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "broker.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(folder / "ca.pem"),
        "listener.name.mtls.ssl.client.auth": "required",
        "listener.name.mtls.ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/,DEFAULT",
        "sasl.enabled.mechanisms": ",".join(MECHANISMS),
        "listener.name.clear.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.secure.plain.sasl.jaas.config": plain,
        "listener.name.secure.scram-sha-256.sasl.jaas.config": scram,
        "listener.name.secure.scram-sha-512.sasl.jaas.config": scram,
        "listener.name.clear.scram-sha-512.sasl.jaas.config": scram,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:sluice",  # ANONYMOUS: the plain listener
    }


class Authority:
    """Signs certificates (EC P-256, PEM) that Kafka and Python's ssl both read."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = name
        usage = x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        self._certificate = (
            _builder(name, name, self._key.public_key(), datetime.datetime.now(datetime.UTC) + 30 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def write(self, file: Path) -> None:
        """The authority's own certificate."""
        file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def sign(self, folder: Path, name: str, addresses: list[str] | None = None, days: int = 30) -> None:
        """NAME.pem: private key (PKCS#8), then certificate; NAME.key and NAME.crt: the two apart. `days` may be negative."""
        key = ec.generate_private_key(ec.SECP256R1())
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        until = datetime.datetime.now(datetime.UTC) + days * _DAY
        builder = _builder(name, self._name, key.public_key(), until).add_extension(usages, critical=False)
        if addresses:
            names = [x509.IPAddress(ipaddress.ip_address(one)) for one in addresses]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        signed = builder.add_extension(issuer, critical=False).sign(self._key, hashes.SHA256())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = signed.public_bytes(serialization.Encoding.PEM)
        for suffix, content in ((".key", private), (".crt", public), (".pem", private + public)):
            file = folder / f"{name}{suffix}"
            file.touch(mode=0o600)
            file.write_bytes(content)


def _builder(
    subject: str, issuer: str, public_key: ec.EllipticCurvePublicKey, until: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(until - 60 * _DAY)
        .not_valid_after(until)
    )
