"""A small certificate authority for one cluster: `cluster certs init` and `cluster certs issue`.

A certificate says who its holder is (common name) and what kind (organizational unit): only a
certificate of kind `node` may speak on the peer port, so a client whose name happens to be that of
a node is still only a client. The name of a node is also among its DNS names, so that peers can
check it whatever address they dialled.

Only files are touched here, and none is ever overwritten. Private keys are created with mode 0600.
"""

import datetime
import ipaddress
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_DAYS = 3650
LEAF_DAYS_DEFAULT = 825  # the longest that Apple's verifier accepts for a private authority
_CLOCK_SLACK = datetime.timedelta(minutes=5)  # a machine whose clock is a little behind may join


class Kind(StrEnum):
    """What the holder of a certificate may be."""

    NODE = "node"
    CLIENT = "client"


class CertificateError(Exception):
    """A certificate or key file cannot be made or used; the text names the file and the remedy."""

    def __init__(self, path: Path, detail: str) -> None:
        super().__init__(path, detail)
        self.path = path
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.path}: {self.detail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """Where a new certificate and its key were written."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What an operator wants to know about a certificate file."""

    name: str
    kind: str
    hosts: tuple[str, ...]
    not_after: datetime.datetime


def create_authority(directory: Path, cluster: str, now: datetime.datetime) -> Issued:
    """Make `ca.crt` and `ca.key` in `directory` (created when missing)."""
    directory.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{cluster} certificate authority")])
    builder = (
        _builder(name, name, key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(certificate_signing=True), critical=True)
    )
    certificate = builder.sign(key, hashes.SHA256())
    return _write(directory / "ca.crt", directory / "ca.key", certificate, key)


def issue(
    directory: Path,
    name: str,
    *,
    kind: Kind,
    hosts: tuple[str, ...],
    days: int,
    now: datetime.datetime,
) -> Issued:
    """Make `NAME.crt` and `NAME.key` in `directory`, signed by the authority that is there."""
    if not 1 <= days <= CA_DAYS or not name or len(name.encode()) > 64 or "/" in name:
        raise CertificateError(directory / name, f"a name of 1 to 64 bytes and 1 to {CA_DAYS} days")
    authority, authority_key = _load_authority(directory)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, kind.value),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if kind is Kind.NODE:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
    builder = (
        _builder(subject, authority.subject, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(certificate_signing=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
    )
    if kind is Kind.NODE:
        names = [_general_name(directory / name, host) for host in dict.fromkeys((name, *hosts))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(authority_key, hashes.SHA256())
    return _write(directory / f"{name}.crt", directory / f"{name}.key", certificate, key)


def facts(path: Path) -> Facts:
    """Read what a certificate file says about its holder."""
    certificate = _load_certificate(path)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = tuple(str(name.value) for name in names)
    except x509.ExtensionNotFound:
        hosts = ()
    return Facts(
        name=_attribute(certificate.subject, NameOID.COMMON_NAME),
        kind=_attribute(certificate.subject, NameOID.ORGANIZATIONAL_UNIT_NAME),
        hosts=hosts,
        not_after=certificate.not_valid_after_utc,
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SLACK)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, certificate_signing: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificate_signing,
        key_cert_sign=certificate_signing,
        crl_sign=certificate_signing,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(path: Path, host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError:
        raise CertificateError(path, f"{host!r} is neither an IP address nor a DNS name") from None


def _attribute(name: x509.Name, oid: x509.ObjectIdentifier) -> str:
    found = name.get_attributes_for_oid(oid)
    return str(found[0].value) if found else ""


def _load_authority(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = _load_certificate(directory / "ca.crt")
    path = directory / "ca.key"
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise CertificateError(path, f"cannot be read: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        raise CertificateError(path, f"is not an unencrypted private key in PEM: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError(path, "is not the key that `cluster certs init` makes")
    return certificate, key


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError:
        raise CertificateError(
            path, f"does not exist; `cluster certs init {path.parent}` makes an authority"
        ) from None
    except OSError as error:
        raise CertificateError(path, f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CertificateError(path, f"is not a certificate in PEM: {error}") from None


def _write(
    certificate_path: Path,
    key_path: Path,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
) -> Issued:
    key_bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for path in (key_path, certificate_path):
        if path.exists():
            raise CertificateError(path, "exists already and is never overwritten; move it away")
    _create(key_path, key_bytes, mode=0o600)
    _create(certificate_path, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
    return Issued(certificate=certificate_path, key=key_path)


def _create(path: Path, data: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise CertificateError(path, f"cannot be created: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
