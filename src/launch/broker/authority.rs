//! The certificate authority of one run: it certifies the hosts of the run's secrets, and only programs of the run trust it.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

use silo_base::grant::Host;

/// The name of the authority, as programs show it.
const NAME: &str = "silo, for one run";

/// The authority, as the launch spec has it. Its key is of no use outside the run, because nothing else trusts it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authority {
    /// The certificate, in DER.
    certificate: Vec<u8>,
    /// The private key, in PKCS #8.
    key: Vec<u8>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

/// An error of making a certificate.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a certificate for this run: {0}")]
pub struct Error(String);

impl From<rcgen::Error> for Error {
    fn from(error: rcgen::Error) -> Error {
        Error(error.to_string())
    }
}

impl From<rustls::Error> for Error {
    fn from(error: rustls::Error) -> Error {
        Error(error.to_string())
    }
}

impl Authority {
    /// Makes an authority with a new key.
    pub fn new() -> Result<Authority, Error> {
        let key = KeyPair::generate()?;
        let mut params = parameters(NAME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        Ok(Authority { certificate: certificate.der().to_vec(), key: key.serialize_der() })
    }

    /// Returns the certificate as PEM text.
    pub fn pem(&self) -> String {
        let text = STANDARD.encode(&self.certificate);
        let lines: Vec<String> = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    }

    /// Certifies a host.
    pub fn certify(&self, host: &Host) -> Result<Arc<CertifiedKey>, Error> {
        let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(self.key.as_slice()))?;
        let authority = CertificateDer::from(self.certificate.clone());
        let mut params = parameters(host.as_str());
        params.subject_alt_names = CertificateParams::new(vec![host.for_resolver().to_owned()])?.subject_alt_names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let own = KeyPair::generate()?;
        let mut issuer = parameters(NAME);
        issuer.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        issuer.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.signed_by(&own, &Issuer::from_params(&issuer, key))?;
        let own = rustls::crypto::ring::sign::any_supported_type(&PrivatePkcs8KeyDer::from(own.serialize_der()).into())?;
        Ok(Arc::new(CertifiedKey::new(vec![certificate.der().clone(), authority], own)))
    }
}

/// Parameters of a certificate. Its dates do not depend on the clock, because the clocks of machines differ; the run bounds its use.
fn parameters(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2099, 12, 31);
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_certified_for_those_who_trust_the_authority_alone() {
        use rustls::RootCertStore;
        use rustls::client::WebPkiServerVerifier;
        use rustls::client::danger::ServerCertVerifier;
        use rustls::pki_types::{ServerName, UnixTime, pem::PemObject};

        let (authority, other) = (Authority::new().expect("made"), Authority::new().expect("made"));
        let host = Host::parse("api.example.com").expect("a host");
        let certified = authority.certify(&host).expect("certified");
        let check = |authority: &Authority, name: &str| {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM")).expect("a root");
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().expect("a verifier");
            let name = ServerName::try_from(name.to_owned()).expect("a name");
            verifier.verify_server_cert(&certified.cert[0], &certified.cert[1..], &name, &[], UnixTime::now()).is_ok()
        };
        assert!(check(&authority, "api.example.com"));
        assert!(!check(&authority, "www.example.com") && !check(&other, "api.example.com"));
        let read: Authority = serde_json::from_str(&serde_json::to_string(&authority).expect("JSON")).expect("an authority");
        assert_eq!(read, authority);
        assert_eq!(format!("{authority:?}"), "Authority");
    }
}
