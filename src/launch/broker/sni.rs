//! Reads the TLS ClientHello and its SNI (RFC 6066).

use rustls::server::Acceptor;

use silo_base::grant::Host;

/// The longest ClientHello that is read; one with a post-quantum key share has less than 2 KiB.
pub const MAX_HELLO_BYTES: usize = 64 << 10;

/// The result of reading the first bytes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientHello {
    /// More bytes are needed.
    Part,
    /// TLS with this host as its SNI.
    Names(Host),
    /// TLS without SNI.
    Nameless,
    /// Not TLS.
    Other,
}

/// An incremental ClientHello reader; it parses each byte once.
#[derive(Default)]
pub struct Reader {
    acceptor: Acceptor,
    length: usize,
}

impl Reader {
    /// Parses the next bytes. After any result but [`Hello::Part`] the reader is finished.
    pub fn take(&mut self, bytes: &[u8]) -> ClientHello {
        self.length = self.length.saturating_add(bytes.len());
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.acceptor.read_tls(&mut rest).is_err() {
                return ClientHello::Other;
            }
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    return hello.server_name().and_then(Host::parse).map_or(ClientHello::Nameless, ClientHello::Names);
                }
                Err(_) => return ClientHello::Other,
            }
        }
        if self.length >= MAX_HELLO_BYTES { ClientHello::Other } else { ClientHello::Part }
    }
}

/// Reads the first bytes of a connection.
pub fn read(bytes: &[u8]) -> ClientHello {
    Reader::default().take(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    fn hello(name: &str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
        let config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("into memory");
        bytes
    }

    #[test]
    fn the_sni_of_a_client_hello_is_read() {
        let bytes = hello("A.example");
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length]), ClientHello::Part, "{length}");
        }
        assert_eq!(read(&bytes), ClientHello::Names(Host::parse("a.example").expect("a host")));
        // The size of the pieces makes no difference.
        for size in [1, 7, 100] {
            let mut reader = Reader::default();
            let last = bytes.chunks(size).map(|piece| reader.take(piece)).find(|hello| *hello != ClientHello::Part);
            assert_eq!(last, Some(read(&bytes)), "{size}");
        }
        assert_eq!(read(&hello("192.0.2.1")), ClientHello::Nameless);
        assert_eq!(read(b"GET / HTTP/1.1\r\n\r\n"), ClientHello::Other);
        assert_eq!(read(b"SSH-2.0-x\r\n"), ClientHello::Other);
    }
}
