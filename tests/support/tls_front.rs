//! A TLS end in front of a plain server: it verifies nothing, and passes the bytes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;

/// A TLS end for the name `localhost`.
pub struct TlsFront {
    /// Its port.
    pub port: u16,
    /// The file with its authority's certificate.
    pub authority: PathBuf,
}

impl TlsFront {
    /// Starts an end in front of `to`, an address with a port; writes the authority's certificate to a directory.
    pub fn start(to: &str, dir: &Path) -> TlsFront {
        let authority = dir.join("authority.pem");
        let config = server_config("localhost", &[b"h2"], &authority);
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let to = to.to_owned();
        std::thread::spawn(move || serve(listener, config, &to));
        TlsFront { port, authority }
    }
}

/// Makes an authority and a certificate of it for a name; writes the authority's certificate to a file. Returns the settings of a server
/// that offers these versions of HTTP.
pub fn server_config(name: &str, versions: &[&[u8]], authority: &Path) -> ServerConfig {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // OpenSSL takes a certificate with the name of its issuer for a self-signed one.
    ca.distinguished_name.push(DnType::CommonName, "the root of a test");
    let root = ca.self_signed(&ca_key).expect("a certificate");
    let key = KeyPair::generate().expect("a key");
    let own = CertificateParams::new(vec![name.to_owned()]).expect("names");
    let own = own.signed_by(&key, &Issuer::from_params(&ca, &ca_key)).expect("a certificate");
    let pem = base64::engine::general_purpose::STANDARD.encode(root.der());
    fs::write(authority, format!("-----BEGIN CERTIFICATE-----\n{pem}\n-----END CERTIFICATE-----\n")).expect("written");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let mut config = config.with_no_client_auth().with_single_cert(vec![own.der().clone()], key).expect("a key of its own");
    config.alpn_protocols = versions.iter().map(|version| version.to_vec()).collect();
    config
}

fn serve(listener: std::net::TcpListener, config: ServerConfig, to: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        listener.set_nonblocking(true).expect("a socket");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let (acceptor, to) = (acceptor.clone(), to.to_owned());
            tokio::task::spawn_local(async move {
                let Ok(mut near) = acceptor.accept(stream).await else { return };
                let Ok(mut far) = tokio::net::TcpStream::connect(&to).await else { return };
                // Either end may close the connection at any time.
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
}
