"""TLS contexts for the ports of a node and for clients: version 1.3, both sides present proof.

The ciphers are the library's own for TLS 1.3; there is nothing to choose and nothing to get wrong.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from cluster.security.certs import CertificateError, Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Who the other side of a session is, according to its verified certificate."""

    name: str
    kind: str

    @property
    def is_node(self) -> bool:
        return self.kind == Kind.NODE


def server_context(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """For the peer and client ports: a caller without a certificate of `ca` is turned away."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0  # no resumption: a certificate is looked at on every connection
    return _load(context, ca, certificate, key)


def client_context(
    ca: Path, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """For whoever dials: the server's certificate must be of `ca` and name the host dialled.

    Nodes dial each other with the peer's node name as the server's host name, which is among the
    DNS names of every node certificate.
    """
    return _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ca, certificate, key)


def subject_of(peer_certificate: dict[str, Any] | None) -> Subject | None:
    """The holder of a certificate as `SSLObject.getpeercert()` presents it; None without one."""
    if not peer_certificate:
        return None
    fields = {name: value for part in peer_certificate["subject"] for name, value in part}
    return Subject(name=fields.get("commonName", ""), kind=fields.get("organizationalUnitName", ""))


def _load(
    context: ssl.SSLContext, ca: Path, certificate: Path | None, key: Path | None
) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    _readable(ca)
    try:
        context.load_verify_locations(cafile=ca)
    except ssl.SSLError as error:
        raise CertificateError(ca, f"holds no certificate in PEM ({error.reason})") from None
    if certificate is None:
        return context
    _readable(certificate)
    if key is None:
        raise CertificateError(certificate, "needs the key that belongs to it")
    _readable(key)
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except ssl.SSLError as error:
        raise CertificateError(certificate, f"cannot be used with {key} ({error.reason})") from None
    except _EncryptedKeyError:
        raise CertificateError(key, "is encrypted; a node starts without anyone to ask") from None
    return context


def _readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise CertificateError(path, f"cannot be read: {error.strerror}") from None


class _EncryptedKeyError(Exception):
    pass


def _refuse_password() -> NoReturn:
    # Without this OpenSSL asks on the terminal and waits for ever.
    raise _EncryptedKeyError
