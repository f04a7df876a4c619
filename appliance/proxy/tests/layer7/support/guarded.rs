//! A backend behind TLS: what it was greeted with, and what it is.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use haflinger_core::{AuthoritySpec, CertificateSpec};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, RootCertStore, ServerConfig};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A handshake that a client brought to its end.
#[derive(Clone, Debug, Default)]
pub struct Handshake {
    pub server_name: Option<String>,
    pub protocol: Option<String>,
    /// The leaf that the client showed.
    pub shown: Option<Vec<u8>>,
    pub resumed: bool,
}

/// Decrypts and passes on to a plain backend.
pub struct Guarded {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Handshake>>>,
}

impl Guarded {
    /// One before the plain backend `inner` that shows `spec` and asks for certificates of
    /// `clients`.
    pub async fn before(
        inner: SocketAddr,
        spec: &CertificateSpec,
        clients: Option<&AuthoritySpec>,
        protocols: &[&[u8]],
    ) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(config(spec, clients, protocols)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, log) = (acceptor.clone(), log.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let session = stream.get_ref().1;
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    log.lock().unwrap().push(Handshake {
                        server_name: session.server_name().map(str::to_owned),
                        protocol: session.alpn_protocol().map(text),
                        shown: session.peer_certificates().map(|chain| chain[0].to_vec()),
                        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
                    });
                    let mut inner = TcpStream::connect(inner).await.unwrap();
                    // Either end may close at any time.
                    let _ = copy_bidirectional(&mut stream, &mut inner).await;
                });
            }
        });
        Self { address, seen }
    }

    pub fn seen(&self) -> Vec<Handshake> {
        self.seen.lock().unwrap().clone()
    }
}

fn config(
    spec: &CertificateSpec,
    clients: Option<&AuthoritySpec>,
    protocols: &[&[u8]],
) -> ServerConfig {
    let chain = CertificateDer::pem_slice_iter(&spec.chain_pem).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(&spec.key_pem).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = match clients {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(&authority.pem).unwrap()).unwrap();
            let roots = Arc::new(roots);
            WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build().unwrap()
        }
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config
}
