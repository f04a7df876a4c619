//! Clients: raw bytes over TCP, and TLS handshakes that show what was served.

use std::net::SocketAddr;
use std::sync::Arc;

use haflinger_core::CertificateSpec;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::PATIENCE;

/// A connection on which bytes are written and read as they are.
pub struct RawClient {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl RawClient {
    pub async fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), unread: Vec::new() }
    }

    /// Writes; a peer that has closed already shows when reading.
    pub async fn send(&mut self, bytes: &str) {
        let _ = self.stream.write_all(bytes.as_bytes()).await;
    }

    /// Sends a GET and reads its answer.
    pub async fn get(&mut self, path: &str) -> Option<(u16, String)> {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n")).await;
        self.answer().await
    }

    /// Sends a request without a body, with these fields, and reads its answer.
    pub async fn ask(
        &mut self,
        method: &str,
        target: &str,
        host: &str,
        fields: &[(&str, &str)],
    ) -> Option<(u16, String)> {
        let fields: String = fields.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        self.send(&format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")).await;
        self.answer().await
    }

    /// The next answer with a length: status and, behind the header, body. `None` when the
    /// connection ended before.
    pub async fn answer(&mut self) -> Option<(u16, String)> {
        let (status, header) = self.header().await?;
        let length = super::backend::field(&header, "content-length");
        let length = length.map_or(0, |length| length.parse().unwrap());
        while self.unread.len() < length {
            self.fill().await?;
        }
        let body = String::from_utf8(self.unread.drain(..length).collect()).unwrap();
        Some((status, header + &body))
    }

    /// The header of the next answer.
    pub async fn header(&mut self) -> Option<(u16, String)> {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            self.fill().await?;
        };
        let header = String::from_utf8(self.unread.drain(..end).collect()).unwrap();
        let status = header.split(' ').nth(1).unwrap().parse().unwrap();
        Some((status, header))
    }

    /// Reads exactly `count` bytes.
    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.unread.len() < count {
            self.fill().await.expect("the connection ended");
        }
        self.unread.drain(..count).collect()
    }

    /// Whether the peer ends the connection without another byte.
    pub async fn is_closed(&mut self) -> bool {
        self.unread.is_empty() && self.fill().await.is_none()
    }

    async fn fill(&mut self) -> Option<()> {
        let mut piece = [0; 16_384];
        let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut piece));
        match read.await.expect("the peer neither answers nor closes") {
            Ok(0) | Err(_) => None,
            Ok(n) => {
                self.unread.extend_from_slice(&piece[..n]);
                Some(())
            }
        }
    }
}

/// An HTTP client that trusts `certificates` and finds every `*.example` at `address`.
pub fn https(address: SocketAddr, certificates: &[&CertificateSpec]) -> reqwest::ClientBuilder {
    let mut builder = reqwest::Client::builder().no_proxy().timeout(PATIENCE);
    for spec in certificates {
        let root = reqwest::Certificate::from_pem(&spec.chain_pem).unwrap();
        builder = builder.add_root_certificate(root);
    }
    for host in ["shop.example", "blog.example", "other.example"] {
        builder = builder.resolve(host, address);
    }
    builder
}

/// A handshake for `name`: the leaf that was served, or the error.
pub async fn handshake(
    address: SocketAddr,
    name: &str,
    trusted: &[&CertificateSpec],
) -> Result<Vec<u8>, String> {
    let stream = connect(address, name, trusted, &[]).await?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec())
}

/// A handshake for `name` by a client that trusts everybody: the leaf that was served.
pub async fn shown(address: SocketAddr, name: &str) -> Result<Vec<u8>, String> {
    let stream = greet(address, name, credulous()).await?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec())
}

/// What a client needs that trusts everybody.
pub fn credulous() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous::new()))
        .with_no_client_auth()
}

/// What such a client needs that shows a certificate.
pub fn identified(spec: &CertificateSpec) -> ClientConfig {
    let chain = CertificateDer::pem_slice_iter(&spec.chain_pem).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(&spec.key_pem).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous::new()))
        .with_client_auth_cert(chain, key)
        .unwrap()
}

/// HTTP/1.1 over TLS.
pub struct RawTls {
    stream: TlsStream<TcpStream>,
}

impl RawTls {
    pub async fn connect(
        address: SocketAddr,
        name: &str,
        config: ClientConfig,
    ) -> Result<Self, String> {
        Ok(Self { stream: greet(address, name, config).await? })
    }

    /// Asks for `/`: the status, or nothing when the connection ends instead.
    pub async fn get(&mut self, host: &str) -> Option<u16> {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let _ = self.stream.write_all(request.as_bytes()).await;
        let _ = self.stream.flush().await;
        let mut seen = Vec::new();
        while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut seen));
            match read.await.expect("the peer neither answers nor closes") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
        let header = String::from_utf8_lossy(&seen);
        header.split(' ').nth(1)?.parse().ok()
    }

    /// Whether the handshake took up an earlier session.
    pub fn resumed(&self) -> bool {
        self.stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }
}

/// What a client needs that trusts these authorities and speaks these versions.
pub fn trusting(
    authorities: &[&[u8]],
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for pem in authorities {
        roots.add(CertificateDer::from_pem_slice(pem).unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// Trusts everybody whose signatures are of these kinds.
#[derive(Debug)]
pub struct Credulous {
    pub schemes: Vec<SignatureScheme>,
}

impl Credulous {
    pub fn new() -> Self {
        let provider = rustls::crypto::ring::default_provider();
        Self { schemes: provider.signature_verification_algorithms.supported_schemes() }
    }
}

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

/// A TLS connection for `name`.
pub async fn greet(
    address: SocketAddr,
    name: &str,
    config: ClientConfig,
) -> Result<TlsStream<TcpStream>, String> {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let handshake = tokio::time::timeout(PATIENCE, handshake).await.expect("no handshake");
    handshake.map_err(|error| error.to_string())
}

/// A TLS connection for `name` that offers `protocols`.
pub async fn connect(
    address: SocketAddr,
    name: &str,
    trusted: &[&CertificateSpec],
    protocols: &[&[u8]],
) -> Result<TlsStream<TcpStream>, String> {
    let mut roots = RootCertStore::empty();
    for spec in trusted {
        roots.add(leaf(spec)).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    greet(address, name, config).await
}

/// The leaf of a chain.
pub fn leaf(spec: &CertificateSpec) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(&spec.chain_pem).unwrap()
}
