//! The recorder of a step: its certificates, its file for responses, and its record.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use silo_base::grant::Host;

use super::answers::{Answers, Error};
use super::document::{self, Unrecorded, place};
use super::frames::{Frame, Uninspected, Writer};
use crate::broker::authority::Authority;
use crate::broker::tls_inspection::Inspection;

/// Records responses, or answers from a record, for the broker.
pub struct Recorder {
    pub(super) inspection: Inspection,
    except: BTreeSet<String>,
    writer: Mutex<Writer>,
    next: AtomicU32,
    reported: Mutex<BTreeSet<String>>,
    pub(super) answers: Option<Answers>,
}

impl Recorder {
    /// Takes the authority of the run, the CA certificates that verify hosts, the places that are not inspected, the file for frames with
    /// its limit, and the directory of a record.
    pub fn new(
        authority: Authority,
        bundle: &[u8],
        except: BTreeSet<String>,
        (into, max_bytes): (File, u64),
        from: Option<&Path>,
    ) -> Result<Recorder, Error> {
        Ok(Recorder {
            inspection: Inspection::new(authority, bundle)?,
            except,
            writer: Mutex::new(Writer::new(into, max_bytes)),
            next: AtomicU32::new(1),
            reported: Mutex::default(),
            answers: from.map(Answers::open).transpose()?,
        })
    }

    /// True if connections to this place are inspected.
    pub fn inspects(&self, host: &Host, port: u16) -> bool {
        !self.except.contains(&place(host, port))
    }

    /// True if a record answers, so that nobody is dialled.
    pub fn is_replay(&self) -> bool {
        self.answers.is_some()
    }

    /// Reports a connection that is not recorded. Returns false if a record answers, which then lacks it.
    pub fn pass(&self, (host, port): (&Host, u16), why: &str) -> bool {
        if self.is_replay() {
            let url = format!("{}:{port}", host.as_str());
            let request = document::Request { method: "CONNECT".to_owned(), url, headers: Default::default(), body: None };
            self.write(&Frame::Missing(request));
            return false;
        }
        self.report((host, port), why);
        true
    }

    /// Reports a place that is not recorded, once.
    pub(super) fn report(&self, at: (&Host, u16), why: &str) {
        self.note(Uninspected { place: unrecorded(at, why), is_refused: false });
    }

    /// Reports a place that refuses the inspection, once.
    pub(super) fn refuse(&self, at: (&Host, u16), why: &str) {
        self.note(Uninspected { place: unrecorded(at, why), is_refused: true });
    }

    fn note(&self, uninspected: Uninspected) {
        let name = format!("{} {}", uninspected.place.place, uninspected.is_refused);
        if self.reported.lock().unwrap_or_else(PoisonError::into_inner).insert(name) {
            self.write(&Frame::Uninspected(uninspected));
        }
    }

    /// Writes a frame.
    pub(super) fn write(&self, frame: &Frame<'_>) {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).write(frame);
    }

    /// Returns the number of a new response.
    pub(super) fn next(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

fn unrecorded((host, port): (&Host, u16), why: &str) -> Unrecorded {
    let why = why.chars().filter(|letter| !letter.is_control()).take(200).collect();
    Unrecorded { place: place(host, port), why }
}
