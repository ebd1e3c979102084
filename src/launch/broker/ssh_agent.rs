//! Forwards the user's ssh agent into the sandbox, for two requests: list the keys, and sign.
//!
//! The keys stay in the user's agent. A guest speaks the agent protocol (draft-ietf-sshm-ssh-agent). Requests to add, remove or lock keys
//! get a failure as the answer.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::Receiver;

use super::agent_channel::AgentChannel;
use super::config::{Requester, SshAgentAccess};
use super::network_log::{Entry, Verdict};
use super::shared::Shared;

/// The longest message; OpenSSH's agent has the same limit.
const MAX_MESSAGE_BYTES: u32 = 256 << 10;
/// The most connections at a time.
const MAX_CONVERSATIONS: usize = 16;
/// Delay after EMFILE on accept.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Message numbers (section 7.1 of the draft).
const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;
const EXTENSION: u8 = 27;
/// OpenSSH's client sends this extension before it asks for a signature, so that keys bound to hosts work.
const SESSION_BIND: &[u8] = b"\0\0\0\x18session-bind@openssh.com";

/// The same source, registered with the async runtime.
enum Served {
    Listener(UnixListener),
    Handed(Receiver<std::os::unix::net::UnixStream>),
}

impl Served {
    fn of(asking: Requester) -> io::Result<Served> {
        match asking {
            Requester::Listener(listener) => {
                listener.set_nonblocking(true)?;
                Ok(Served::Listener(UnixListener::from_std(listener)?))
            }
            Requester::Handed(handed) => Ok(Served::Handed(handed)),
        }
    }

    /// Waits for the next connection; `None` at the end.
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

/// Serves the agent until the sandbox ends.
pub async fn serve<C: AgentChannel>(hall: Rc<Shared<C>>, keys: SshAgentAccess) -> io::Result<()> {
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
                // A broken connection needs no message; both sides have seen it.
                Ok(agent) => drop(converse(&hall, guest, agent).await),
                Err(error) => hall.show_once(&format!("the ssh agent at {} cannot be reached: {error}", agent.display())),
            }
            drop(one);
        });
    }
}

async fn converse<C: AgentChannel>(hall: &Shared<C>, mut guest: UnixStream, mut agent: UnixStream) -> io::Result<()> {
    loop {
        let request = read(&mut guest).await?;
        if !is_passed_on(&request) {
            hall.show_once("a request to the ssh agent was refused: it may only list keys and sign");
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
        // Add, remove one, remove all, lock, unlock, smart cards, other extensions, an empty message, a list request with trailing data.
        for kept in [&[17][..], &[18], &[19], &[22], &[23], &[20], &[21], &[25], &[26], &[EXTENSION, 0, 0, 0, 5], &[], &[11, 0]] {
            assert!(!is_passed_on(kept), "{kept:?}");
        }
    }
}
