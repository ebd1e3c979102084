//! Ranges of TCP ports.

use std::ops::RangeInclusive;

/// A range of ports: never port 0, and never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The port of ssh.
    pub const SSH: PortRange = PortRange { first: 22, last: 22 };
    /// The port of http.
    pub const HTTP: PortRange = PortRange { first: 80, last: 80 };
    /// The port of https.
    pub const HTTPS: PortRange = PortRange { first: 443, last: 443 };
    /// Every port.
    pub const ALL: PortRange = PortRange { first: 1, last: u16::MAX };

    /// Returns the range with both ends; `None` if it is empty or contains port 0.
    pub fn new(first: u16, last: u16) -> Option<PortRange> {
        (0 < first && first <= last).then_some(PortRange { first, last })
    }

    /// Returns the lowest port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// Returns the highest port.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Returns true if the port is in the range.
    pub fn contains(self, port: u16) -> bool {
        self.ports().contains(&port)
    }

    /// Returns true if all ports of the other range are in this one.
    pub fn covers(self, other: PortRange) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// Returns the ports in ascending order.
    pub fn ports(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    /// Counts the ports of several ranges; a port in two ranges counts twice.
    pub fn count(ranges: &[PortRange]) -> usize {
        ranges.iter().map(|range| usize::from(range.last - range.first) + 1).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_never_empty_and_never_contain_port_0() {
        for (first, last, expect) in [(0, 0, false), (0, 80, false), (2, 1, false), (1, 1, true), (1, u16::MAX, true), (80, 443, true)] {
            assert_eq!(PortRange::new(first, last).is_some(), expect, "{first}-{last}");
        }
    }

    #[test]
    fn ranges_know_their_ports() {
        let range = PortRange::new(8000, 8010).expect("a range");
        for (port, expect) in [(7999, false), (8000, true), (8010, true), (8011, false)] {
            assert_eq!(range.contains(port), expect, "{port}");
        }
        assert!(PortRange::ALL.covers(range) && range.covers(range) && !range.covers(PortRange::ALL));
        assert_eq!(PortRange::count(&[PortRange::ALL, range, PortRange::SSH]), 65_535 + 11 + 1);
        assert_eq!(PortRange::count(&[]), 0);
    }
}
