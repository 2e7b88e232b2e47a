"""The certificate authority and the TLS contexts, through real handshakes in memory."""

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from cluster.security import certs, tls
from cluster.security.certs import CertificateError, Kind

NOW = datetime.datetime.now(datetime.UTC)


def _authority(directory: Path, *nodes: str, clients: tuple[str, ...] = ()) -> Path:
    certs.create_authority(directory, "test", NOW)
    for name in nodes:
        certs.issue(directory, name, kind=Kind.NODE, hosts=("127.0.0.1",), days=1, now=NOW)
    for name in clients:
        certs.issue(directory, name, kind=Kind.CLIENT, hosts=(), days=1, now=NOW)
    return directory


def _server(directory: Path, name: str) -> ssl.SSLContext:
    ca, crt, key = directory / "ca.crt", directory / f"{name}.crt", directory / f"{name}.key"
    return tls.server_context(ca, crt, key)


def _client(directory: Path, name: str | None) -> ssl.SSLContext:
    if name is None:
        return tls.client_context(directory / "ca.crt")
    return tls.client_context(
        directory / "ca.crt", directory / f"{name}.crt", directory / f"{name}.key"
    )


def _handshake(
    server: ssl.SSLContext, client: ssl.SSLContext, host: str
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends after a handshake over memory; the first side to refuse raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_end = server.wrap_bio(to_server, to_client, server_side=True)
    client_end = client.wrap_bio(to_client, to_server, server_hostname=host)
    done = {id(server_end): False, id(client_end): False}
    for _ in range(10):
        for end in (client_end, server_end):
            try:
                end.do_handshake()
                done[id(end)] = True
            except ssl.SSLWantReadError:
                pass
        if all(done.values()):
            return server_end, client_end
    raise AssertionError("the handshake did not end")


def test_node_and_client_see_who_the_other_is(tmp_path: Path) -> None:
    """After a handshake each side knows the name and the kind of the other."""
    _authority(tmp_path, "a", clients=("alice",))
    server, client = _handshake(_server(tmp_path, "a"), _client(tmp_path, "alice"), "127.0.0.1")
    assert tls.subject_of(server.getpeercert()) == tls.Subject(name="alice", kind="client")
    seen = tls.subject_of(client.getpeercert())
    assert seen is not None
    assert (seen.name, seen.is_node, client.version()) == ("a", True, "TLSv1.3")


def test_node_is_found_under_its_own_name(tmp_path: Path) -> None:
    """A peer can be checked by node name whatever address was dialled."""
    _authority(tmp_path, "a", "b")
    _handshake(_server(tmp_path, "a"), _client(tmp_path, "b"), "a")


def test_wrong_host_is_refused(tmp_path: Path) -> None:
    """A server whose certificate does not name the host dialled is refused by the client."""
    _authority(tmp_path, "a", "b")
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for 'elsewhere'"):
        _handshake(_server(tmp_path, "a"), _client(tmp_path, "b"), "elsewhere")


def test_caller_without_certificate_is_refused(tmp_path: Path) -> None:
    """A server turns away a caller that presents nothing."""
    _authority(tmp_path, "a")
    with pytest.raises(ssl.SSLError, match=r"(?i)peer did not return a certificate"):
        _handshake(_server(tmp_path, "a"), _client(tmp_path, None), "a")


def test_other_authority_is_refused(tmp_path: Path) -> None:
    """A certificate of another authority with the same names opens nothing."""
    ours, theirs = _authority(tmp_path / "1", "a"), _authority(tmp_path / "2", "a")
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(_server(ours, "a"), _client(theirs, "a"), "a")


def test_client_certificate_cannot_serve(tmp_path: Path) -> None:
    """A client's certificate is not accepted as that of a server, even under a node's name."""
    _authority(tmp_path, "b", clients=("a",))
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(_server(tmp_path, "a"), _client(tmp_path, "b"), "a")


def test_expired_certificate_is_refused(tmp_path: Path) -> None:
    """A certificate counts until its last day and not longer."""
    _authority(tmp_path, "a")
    past = NOW - datetime.timedelta(days=3)
    certs.issue(tmp_path, "old", kind=Kind.CLIENT, hosts=(), days=1, now=past)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        _handshake(_server(tmp_path, "a"), _client(tmp_path, "old"), "a")


def test_keys_are_private_and_nothing_is_overwritten(tmp_path: Path) -> None:
    """Key files have mode 0600, and a second run refuses instead of replacing an authority."""
    _authority(tmp_path, "a")
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("*.key")} == {0o600}
    before = (tmp_path / "ca.key").read_bytes()
    with pytest.raises(CertificateError, match="exists already"):
        certs.create_authority(tmp_path, "test", NOW)
    assert (tmp_path / "ca.key").read_bytes() == before


def test_facts_name_holder_hosts_and_last_day(tmp_path: Path) -> None:
    """What `doctor` shows of a certificate is what was issued."""
    _authority(tmp_path, "a")
    seen = certs.facts(tmp_path / "a.crt")
    assert (seen.name, seen.kind, seen.hosts) == ("a", "node", ("a", "127.0.0.1"))
    assert seen.not_after == (NOW + datetime.timedelta(days=1)).replace(microsecond=0)


def test_unusable_files_are_named(tmp_path: Path) -> None:
    """A missing, foreign, mismatched or encrypted file is an error that names it."""
    _authority(tmp_path, "a", "b")
    ca, crt, key = tmp_path / "ca.crt", tmp_path / "a.crt", tmp_path / "a.key"
    with pytest.raises(CertificateError, match=r"none\.crt: cannot be read: No such file"):
        tls.client_context(tmp_path / "none.crt")
    with pytest.raises(CertificateError, match=r"a\.key: holds no certificate"):
        tls.client_context(key)
    with pytest.raises(CertificateError, match=r"a\.crt: cannot be used with .*b\.key"):
        tls.server_context(ca, crt, tmp_path / "b.key")
    private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    (tmp_path / "locked.key").write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(CertificateError, match=r"locked\.key: is encrypted"):
        tls.server_context(ca, crt, tmp_path / "locked.key")


def test_bad_host_and_missing_authority_are_explained(tmp_path: Path) -> None:
    """`certs issue` says what is wrong with a host and where an authority comes from."""
    with pytest.raises(CertificateError, match="cluster certs init"):
        certs.issue(tmp_path, "a", kind=Kind.NODE, hosts=(), days=1, now=NOW)
    _authority(tmp_path)
    with pytest.raises(CertificateError, match="neither an IP address nor a DNS name"):
        certs.issue(tmp_path, "a", kind=Kind.NODE, hosts=("bücher",), days=1, now=NOW)
