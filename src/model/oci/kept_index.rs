//! An index that several programs write: a change keeps everything else in it, also fields and entries that Silo does not know.

use serde_json::{Value, json};

use super::INDEX;
use super::artifact::{self, Entry, MAX_ENTRIES};
use super::manifest::MAX_DOCUMENT_BYTES;

/// Returns true for an index, also one with faults; false for a manifest, and for any other document.
pub fn is_index(bytes: &[u8]) -> bool {
    serde_json::from_slice(bytes).is_ok_and(|value: Value| value.get("manifests").is_some())
}

/// An index with its text.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptIndex {
    /// The fields around the entries.
    fields: Value,
    entries: Vec<(Entry, Value)>,
}

impl KeptIndex {
    /// Reads an index; none is an empty one.
    pub fn read(bytes: Option<&[u8]>) -> Result<KeptIndex, String> {
        let Some(bytes) = bytes else {
            return Ok(KeptIndex { fields: json!({ "schemaVersion": 2, "mediaType": INDEX }), entries: Vec::new() });
        };
        // The same bounds as for every other index.
        let parsed = artifact::read(bytes)?.manifests;
        let mut fields: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if !fields.is_object() {
            return Err("it is not a JSON object".to_owned());
        }
        if ["config", "layers"].iter().any(|field| fields.get(field).is_some()) {
            return Err("it is a manifest, not an index".to_owned());
        }
        let written = match fields.as_object_mut().and_then(|fields| fields.remove("manifests")) {
            Some(Value::Array(written)) => written,
            _ => Vec::new(),
        };
        Ok(KeptIndex { fields, entries: parsed.into_iter().zip(written).collect() })
    }

    /// Returns the entries.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map(|(entry, _)| entry)
    }

    /// Removes the other entries.
    pub fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        self.entries.retain(|(entry, _)| keep(entry));
    }

    /// Adds an entry.
    pub fn push(&mut self, entry: Entry) {
        let value = entry.value();
        self.entries.push((entry, value));
    }

    /// Sorts the entries; equal ones stay in order.
    pub fn sort_by_key<K: Ord>(&mut self, key: impl Fn(&Entry) -> K) {
        self.entries.sort_by_key(|(entry, _)| key(entry));
    }

    /// Returns the text. An index with more entries than are read is an error.
    pub fn to_bytes(&self) -> Result<Vec<u8>, String> {
        if self.entries.len() > MAX_ENTRIES {
            return Err(format!(
                "it would name {} manifests; at most {MAX_ENTRIES} are read. `silo cache prune` removes old images",
                self.entries.len()
            ));
        }
        let mut value = self.fields.clone();
        // Docker's lists have another type, and the same form.
        value["mediaType"] = json!(INDEX);
        value["manifests"] = self.entries.iter().map(|(_, written)| written.clone()).collect();
        let bytes = value.to_string().into_bytes();
        match bytes.len() as u64 {
            length if length > MAX_DOCUMENT_BYTES => Err(format!("it would have {length} bytes; at most {MAX_DOCUMENT_BYTES} are read")),
            _ => Ok(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_keeps_fields_and_entries_of_other_programs() {
        let digest = |letter: &str| format!("sha256:{}", letter.repeat(64));
        let foreign = json!({
            "mediaType": "application/vnd.example.thing", "digest": digest("a"), "size": 7, "artifactType": "x/y",
            "platform": { "architecture": "riscv64", "os": "plan9", "os.version": "4", "variant": "v9" },
            "urls": ["https://example.com/x"], "data": "e30=", "com.example.more": { "deep": [1, null, 1.5] },
        });
        let other = json!({ "mediaType": "a", "digest": digest("b"), "size": 1, "annotations": { "k": "v" } });
        let text = json!({
            "schemaVersion": 2, "mediaType": INDEX, "artifactType": "application/vnd.example", "annotations": { "a": "b" },
            "subject": { "mediaType": "m", "digest": digest("c"), "size": 3 }, "com.example.note": true, "manifests": [foreign, other],
        });
        let mut index = KeptIndex::read(Some(text.to_string().as_bytes())).expect("an index");
        assert_eq!(index.entries().count(), 2);
        let added = Entry::of_artifact("x/z", b"{}");
        index.push(added.clone());
        let written: Value = serde_json::from_slice(&index.to_bytes().expect("few entries")).expect("JSON");
        let mut expect = text.clone();
        expect["manifests"].as_array_mut().expect("a list").push(added.value());
        assert_eq!(written, expect);
        index.retain(|entry| entry.annotations.is_empty());
        index.sort_by_key(|entry| std::cmp::Reverse(entry.artifact_type.clone()));
        let written: Value = serde_json::from_slice(&index.to_bytes().expect("few entries")).expect("JSON");
        assert_eq!(written["manifests"], json!([added.value(), foreign]));
        let none = KeptIndex::read(None).expect("none is empty").to_bytes().expect("few entries");
        assert_eq!(none, artifact::index(&[]));
    }

    #[test]
    fn an_index_that_nobody_reads_is_not_written() {
        let mut index = KeptIndex::read(None).expect("none is empty");
        (0..MAX_ENTRIES).for_each(|_| index.push(Entry::of_artifact("x/y", b"")));
        assert!(index.to_bytes().is_ok());
        index.push(Entry::of_artifact("x/y", b""));
        assert!(index.to_bytes().expect_err("too many").contains("1001 manifests"));
        for wrong in [&b""[..], b"[]", b"{}", b"{\"schemaVersion\":2,\"manifests\":[1]}", b"{\"schemaVersion\":2,\"layers\":[]}"] {
            assert!(KeptIndex::read(Some(wrong)).is_err());
        }
    }

    #[test]
    fn only_an_object_is_an_index() {
        for text in ["[2,null,null,null,[],null,null]", "[]", "null", "\"x\"", "1"] {
            assert!(KeptIndex::read(Some(text.as_bytes())).is_err(), "{text}");
        }
    }
}
