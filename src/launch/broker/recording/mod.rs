//! Records the HTTP responses that a build step gets, and answers a later run of the step from the record.
//!
//! The broker inspects all connections to granted hosts, with a certificate authority that only this run of the step trusts. It passes
//! everything unchanged, and copies each response to a file ([`frames`]). In a run with a record it dials nobody and answers from
//! the record ([`document`]); a request without a recorded response is refused and reported.
//!
//! **Invariant.** A record has no credentials of the request: only the headers in [`document::ASKED`] are stored, and no cookies.

pub mod document;

mod answers;
pub mod frames;

mod recorder;

mod bodies;

pub mod carry;

pub use answers::Error;
pub use recorder::Recorder;
