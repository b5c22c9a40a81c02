//! TLS 1.3 for both sides.
//!
//! A certificate's *signature* is checked in the handshake, its *time* right after it: so that a certificate which
//! is over, or a clock which is wrong, is answered in words that name both times, and not by an alert without any.
//! Nothing is said or believed between the two checks.
//!
//! The application protocol keeps strangers apart: who offers [`ENROL`] is asked for no certificate and may spend a
//! token, who offers [`AGENT`] has to have one of a trusted authority.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};

use crate::{Error, Result, identity};

/// The application protocol of an enrolled agent.
pub const AGENT: &[u8] = b"kuramori-agent/1";
/// The application protocol of an agent that has a token and nothing else.
pub const ENROL: &[u8] = b"kuramori-enrol/1";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn wrong<E: std::fmt::Display>(action: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::Certificate { action, why: error.to_string() }
}

/// The time nearest to now at which the certificate is valid.
fn within(certificate: &[u8], now: UnixTime) -> std::result::Result<UnixTime, rustls::Error> {
    let bad = || rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
    let holder = identity::read(certificate).map_err(|_| bad())?;
    let seconds = |time: jiff::Timestamp| u64::try_from(time.as_second()).unwrap_or(0);
    let clamped = now.as_secs().clamp(seconds(holder.from), seconds(holder.until).max(seconds(holder.from)));
    Ok(UnixTime::since_unix_epoch(std::time::Duration::from_secs(clamped)))
}

fn roots(certificates: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone()).map_err(wrong("believe an authority"))?;
    }
    Ok(Arc::new(roots))
}

/// Whom the agent believes.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Exactly these authorities.
    Authorities(Vec<CertificateDer<'static>>),
    /// The authority with this SHA-256, which the server shows itself: what a token says.
    Pinned([u8; 32]),
}

#[derive(Debug)]
struct ServerVerifier {
    trust: Trust,
    hints: Option<Vec<DistinguishedName>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let unknown = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let authorities = match &self.trust {
            Trust::Authorities(all) => all.clone(),
            Trust::Pinned(pin) => intermediates
                .iter()
                .filter(|certificate| identity::fingerprint(certificate) == *pin)
                .map(|certificate| certificate.clone().into_owned())
                .collect(),
        };
        if authorities.is_empty() {
            return Err(unknown());
        }
        let roots = roots(&authorities).map_err(|_| unknown())?;
        WebPkiServerVerifier::builder_with_provider(roots, self.provider.clone())
            .build()
            .map_err(|_| unknown())?
            .verify_server_cert(end_entity, &[], server_name, ocsp_response, within(end_entity, now)?)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.hints.as_deref()
    }
}

/// The agent's side. `own` is its certificate and key; without it only enrolment is offered.
///
/// # Errors
/// [`Error::Certificate`].
pub fn client(trust: Trust, own: Option<&identity::Pair>) -> Result<Arc<ClientConfig>> {
    let hints = match &trust {
        Trust::Authorities(all) => Some(roots(all)?.subjects()),
        Trust::Pinned(_) => None,
    };
    let verifier = Arc::new(ServerVerifier { trust, hints, provider: provider() });
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(wrong("speak TLS 1.3"))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match own {
        Some(own) => {
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).map_err(wrong("read the key"))?;
            builder
                .with_client_auth_cert(identity::certificates(&own.certificate)?, key)
                .map_err(wrong("use the certificate"))?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![if own.is_some() { AGENT.to_vec() } else { ENROL.to_vec() }];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct ClientVerifier {
    inner: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> std::result::Result<ClientCertVerified, rustls::Error> {
        self.inner.verify_client_cert(end_entity, intermediates, within(end_entity, now)?)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The server's certificates, the newest authority's first; each chain ends with its authority.
#[derive(Debug)]
struct Shown(Vec<(DistinguishedName, Arc<CertifiedKey>)>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let hints = hello.certificate_authorities();
        let known = self.0.iter().find(|(name, _)| {
            hints.is_some_and(|hints| hints.iter().any(|hint| hint.as_ref() == name.as_ref()))
        });
        known.or(self.0.first()).map(|(_, key)| key.clone())
    }
}

/// The server's side for enrolled agents and for strangers with a token.
#[derive(Debug, Clone)]
pub struct Server {
    /// For [`AGENT`].
    pub agents: Arc<ServerConfig>,
    /// For [`ENROL`].
    pub strangers: Arc<ServerConfig>,
}

/// Makes both. `authorities` are those that are trusted, the newest first, each with the server's own certificate
/// from it.
///
/// # Errors
/// [`Error::Certificate`].
pub fn server(authorities: &[(String, identity::Pair)]) -> Result<Server> {
    let provider = provider();
    let mut trusted = Vec::new();
    let mut shown = Vec::new();
    for (authority, own) in authorities {
        let certificates = identity::certificates(authority)?;
        let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).map_err(wrong("read the key"))?;
        let key = provider.key_provider.load_private_key(key).map_err(wrong("use the key"))?;
        let mut chain = identity::certificates(&own.certificate)?;
        chain.extend(certificates.clone());
        let name = roots(&certificates)?.subjects().into_iter().next();
        let name = name.ok_or_else(|| wrong("read an authority")("it has no name"))?;
        shown.push((name, Arc::new(CertifiedKey::new(chain, key))));
        trusted.extend(certificates);
    }
    let shown = Arc::new(Shown(shown));
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(&trusted)?, provider.clone())
        .build()
        .map_err(wrong("believe the authorities"))?;
    let base = || {
        ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(wrong("speak TLS 1.3"))
    };
    let finish = |mut config: ServerConfig, protocol: &[u8]| {
        config.alpn_protocols = vec![protocol.to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Arc::new(config)
    };
    let verifier = Arc::new(ClientVerifier { inner: verifier });
    let agents = base()?.with_client_cert_verifier(verifier).with_cert_resolver(shown.clone());
    let strangers = base()?.with_no_client_auth().with_cert_resolver(shown);
    Ok(Server { agents: finish(agents, AGENT), strangers: finish(strangers, ENROL) })
}
