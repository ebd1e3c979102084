//! The channel to the agent of a sandbox.

use std::io;

use silo_wire::{ToAgent, ToBroker};
use tokio::net::TcpStream;

/// The channel to a sandbox's agent.
pub trait AgentChannel: 'static {
    /// Receives a message, with its connection if it has one; `None` at the end. Skips malformed messages.
    fn next(&self) -> impl Future<Output = io::Result<Option<(ToBroker, Option<TcpStream>)>>>;

    /// Sends an answer.
    fn answer(&self, answer: &ToAgent) -> impl Future<Output = io::Result<()>>;
}
