//! Port forwards from the host into a sandbox, such as `8080:80`.

use std::fmt;
use std::num::NonZeroU16;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A port forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The port on 127.0.0.1 of the host.
    pub host: NonZeroU16,
    /// The port inside.
    pub guest: NonZeroU16,
}

impl Port {
    /// Parses `host:guest`, or one number for both.
    pub fn parse(text: &str) -> Option<Port> {
        let (host, guest) = text.split_once(':').unwrap_or((text, text));
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        Some(Port { host: number(host)?, guest: number(guest)? })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.guest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_written_as_a_pair_or_as_one_for_both() {
        for (text, expect) in [("8080:80", Some("8080:80")), ("3000", Some("3000:3000")), ("65535:1", Some("65535:1"))] {
            assert_eq!(Port::parse(text).map(|port| port.to_string()).as_deref(), expect, "{text}");
        }
        for text in ["", ":", "0", "1:0", "65536", "+1", "1:2:3", "a", "1:", "-1"] {
            assert_eq!(Port::parse(text), None, "{text}");
        }
    }
}
