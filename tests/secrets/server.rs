//! A TLS server on the loopback that records requests.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use base64::Engine;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use silo_base::grant::MACHINE;

use crate::support::tls_front::server_config;

/// The value that the server demands for its files.
pub const VALUE: &str = "v4lue-of-the-first-secret";
/// Many times every window and buffer between server and program.
pub const BIG_BYTES: usize = 9_000_001;

/// A request as the server got it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub version: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: usize,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(one, _)| one == name).map_or("", |(_, value)| value)
    }
}

/// A TLS server on the loopback, by HTTP/1.1 and HTTP/2, with files of a directory.
pub struct Server {
    pub port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    pub dir: tempfile::TempDir,
}

/// Versions that a server offers.
pub const BOTH: &[&[u8]] = &[b"h2", b"http/1.1"];

impl Server {
    pub fn start(versions: &'static [&'static [u8]]) -> Server {
        let dir = tempfile::Builder::new().prefix("silo-server-").tempdir().expect("a directory");
        let config = server_config(MACHINE, versions, &dir.path().join("root.pem"));
        fs::create_dir(dir.path().join("files")).expect("made");
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (noted, files) = (Arc::clone(&seen), dir.path().join("files"));
        std::thread::spawn(move || serve(listener, config, &noted, &files));
        Server { port, seen, dir }
    }

    pub fn roots(&self) -> PathBuf {
        self.dir.path().join("root.pem")
    }

    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().expect("not poisoned"))
    }

    pub fn only(&self) -> Seen {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }
}

fn serve(listener: std::net::TcpListener, config: ServerConfig, seen: &Arc<Mutex<Vec<Seen>>>, files: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        listener.set_nonblocking(true).expect("a socket");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let (acceptor, seen, files) = (acceptor.clone(), Arc::clone(seen), files.to_owned());
            tokio::task::spawn_local(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let is_two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let service = service_fn(move |request| answer(request, Arc::clone(&seen), files.clone()));
                // A client may close its connection at any time.
                if is_two {
                    let _ = hyper::server::conn::http2::Builder::new(Local).serve_connection(TokioIo::new(stream), service).await;
                } else {
                    let _ =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
                }
            });
        }
    });
}

#[derive(Clone, Copy)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        drop(tokio::task::spawn_local(task));
    }
}

async fn answer(mut request: Request<Incoming>, seen: Arc<Mutex<Vec<Seen>>>, files: PathBuf) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/socket" {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::task::spawn_local(async move {
            let Ok(upgraded) = upgraded.await else { return };
            let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded));
            // The client closes the connection.
            let _ = tokio::io::copy(&mut from, &mut to).await;
        });
    }
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes().len()).unwrap_or_default();
    let value = |value: &hyper::header::HeaderValue| value.to_str().unwrap_or("?").to_owned();
    let entry = Seen {
        version: format!("{:?}", head.version),
        target: head.uri.path().to_owned(),
        headers: head.headers.iter().map(|(name, text)| (name.to_string(), value(text))).collect(),
        body,
    };
    let authorization = entry.header("authorization").to_owned();
    seen.lock().expect("not poisoned").push(entry);
    let mut answer = Response::new(Full::new(Bytes::from_static(b"fine\n")));
    if let Ok(echo) = authorization.parse() {
        answer.headers_mut().insert("x-echo", echo);
    }
    if head.uri.path() == "/big" {
        // An answer to HEAD has the length of the body without the body; the library sends the body in HTTP/2.
        let body = if head.method == hyper::Method::HEAD { Vec::new() } else { vec![b'b'; BIG_BYTES] };
        *answer.body_mut() = Full::new(body.into());
        answer.headers_mut().insert("content-length", BIG_BYTES.into());
    }
    if head.uri.path() == "/socket" {
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *answer.body_mut() = Full::default();
        answer.headers_mut().insert("upgrade", "echo".parse().expect("a value"));
        answer.headers_mut().insert("connection", "upgrade".parse().expect("a value"));
    }
    if let Some(file) = head.uri.path().strip_prefix("/git/") {
        let wanted = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("me:{VALUE}")));
        if authorization != wanted {
            *answer.status_mut() = StatusCode::UNAUTHORIZED;
            answer.headers_mut().insert("www-authenticate", "Basic realm=\"test\"".parse().expect("a value"));
            return Ok(answer);
        }
        match fs::read(files.join(file)) {
            Ok(bytes) => *answer.body_mut() = Full::new(bytes.into()),
            Err(_) => *answer.status_mut() = StatusCode::NOT_FOUND,
        }
    }
    Ok(answer)
}
