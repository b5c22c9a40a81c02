//! Certificates of the agents' own authority: made, issued, read.
//!
//! The authority signs two things: clients (agents, by name) and the one server name [`SERVER`]. It is apart from
//! the authority of the repository server, so that it can be changed without touching restic clients and vault.

use std::time::Duration;

use aws_lc_rs::digest;
use jiff::Timestamp;
use kuramori_model::clock::Random;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::{Error, Result};

/// The name in the server's certificate; the address may be any, because the authority signs no other server.
pub const SERVER: &str = "server.kuramori.internal";
/// How far the clocks of both sides may differ from a certificate's begin and end.
pub const TOLERANCE: Duration = Duration::from_hours(24);

/// A private key's text, wiped when it goes.
pub type Secret = Zeroizing<String>;

/// A certificate and its private key, PEM.
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

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its common name: an agent's name.
    pub name: String,
    /// Its serial number in hexadecimal.
    pub serial: String,
    /// Begin of validity.
    pub from: Timestamp,
    /// End of validity.
    pub until: Timestamp,
    /// Its issuer's name.
    pub issuer: String,
}

fn wrong<E: std::fmt::Display>(action: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::Certificate { action, why: error.to_string() }
}

fn common(
    parameters: &mut CertificateParams,
    name: &str,
    from: Timestamp,
    until: Timestamp,
    random: &dyn Random,
) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since = |time: Timestamp| Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0));
    parameters.not_before = epoch + since(from);
    parameters.not_after = epoch + since(until);
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    let mut serial = [0; 16];
    random.fill(&mut serial);
    // A positive number whose first byte is not zero (RFC 5280 section 4.1.2.2): so that its text is always the same.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    parameters.serial_number = Some(SerialNumber::from_slice(&serial));
}

fn later(now: Timestamp, by: Duration) -> Timestamp {
    now.saturating_add(jiff::SignedDuration::try_from(by).unwrap_or_default()).unwrap_or(now)
}

/// Makes an authority whose name says which one it is.
///
/// # Errors
/// [`Error::Certificate`].
pub fn authority(number: u32, now: Timestamp, valid: Duration, random: &dyn Random) -> Result<Pair> {
    let wrong = wrong("make an authority");
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    common(&mut parameters, &format!("Kuramori agents CA {number}"), now, later(now, valid), random);
    let key = KeyPair::generate().map_err(&wrong)?;
    let certificate = parameters.self_signed(&key).map_err(&wrong)?;
    Ok(Pair { certificate: certificate.pem(), key: Zeroizing::new(key.serialize_pem()) })
}

fn sign(
    authority: &Pair,
    mut parameters: CertificateParams,
    usage: ExtendedKeyUsagePurpose,
    public: &impl PublicKeyData,
) -> Result<String> {
    let wrong = wrong("issue a certificate");
    let signer = KeyPair::from_pem(&authority.key).map_err(&wrong)?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, signer).map_err(&wrong)?;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![usage];
    parameters.use_authority_key_identifier_extension = true;
    Ok(parameters.signed_by(public, &issuer).map_err(&wrong)?.pem())
}

/// Issues an agent's certificate for the key of its request; nothing else of the request counts.
///
/// # Errors
/// [`Error::Certificate`] if the request is none or not signed by its own key.
pub fn issue_agent(
    authority: &Pair,
    request: &[u8],
    name: &str,
    now: Timestamp,
    valid: Duration,
    random: &dyn Random,
) -> Result<String> {
    let request = CertificateSigningRequestDer::from(request.to_vec());
    let request = CertificateSigningRequestParams::from_der(&request).map_err(wrong("read the request"))?;
    let mut parameters = CertificateParams::default();
    common(&mut parameters, name, now, later(now, valid), random);
    sign(authority, parameters, ExtendedKeyUsagePurpose::ClientAuth, &request.public_key)
}

/// Issues the server's certificate with a fresh key.
///
/// # Errors
/// [`Error::Certificate`].
pub fn issue_server(authority: &Pair, now: Timestamp, valid: Duration, random: &dyn Random) -> Result<Pair> {
    let wrong = wrong("issue the server's certificate");
    let mut parameters = CertificateParams::new(vec![SERVER.to_owned()]).map_err(&wrong)?;
    common(&mut parameters, SERVER, now, later(now, valid), random);
    let key = KeyPair::generate().map_err(&wrong)?;
    let certificate = sign(authority, parameters, ExtendedKeyUsagePurpose::ServerAuth, &key)?;
    Ok(Pair { certificate, key: Zeroizing::new(key.serialize_pem()) })
}

/// A fresh key (PEM) and its request (DER).
///
/// # Errors
/// [`Error::Certificate`].
pub fn request(name: &str) -> Result<(Zeroizing<String>, Vec<u8>)> {
    let wrong = wrong("make a request");
    let key = KeyPair::generate().map_err(&wrong)?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    let request = parameters.serialize_request(&key).map_err(&wrong)?;
    Ok((Zeroizing::new(key.serialize_pem()), request.der().to_vec()))
}

/// Reads what a certificate says. Its signature is not checked here.
///
/// # Errors
/// [`Error::Certificate`].
pub fn read(certificate: &[u8]) -> Result<Holder> {
    let wrong = wrong("read a certificate");
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| wrong(error.to_string()))?;
    let time = |seconds: i64| Timestamp::from_second(seconds).map_err(|error| wrong(error.to_string()));
    let common = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let issuer = parsed.issuer().iter_common_name().next().and_then(|name| name.as_str().ok());
    Ok(Holder {
        name: common.unwrap_or_default().to_owned(),
        serial: hex::encode(parsed.raw_serial()),
        from: time(parsed.validity().not_before.timestamp())?,
        until: time(parsed.validity().not_after.timestamp())?,
        issuer: issuer.unwrap_or_default().to_owned(),
    })
}

impl Holder {
    /// Whether it is valid at this time, or was or will be within `tolerance`.
    pub fn valid_at(&self, now: Timestamp, tolerance: Duration) -> bool {
        let tolerance = jiff::SignedDuration::try_from(tolerance).unwrap_or_default();
        let from = self.from.saturating_sub(tolerance).unwrap_or(self.from);
        let until = self.until.saturating_add(tolerance).unwrap_or(self.until);
        (from..=until).contains(&now)
    }
}

/// The certificates of a PEM text.
///
/// # Errors
/// [`Error::Certificate`].
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<std::result::Result<_, _>>()
        .map_err(wrong("read a certificate"))
}

/// SHA-256 of a certificate, DER.
pub fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use kuramori_model::clock::SeededRandom;

    use super::*;

    #[test]
    fn a_request_gives_its_key_and_not_its_name() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let random = SeededRandom::new(3);
        let day = Duration::from_hours(24);
        let authority = authority(1, now, day * 900, &random).unwrap();
        let (_, request) = request("root of all").unwrap();
        let issued = issue_agent(&authority, &request, "ward-1", now, day * 90, &random).unwrap();
        let holder = read(&certificates(&issued).unwrap()[0]).unwrap();
        assert_eq!((holder.name.as_str(), holder.issuer.as_str()), ("ward-1", "Kuramori agents CA 1"));
        assert_eq!((holder.from, holder.until), (now, later(now, day * 90)));
        assert_eq!(holder.serial.len(), 32);
        assert!(holder.valid_at(now, TOLERANCE) && holder.valid_at(later(now, day * 91), TOLERANCE));
        assert!(!holder.valid_at(later(now, day * 92), TOLERANCE), "the tolerance is a day");
        let mut forged = request.clone();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert!(issue_agent(&authority, &forged, "ward-1", now, day, &random).is_err());
    }
}
