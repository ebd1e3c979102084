//! The user's ssh agent, as far as a guest may ask it: which keys there are, and for signatures.
//!
//! The keys stay in the agent, which is the user's own. A guest speaks its protocol (draft-ietf-sshm-ssh-agent), of
//! which only these requests are passed on; adding, removing and locking keys is answered with a failure.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::Receiver;

use super::record::{Entry, Verdict};
use super::{Carrier, Hall};

/// The longest message; OpenSSH's agent takes no longer one.
const MAX_MESSAGE_BYTES: u32 = 256 << 10;
/// The most conversations at once.
const MAX_CONVERSATIONS: usize = 16;
/// How long to wait when this process has no descriptor left for who asks.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Numbers of messages, by section 7.1 of the draft.
const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;
const EXTENSION: u8 = 27;
/// What OpenSSH's client tells of the host before it asks for a signature, so that keys bound to hosts work.
const SESSION_BIND: &[u8] = b"\0\0\0\x18session-bind@openssh.com";

/// The way to the user's ssh agent.
pub struct Keys {
    /// Where those come from who ask.
    pub asking: Asking,
    /// The agent's socket on this machine.
    pub agent: PathBuf,
}

/// Where those come from who ask.
pub enum Asking {
    /// They connect to what listens inside.
    Listener(std::os::unix::net::UnixListener),
    /// They are handed over, each with a connection of its own.
    Handed(Receiver<std::os::unix::net::UnixStream>),
}

/// The same, once it is served.
enum Served {
    Listener(UnixListener),
    Handed(Receiver<std::os::unix::net::UnixStream>),
}

impl Served {
    fn of(asking: Asking) -> io::Result<Served> {
        match asking {
            Asking::Listener(listener) => {
                listener.set_nonblocking(true)?;
                Ok(Served::Listener(UnixListener::from_std(listener)?))
            }
            Asking::Handed(handed) => Ok(Served::Handed(handed)),
        }
    }

    /// Waits for the next one; `None` where no more come.
    async fn next(&mut self) -> io::Result<Option<UnixStream>> {
        match self {
            Served::Listener(listener) => Ok(Some(listener.accept().await?.0)),
            Served::Handed(handed) => {
                let Some(guest) = handed.recv().await else { return Ok(None) };
                guest.set_nonblocking(true)?;
                UnixStream::from_std(guest).map(Some)
            }
        }
    }
}

/// Serves it as long as the sandbox lives.
pub async fn serve<C: Carrier>(hall: Rc<Hall<C>>, keys: Keys) -> io::Result<()> {
    let mut asking = Served::of(keys.asking)?;
    let agent: Rc<Path> = keys.agent.into();
    let open = Rc::new(());
    loop {
        let guest = match asking.next().await {
            Ok(Some(guest)) => guest,
            Ok(None) => return Ok(()),
            Err(_) => {
                tokio::time::sleep(EXHAUSTED).await;
                continue;
            }
        };
        if Rc::strong_count(&open) > MAX_CONVERSATIONS {
            continue;
        }
        let (hall, agent, one) = (Rc::clone(&hall), Rc::clone(&agent), Rc::clone(&open));
        tokio::task::spawn_local(async move {
            match UnixStream::connect(&agent).await {
                // A conversation that breaks off is over; both sides have seen it.
                Ok(agent) => drop(converse(&hall, guest, agent).await),
                Err(error) => hall.tell(&format!("the ssh agent at {} cannot be reached: {error}", agent.display())),
            }
            drop(one);
        });
    }
}

async fn converse<C: Carrier>(hall: &Hall<C>, mut guest: UnixStream, mut agent: UnixStream) -> io::Result<()> {
    loop {
        let request = read(&mut guest).await?;
        if !is_passed_on(&request) {
            hall.tell("a request to the ssh agent was not passed on: only lists of keys and signatures are");
            write(&mut guest, &[FAILURE]).await?;
            continue;
        }
        write(&mut agent, &request).await?;
        let answer = read(&mut agent).await?;
        if request.first() == Some(&SIGN_REQUEST) {
            let verdict = if answer.first() == Some(&FAILURE) { Verdict::Refused } else { Verdict::Signed };
            hall.note(&Entry { name: "ssh-agent".to_owned(), port: None, verdict, sent: 0, received: 0 });
        }
        write(&mut guest, &answer).await?;
    }
}

fn is_passed_on(request: &[u8]) -> bool {
    match request.split_first() {
        Some((&REQUEST_IDENTITIES, rest)) => rest.is_empty(),
        Some((&SIGN_REQUEST, _)) => true,
        Some((&EXTENSION, rest)) => rest.starts_with(SESSION_BIND),
        _ => false,
    }
}

async fn read(from: &mut UnixStream) -> io::Result<Vec<u8>> {
    let length = from.read_u32().await?;
    if !(1..=MAX_MESSAGE_BYTES).contains(&length) {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut message = Vec::new();
    from.take(u64::from(length)).read_to_end(&mut message).await?;
    if message.len() as u64 == u64::from(length) { Ok(message) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

async fn write(to: &mut UnixStream, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(|_| ErrorKind::InvalidData)?;
    to.write_all(&[&length.to_be_bytes()[..], message].concat()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_listed_and_used_and_nothing_else() {
        let bind = [&[EXTENSION][..], SESSION_BIND, b"rest"].concat();
        for passed in [&[REQUEST_IDENTITIES][..], &[SIGN_REQUEST, 0, 0], &bind] {
            assert!(is_passed_on(passed), "{passed:?}");
        }
        // Adding, removing one and all, locking, unlocking, smart cards, other extensions, nothing, an odd list.
        for kept in [&[17][..], &[18], &[19], &[22], &[23], &[20], &[21], &[25], &[26], &[EXTENSION, 0, 0, 0, 5], &[], &[11, 0]] {
            assert!(!is_passed_on(kept), "{kept:?}");
        }
    }
}
