"""The server's own certificate, looked at before anything is started."""

from __future__ import annotations

import ssl

from ray_whisper_streaming.errors import ConfigurationError

__all__ = ["check_certificate"]


def check_certificate(cert_file: str, key_file: str) -> None:
    """Whether a server can prove with these files who it is.

    Args:
        cert_file: PEM, the server's certificate and those between it and an authority.
        key_file: PEM, its private key.

    Raises:
        ConfigurationError: ``tls_cert`` holds no certificate; ``tls_key`` holds no key, that of another certificate, or
            an encrypted one (nobody is there to be asked for the password).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cert_file)
    except OSError:
        raise ConfigurationError("tls_cert", cert_file, "a PEM file of a certificate") from None
    try:
        context.load_cert_chain(cert_file, key_file, password=lambda: "")
    except OSError:
        allowed = "a PEM file of the private key of the certificate in tls_cert, not encrypted"
        raise ConfigurationError("tls_key", key_file, allowed) from None
