//! Carries the requests of one connection from a program to a host, by HTTP/1.1 or HTTP/2, and lets a [`Carrier`] see each of them.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Incoming};
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, client, server};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::connections::Connections;

/// The most bytes of a head, in both versions of HTTP.
pub const MAX_HEAD_BYTES: usize = 64 << 10;
/// Bytes of a window of HTTP/2, for one stream and for a connection.
const WINDOW_BYTES: u32 = 256 << 10;
/// The most requests of one HTTP/2 connection at a time.
const MAX_STREAMS: u32 = 64;

/// An error of a body.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A request for the host with the carrier's note, or an answer in place of the host's.
pub type Admitted<C> = Result<(Request<<C as Carrier>::Asking>, <C as Carrier>::Note), Response<<C as Carrier>::Answering>>;

/// Sees the requests and responses of a connection.
pub trait Carrier: Sized + 'static {
    /// The body of a request to the host.
    type Asking: Body<Data = Bytes, Error = hyper::Error> + Send + Unpin + 'static;
    /// The body of a response to the program.
    type Answering: Body<Data = Bytes, Error: Into<BodyError>> + 'static;
    /// What the carrier remembers of a request until its response.
    type Note;

    /// Prepares a request for the host, or answers it.
    fn admit(&self, request: Request<Incoming>) -> Admitted<Self>;

    /// Prepares a response for the program.
    fn answer(&self, note: Self::Note, answer: Response<Incoming>) -> Response<Self::Answering>;
}

/// Carries HTTP/1.1.
pub async fn one<G, W, C>(guest: TokioIo<G>, world: TokioIo<W>, carrier: &Rc<C>) -> Result<(), hyper::Error>
where
    G: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    W: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    C: Carrier,
{
    let (sender, outward) = client::conn::http1::Builder::new()
        .preserve_header_case(true)
        .max_buf_size(MAX_HEAD_BYTES)
        .handshake::<_, C::Asking>(world)
        .await?;
    let sender = Rc::new(tokio::sync::Mutex::new(sender));
    let upgraded: Rc<RefCell<Option<tokio::task::JoinHandle<()>>>> = Rc::default();
    let service = service_fn(|mut request: Request<Incoming>| {
        let (sender, carrier, upgraded) = (Rc::clone(&sender), Rc::clone(carrier), Rc::clone(&upgraded));
        async move {
            let inner = hyper::upgrade::on(&mut request);
            let (request, note) = match carrier.admit(request) {
                Ok(admitted) => admitted,
                Err(answer) => return Ok::<_, hyper::Error>(answer),
            };
            let mut answer = sender.lock().await.send_request(request).await?;
            let outer = (answer.status() == StatusCode::SWITCHING_PROTOCOLS).then(|| hyper::upgrade::on(&mut answer));
            if let Some(outer) = outer {
                let bridge = async move {
                    if let Ok((inner, outer)) = tokio::try_join!(inner, outer) {
                        // Both sides have seen its end.
                        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(inner), &mut TokioIo::new(outer)).await;
                    }
                };
                upgraded.replace(Some(tokio::task::spawn_local(bridge)));
            }
            Ok(carrier.answer(note, answer))
        }
    });
    let inward = server::conn::http1::Builder::new()
        .preserve_header_case(true)
        .max_buf_size(MAX_HEAD_BYTES)
        .auto_date_header(false)
        // A program may end its side after its request.
        .half_close(true)
        .serve_connection(guest, service)
        .with_upgrades();
    let (mut inward, mut outward) = (pin!(inward), pin!(outward.with_upgrades()));
    let served = tokio::select! {
        served = &mut inward => served,
        ended = &mut outward => {
            // The host closed its side: the last answer still goes to the program.
            inward.as_mut().graceful_shutdown();
            inward.await.and(ended)
        }
    };
    let bridge = upgraded.take();
    if let Some(bridge) = bridge {
        // It fails only if it panics.
        let _ = bridge.await;
    }
    served
}

/// Carries HTTP/2.
pub async fn two<G, W, C>(guest: TokioIo<G>, world: TokioIo<W>, carrier: &Rc<C>) -> Result<(), hyper::Error>
where
    G: AsyncRead + AsyncWrite + Unpin + 'static,
    W: AsyncRead + AsyncWrite + Unpin + 'static,
    C: Carrier,
{
    let (sender, outward) = client::conn::http2::Builder::new(Local)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .max_send_buf_size(WINDOW_BYTES as usize)
        .handshake::<_, C::Asking>(world)
        .await?;
    let service = service_fn(|request: Request<Incoming>| {
        let (mut sender, carrier) = (sender.clone(), Rc::clone(carrier));
        async move {
            let (request, note) = match carrier.admit(request) {
                Ok(admitted) => admitted,
                Err(answer) => return Ok::<_, hyper::Error>(answer),
            };
            let answer = sender.send_request(request).await?;
            Ok(carrier.answer(note, answer))
        }
    });
    let inward = server::conn::http2::Builder::new(Local)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .max_send_buf_size(WINDOW_BYTES as usize)
        .max_concurrent_streams(MAX_STREAMS)
        .auto_date_header(false)
        .serve_connection(guest, service);
    let (mut inward, mut outward) = (pin!(inward), pin!(outward));
    tokio::select! {
        served = &mut inward => served,
        ended = &mut outward => {
            inward.as_mut().graceful_shutdown();
            inward.await.and(ended)
        }
    }
}

/// Runs hyper's tasks on the broker's one thread.
#[derive(Clone, Copy)]
pub struct Local;

impl<F: Future + 'static> Executor<F> for Local {
    fn execute(&self, task: F) {
        drop(tokio::task::spawn_local(task));
    }
}

/// Bytes of the program's side.
#[derive(Default)]
pub struct Counts {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Counts {
    /// Runs a connection, and counts its bytes for the limit of the run; returns the bytes sent and received by the program.
    pub async fn over<T>(&self, carried: impl Future<Output = T>, among: &Connections) -> (T, (u64, u64)) {
        let mut carried = pin!(carried);
        let (mut noted, mut counted) = (0, 0);
        let done = poll_fn(|context| {
            let polled = carried.as_mut().poll(context);
            let sent = self.sent.load(Ordering::Relaxed);
            among.note(sent - noted);
            noted = sent;
            let all = sent + self.received.load(Ordering::Relaxed);
            among.count(all - counted);
            counted = all;
            polled
        });
        let done = done.await;
        (done, (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed)))
    }
}

/// The program's side of a connection: first the bytes that were read before, then the stream.
pub struct Guest {
    stream: TcpStream,
    begin: Vec<u8>,
    counts: Arc<Counts>,
}

impl Guest {
    /// Takes a stream, and the bytes that were read from it.
    pub fn new(stream: TcpStream, begin: Vec<u8>, counts: &Arc<Counts>) -> Guest {
        Guest { stream, begin, counts: Arc::clone(counts) }
    }
}

impl AsyncRead for Guest {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        if self.begin.is_empty() {
            std::task::ready!(Pin::new(&mut self.stream).poll_read(context, into))?;
        } else {
            let length = self.begin.len().min(into.remaining());
            into.put_slice(&self.begin[..length]);
            self.begin.drain(..length);
        }
        self.counts.sent.fetch_add((into.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(context, from))?;
        self.counts.received.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
