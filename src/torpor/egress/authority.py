"""Certificates for the gateway in a machine, which ends the agent's TLS there. Pure.

An authority is trusted by the machines of one data directory and by nothing else: no browser, no
system, no other host. So it is bound to no names (the rules of versions to come are not known), and
whoever has its key can show certificates only to who is in such a machine already. It is valid from
1970 on, the time at which a machine boots, and for ever (RFC 5280's 99991231235959Z): neither a
guest's clock nor the age of a snapshot matters.

A leaf is for names as certificates have them, among them `*.x` for one label before x. Names under
`**.x` are of any depth, which no certificate can say: these are asked for one by one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from torpor.core.egress import HTTPS, Rule
from torpor.core.errors import Invalid

FACT = "authority"  # of a manifest: the fingerprint of the authority that the machine trusts
# More in one certificate would make each handshake longer.
NAMES_MAX = 50

_MALFORMED = (
    *(ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension),
    *(x509.ExtensionNotFound, x509.UnsupportedGeneralNameType),
)
_ALWAYS = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_LABEL = "[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")


@dataclass(frozen=True)
class Leaf:
    """A certificate for names, and the chain that leads to its authority, as PEM."""

    names: tuple[str, ...]
    chain: str
    key: str = field(repr=False)

    def to_json(self) -> dict[str, str | list[str]]:
        return {"names": list(self.names), "chain": self.chain, "key": self.key}


@dataclass(frozen=True)
class Authority:
    certificate: str  # PEM
    key: bytes = field(repr=False)  # DER (PKCS #8)

    @classmethod
    def new(cls) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _named("torpor")
        usage = _usage(sign_certificates=True)
        certificate = (
            _builder(name, name, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, SHA256())
        )
        return cls(_pem(certificate), _der(key))

    @classmethod
    def given(cls, certificate: str, key: bytes) -> Authority:
        """One that comes from elsewhere. Raises Invalid unless it is one, with its key, of which
        leaves can be made."""
        authority = cls(certificate, key)
        try:
            authority.leaf(["torpor.example"])
            constraints = authority._parsed.extensions.get_extension_for_class(
                x509.BasicConstraints
            )
            sound = constraints.value.ca
            sound &= authority._parsed.public_key() == authority._private.public_key()
        except _MALFORMED as error:
            raise Invalid(f"an authority is malformed: {error}") from error
        if not sound:
            raise Invalid("what should be an authority is none, or its key is another's")
        return cls(_pem(authority._parsed), key)

    @cached_property
    def fingerprint(self) -> str:
        return self._parsed.fingerprint(SHA256()).hex()

    def leaf(self, names: Sequence[str]) -> Leaf:
        """`names`: host names, `*.x` among them, or addresses. Raises Invalid."""
        if not 0 < len(names) <= NAMES_MAX:
            raise Invalid(f"a certificate has 1 to {NAMES_MAX} names, not {len(names)}")
        alternatives = [_alternative(name) for name in names]
        key = ec.generate_private_key(ec.SECP256R1())
        identifier = self._parsed.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier.value)
        server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        certificate = (
            _builder(_named("torpor gateway"), self._parsed.subject, key)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign_certificates=False), critical=True)
            .add_extension(server, critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._private, SHA256())
        )
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Leaf(tuple(names), _pem(certificate) + self.certificate, private.decode())

    def leaves(self, rules: Iterable[Rule]) -> list[Leaf]:
        """For all names that the rules know and a certificate can have."""
        names = names_of(rules)
        starts = range(0, len(names), NAMES_MAX)
        return [self.leaf(names[start : start + NAMES_MAX]) for start in starts]

    @cached_property
    def _parsed(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate.encode())

    @cached_property
    def _private(self) -> ec.EllipticCurvePrivateKey:
        key = load_der_private_key(self.key, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("its key is not of an elliptic curve")
        return key


def names_of(rules: Iterable[Rule]) -> list[str]:
    """The names of hosts that the rules let an agent reach by TLS, as certificates have them."""
    found = {rule.host for rule in rules if rule.protocol == HTTPS}
    return sorted(host for host in found if not host.startswith("**."))


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        if len(name) > 253 or not _NAME.fullmatch(name):
            raise Invalid(f"no certificate can be for {name[:300]!r}") from None
        return x509.DNSName(name)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    first, last = _ALWAYS
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(first)
        .not_valid_after(last)
        .add_extension(identifier, critical=False)
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def _der(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
