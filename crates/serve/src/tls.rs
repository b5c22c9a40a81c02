//! A small certificate authority of the hospital's own, and the server's TLS.
//!
//! Clients trust this one authority and no other (`restic --cacert`), so a certificate bought from, or
//! stolen at, a public authority opens nothing.

use std::{os::unix::fs::MetadataExt, path::Path, sync::Arc, time::Duration};

use aws_lc_rs::digest;
use jiff::Timestamp;
use kuramori_model::clock::Random;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use zeroize::Zeroizing;

use crate::ServeError;

/// A clock that is a little late must not refuse a fresh certificate.
const BEFORE: Duration = Duration::from_hours(24);

/// A certificate and its private key, as PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: Zeroizing<String>,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// Makes an authority (ECDSA P-256) that can sign servers only, valid from `now` for `valid`.
pub fn authority(
    name: &str,
    now: Timestamp,
    valid: Duration,
    random: &dyn Random,
) -> Result<Pair, ServeError> {
    let wrong = wrong("make an authority");
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    common(&mut parameters, name, now, valid, random);
    let key = KeyPair::generate().map_err(&wrong)?;
    let certificate = parameters.self_signed(&key).map_err(&wrong)?;
    Ok(Pair { certificate: certificate.pem(), key: Zeroizing::new(key.serialize_pem()) })
}

/// Issues a server certificate for host names and IP addresses, valid from `now` for `valid`.
pub fn issue(
    authority: &Pair,
    names: &[&str],
    now: Timestamp,
    valid: Duration,
    random: &dyn Random,
) -> Result<Pair, ServeError> {
    let wrong = wrong("issue a server certificate");
    let signer = KeyPair::from_pem(&authority.key).map_err(&wrong)?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, signer).map_err(&wrong)?;
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let common_name = names.first().cloned().unwrap_or_default();
    let mut parameters = CertificateParams::new(names).map_err(&wrong)?;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.use_authority_key_identifier_extension = true;
    common(&mut parameters, &common_name, now, valid, random);
    let key = KeyPair::generate().map_err(&wrong)?;
    let certificate = parameters.signed_by(&key, &issuer).map_err(&wrong)?;
    Ok(Pair { certificate: certificate.pem(), key: Zeroizing::new(key.serialize_pem()) })
}

fn wrong<E: std::fmt::Display>(action: &'static str) -> impl Fn(E) -> ServeError {
    move |error| ServeError::Certificate { action, why: error.to_string() }
}

fn common(
    parameters: &mut CertificateParams,
    name: &str,
    now: Timestamp,
    valid: Duration,
    random: &dyn Random,
) {
    let start = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0));
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    parameters.not_before = epoch + start.saturating_sub(BEFORE);
    parameters.not_after = epoch + (start + valid);
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    let mut serial = [0; 16];
    random.fill(&mut serial);
    // A serial number is a positive integer (RFC 5280 section 4.1.2.2).
    serial[0] &= 0x7f;
    parameters.serial_number = Some(SerialNumber::from_slice(&serial));
}

/// The server's side of TLS 1.3 with a PEM chain and key. Clients give no certificate; they log in.
pub fn server_config(chain: &str, key: &str) -> Result<Arc<rustls::ServerConfig>, ServeError> {
    let chain = certificates(chain)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(wrong("read the private key"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let wrong = wrong("use the certificate");
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(&wrong)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(&wrong)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// [`server_config`] from two PEM files. A key that others may read is refused.
pub fn load(chain: &Path, key: &Path) -> Result<Arc<rustls::ServerConfig>, ServeError> {
    let read = |path: &Path| fs_err::read_to_string(path).map_err(wrong("read a certificate or key"));
    let mode = fs_err::metadata(key).map_err(wrong("read the private key"))?.mode();
    if mode & 0o007 != 0 {
        return Err(ServeError::Certificate {
            action: "use the private key",
            why: format!("`{}` is open to everybody (mode {:o})", key.display(), mode & 0o777),
        });
    }
    server_config(&read(chain)?, &Zeroizing::new(read(key)?))
}

/// The SHA-256 of the first certificate in a PEM text, in hexadecimal: what is compared and pinned at an
/// enrolment.
pub fn fingerprint(certificate: &str) -> Result<String, ServeError> {
    let first = certificates(certificate)?.into_iter().next();
    let first = first.ok_or_else(|| wrong("read the certificate")("there is none"))?;
    Ok(hex::encode(digest::digest(&digest::SHA256, &first)))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, ServeError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(wrong("read the certificate"))
}

#[cfg(test)]
mod tests {
    use kuramori_model::clock::SeededRandom;

    use super::*;

    #[test]
    fn an_issued_certificate_serves_and_a_foreign_key_does_not() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let random = SeededRandom::new(9);
        let year = Duration::from_hours(24 * 365);
        let authority = authority("Test CA", now, year, &random).unwrap();
        let server = issue(&authority, &["primary.example", "127.0.0.1", "::1"], now, year, &random).unwrap();
        server_config(&server.certificate, &server.key).unwrap();
        assert!(server_config(&server.certificate, &authority.key).is_err());
        assert!(server_config("", &server.key).is_err());
        assert_ne!(fingerprint(&server.certificate).unwrap(), fingerprint(&authority.certificate).unwrap());
        assert!(fingerprint("nothing").is_err());
        assert!(!format!("{server:?}").contains("PRIVATE"));
    }
}
