//! The cache of a release: the build of a release compiles in its location and its key, so the sources name no host.
//!
//! Like every other key, the compiled-in one can be revoked. Then its cache is not asked any more.

use silo_model::oci::location;
use silo_sign::key::Public;

/// The location of the cache, from a variable of the build.
const LOCATION: Option<&str> = option_env!("SILO_DEFAULT_CACHE");
/// The public key: PEM, or only the base64 inside, from a variable of the build.
const KEY: Option<&str> = option_env!("SILO_DEFAULT_KEY");

/// A compiled-in cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultCache {
    /// Its location.
    pub location: String,
    /// The key of its images.
    pub key: Public,
}

/// Returns the compiled-in cache; an error is a fault of the build.
pub fn get() -> Result<Option<DefaultCache>, String> {
    parse(LOCATION, KEY)
}

fn parse(location: Option<&str>, key: Option<&str>) -> Result<Option<DefaultCache>, String> {
    let (location, key) = match (location.unwrap_or_default(), key.unwrap_or_default().trim()) {
        ("", "") => return Ok(None),
        ("", _) | (_, "") => return Err("SILO_DEFAULT_CACHE and SILO_DEFAULT_KEY belong together".to_owned()),
        both => both,
    };
    location::parse(location).map_err(|what| format!("SILO_DEFAULT_CACHE: \"{}\": {what}", location.escape_debug()))?;
    let text = match key.starts_with("-----") {
        true => format!("{key}\n"),
        false => format!("-----BEGIN PUBLIC KEY-----\n{key}\n-----END PUBLIC KEY-----\n"),
    };
    let key = Public::parse(&text).map_err(|error| format!("SILO_DEFAULT_KEY: {error}"))?;
    Ok(Some(DefaultCache { location: location.to_owned(), key }))
}

#[cfg(test)]
mod tests {
    use silo_sign::key::{Algorithm, Secret};

    use super::*;

    #[test]
    fn a_build_names_a_cache_with_its_key_or_none() {
        let public = Secret::new(Algorithm::P256).expect("a key").public();
        let pem = public.to_pem();
        let line: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let place = "registry.example.com/team/silo";
        for none in [(None, None), (Some(""), Some(""))] {
            assert_eq!(parse(none.0, none.1), Ok(None));
        }
        for key in [&pem, &line] {
            assert_eq!(parse(Some(place), Some(key)), Ok(Some(DefaultCache { location: place.to_owned(), key: public.clone() })));
        }
        for (location, key) in [(Some(place), None), (None, Some(&*pem)), (Some(place), Some("x")), (Some("no place"), Some(&*pem))] {
            assert!(parse(location, key).is_err(), "{location:?} {key:?}");
        }
    }
}
