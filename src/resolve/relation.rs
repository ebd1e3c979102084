//! Relations between binary packages: `a (>= 1) | b:any, c`.
//!
//! Build-time restrictions (`[arch]`, `<profile>`) do not occur in a Packages index; they are errors here.

use std::cmp::Ordering;

use crate::version;

/// Comparison of a relation's version bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `<<`
    Earlier,
    /// `<=` (and the old spelling `<`)
    EarlierOrEqual,
    /// `=`
    Equal,
    /// `>=` (and the old spelling `>`)
    LaterOrEqual,
    /// `>>`
    Later,
}

/// The required architecture of a relation's target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qualifier<'a> {
    /// None given: the architecture of the depending package.
    Own,
    /// `:any`, satisfied only by a `Multi-Arch: allowed` package.
    Any,
    /// `:native` or a named architecture.
    Named(&'a str),
}

/// One alternative of one relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relation<'a> {
    /// The name of the package, real or virtual.
    pub name: &'a str,
    /// The required architecture.
    pub qualifier: Qualifier<'a>,
    /// The bound on the version.
    pub bound: Option<(Operator, &'a str)>,
    /// The text of the alternative.
    pub text: &'a str,
}

/// Invalid text of a relation field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad relation `{text}`")]
pub struct Error {
    /// The alternative that does not parse.
    pub text: String,
}

impl Relation<'_> {
    /// Returns true if a package of this version satisfies the bound. `None` is an unversioned `Provides`, which satisfies only a relation
    /// without a bound.
    pub fn admits(&self, version: Option<&str>) -> bool {
        let Some((operator, bound)) = self.bound else { return true };
        let Some(version) = version else { return false };
        let order = version::compare(version, bound);
        match operator {
            Operator::Earlier => order == Ordering::Less,
            Operator::EarlierOrEqual => order != Ordering::Greater,
            Operator::Equal => order == Ordering::Equal,
            Operator::LaterOrEqual => order != Ordering::Less,
            Operator::Later => order == Ordering::Greater,
        }
    }
}

/// Parses a relation field into its clauses, each a list of alternatives in order of preference.
pub fn parse(field: &str) -> Result<Vec<Vec<Relation<'_>>>, Error> {
    // A trailing comma is valid in debian/control and harmless.
    let clauses = field.split(',').map(trim).filter(|clause| !clause.is_empty());
    clauses.map(|clause| clause.split('|').map(|text| parse_one(trim(text))).collect()).collect()
}

/// Parses one alternative: `name`, `name:any`, `name (>= version)`.
pub fn parse_one(text: &str) -> Result<Relation<'_>, Error> {
    let bad = || Error { text: text.to_owned() };
    let name_end = text.find(|c: char| c.is_ascii_whitespace() || c == '(').unwrap_or(text.len());
    let (full_name, rest) = text.split_at(name_end);
    let (name, qualifier) = match full_name.split_once(':') {
        None => (full_name, Qualifier::Own),
        Some((name, "any")) => (name, Qualifier::Any),
        Some((name, arch)) if is_name(arch) => (name, Qualifier::Named(arch)),
        Some(_) => return Err(bad()),
    };
    if !is_name(name) {
        return Err(bad());
    }
    let rest = trim(rest);
    let bound = if rest.is_empty() {
        None
    } else {
        let inside = rest.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).ok_or_else(bad)?;
        Some(parse_bound(trim(inside)).ok_or_else(bad)?)
    };
    Ok(Relation { name, qualifier, bound, text })
}

/// Returns true if the text is a valid package name. The rule is a little wider than Debian policy (capitals, one letter, underscore),
/// because relations mention old names, but excludes anything that could be a path.
pub fn is_name(text: &str) -> bool {
    text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b))
}

/// Parses an operator.
pub fn operator(spelling: &str) -> Option<Operator> {
    match spelling {
        "<<" => Some(Operator::Earlier),
        "<=" => Some(Operator::EarlierOrEqual),
        "=" => Some(Operator::Equal),
        ">=" => Some(Operator::LaterOrEqual),
        ">>" => Some(Operator::Later),
        _ => None,
    }
}

/// Parses the contents of a bound's parentheses.
fn parse_bound(text: &str) -> Option<(Operator, &str)> {
    const SPELLINGS: [(&str, Operator); 7] = [
        ("<<", Operator::Earlier),
        ("<=", Operator::EarlierOrEqual),
        (">=", Operator::LaterOrEqual),
        (">>", Operator::Later),
        ("<", Operator::EarlierOrEqual),
        (">", Operator::LaterOrEqual),
        ("=", Operator::Equal),
    ];
    let (rest, operator) = SPELLINGS.iter().find_map(|(spelling, operator)| Some((text.strip_prefix(spelling)?, *operator)))?;
    let version = trim(rest);
    version::is_valid(version).then_some((operator, version))
}

/// Trims ASCII white space, including the line breaks of a folded field.
fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use super::{Operator, Qualifier, parse, parse_one};

    #[test]
    fn reads_what_an_index_holds() {
        let clauses = parse("a (>= 1:2.0-1), b:any | c(<<3),\n d:native (= 1) ,").expect("well formed");
        assert_eq!(clauses.len(), 3);
        assert_eq!(clauses[0][0].bound, Some((Operator::LaterOrEqual, "1:2.0-1")));
        assert_eq!((clauses[1][0].name, clauses[1][0].qualifier), ("b", Qualifier::Any));
        assert_eq!(clauses[1][1].bound, Some((Operator::Earlier, "3")));
        assert_eq!((clauses[2][0].qualifier, clauses[2][0].text), (Qualifier::Named("native"), "d:native (= 1)"));
        assert!(parse(" ").expect("empty is no clause").is_empty());
    }

    #[test]
    fn refuses_the_rest() {
        for bad in [
            "a | | b",
            "(>= 1)",
            "a (>= )",
            "a (1)",
            "a (>= 1",
            "a >= 1",
            "a [amd64]",
            "a <!nocheck>",
            "../a",
            "a:/b",
            "a (>= 1) x",
            "-a",
            "a (=> 1)",
            "a:",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bounds() {
        // Relation, provided version, result.
        for (relation, version, verdict) in [
            ("a", None, true),
            ("a (>= 1)", None, false),
            ("a (>= 1)", Some("1"), true),
            ("a (> 1)", Some("1"), true),
            ("a (>> 1)", Some("1"), false),
            ("a (<< 1)", Some("1~"), true),
            ("a (<= 1)", Some("1.1"), false),
            ("a (= 1)", Some("0:1-0"), true),
        ] {
            assert_eq!(parse_one(relation).expect("well formed").admits(version), verdict, "{relation} {version:?}");
        }
    }
}
