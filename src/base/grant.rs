//! Grants: the hosts that a sandbox may reach, by name and port, or by package ecosystem.
//!
//! Pure: text in, data out. Names are compared without case and without a trailing dot. A text that the system's resolver would read as an
//! address (`127.1`, `0x7f.1`, `2130706433`) counts as an address. Only a grant with the same spelling covers it. A name with non-ASCII
//! letters is converted to its DNS form (IDNA).

pub mod address;
pub mod block;
pub mod ecosystem;
pub mod host;
mod host_grant;
mod policy;
mod port;

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ecosystem::Ecosystem;
pub use host::{Host, MACHINE};
pub use host_grant::{HostGrant, NotAGrant, Specificity, split_port, that_covers};
pub use policy::{AddressVerdict, Permit, Policy};
pub use port::Port;

/// A grant as a person writes it. Its text keeps the spelling, because derivations hash it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Grant {
    /// A host or a family of hosts.
    Hosts(HostGrant),
    /// The hosts of a package ecosystem.
    Ecosystem(Ecosystem),
}

impl Grant {
    /// Parses hosts, or an ecosystem with its `@`.
    pub fn parse(text: &str) -> Result<Grant, NotAGrant> {
        let grant =
            if text.starts_with('@') { Ecosystem::parse(text).map(Grant::Ecosystem) } else { HostGrant::parse(text).map(Grant::Hosts) };
        grant.ok_or_else(|| NotAGrant(text.to_owned()))
    }

    /// Returns the grant of [`MACHINE`] at the usual ports.
    pub fn of_machine() -> Grant {
        Grant::Hosts(HostGrant::of_machine())
    }

    /// Returns the text as written.
    pub fn as_str(&self) -> &str {
        match self {
            Grant::Hosts(hosts) => hosts.as_str(),
            Grant::Ecosystem(ecosystem) => ecosystem.as_str(),
        }
    }

    /// Returns the ecosystem, if the grant names one.
    pub fn ecosystem(&self) -> Option<&Ecosystem> {
        match self {
            Grant::Ecosystem(ecosystem) => Some(ecosystem),
            Grant::Hosts(_) => None,
        }
    }

    /// Joins the texts of several grants.
    pub fn join(grants: &[Grant], separator: &str) -> String {
        grants.iter().map(Grant::as_str).collect::<Vec<_>>().join(separator)
    }
}

impl TryFrom<String> for Grant {
    type Error = NotAGrant;

    fn try_from(text: String) -> Result<Grant, NotAGrant> {
        Grant::parse(&text)
    }
}

impl From<Grant> for String {
    fn from(grant: Grant) -> String {
        match grant {
            Grant::Hosts(hosts) => hosts.into(),
            Grant::Ecosystem(ecosystem) => ecosystem.to_string(),
        }
    }
}

/// Grants are sorted by their texts.
impl Ord for Grant {
    fn cmp(&self, other: &Grant) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl PartialOrd for Grant {
    fn partial_cmp(&self, other: &Grant) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A schema sees a grant as text.
impl JsonSchema for Grant {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        String::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        String::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_keep_their_text_and_are_sorted_by_it() {
        let mut grants: Vec<Grant> =
            ["b.example:22", "@pypi", "A.example.", "*", "10.0.0.0/8"].iter().map(|text| Grant::parse(text).expect("a grant")).collect();
        grants.sort();
        assert_eq!(Grant::join(&grants, " "), "* 10.0.0.0/8 @pypi A.example. b.example:22");
        assert_eq!(grants.iter().filter_map(|grant| grant.ecosystem()).map(Ecosystem::name).collect::<Vec<_>>(), ["pypi"]);
        assert_eq!(Grant::parse(MACHINE), Ok(Grant::of_machine()));
        for grant in grants {
            let json = serde_json::to_string(&grant).expect("text");
            assert_eq!((json.as_str(), serde_json::from_str(&json).ok()), (format!("\"{grant}\"").as_str(), Some(grant)));
        }
        for text in ["", "@", "@Pypi", "@a b", "@@a", "a b", "http://x", "@1"] {
            assert_eq!(Grant::parse(text), Err(NotAGrant(text.to_owned())));
            assert!(serde_json::from_str::<Grant>(&format!("\"{text}\"")).is_err());
        }
        assert!(serde_json::from_str::<HostGrant>("\"@pypi\"").is_err(), "an ecosystem is no host");
    }
}
