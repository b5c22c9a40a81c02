//! Handing a letter to the mail server.

use std::time::Duration;

use lettre::{
    AsyncSmtpTransport, AsyncTransport, Tokio1Executor,
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, CertificateStore, Tls, TlsParameters},
    },
};

use crate::{Notice, Notify, NotifyError, Security, Smtp, Target, compose};

/// Puts a notice into words for a target and hands it over. `Ok` means that the server has taken it.
pub async fn deliver(config: &Notify, target: &Target, notice: &Notice) -> Result<(), NotifyError> {
    let letter = compose(config, target, notice)?;
    let transport = transport(target)?;
    let Smtp { host, timeout_s, .. } = &target.smtp;
    let sent = tokio::time::timeout(Duration::from_secs(*timeout_s), transport.send(letter.mail()?)).await;
    let Ok(sent) = sent else {
        return Err(NotifyError::Slow { host: host.clone(), seconds: *timeout_s });
    };
    sent.map(drop).map_err(|source| {
        let host = host.clone();
        if source.is_permanent() {
            NotifyError::Refused { host, source }
        } else if source.is_transient() {
            NotifyError::Later { host, source }
        } else if source.is_tls() || of_tls(&source) {
            NotifyError::Tls { host, source }
        } else {
            NotifyError::Away { host, source }
        }
    })
}

/// rustls reports a certificate that it does not believe as an I/O error of its own kind.
fn of_tls(error: &dyn std::error::Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::InvalidData
        {
            return true;
        }
        source = cause.source();
    }
    false
}

fn transport(target: &Target) -> Result<AsyncSmtpTransport<Tokio1Executor>, NotifyError> {
    let smtp = &target.smtp;
    let (tls, usual_port) = match smtp.security {
        Security::Plain => (Tls::None, 25),
        Security::StartTls => (Tls::Required(parameters(target)?), 587),
        Security::Tls => (Tls::Wrapper(parameters(target)?), 465),
    };
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&smtp.host)
        .port(smtp.port.unwrap_or(usual_port))
        .tls(tls)
        .timeout(Some(Duration::from_secs(smtp.timeout_s)));
    if let Some(login) = &smtp.login {
        let text = fs_err::read_to_string(&login.password_file)
            .map_err(|source| NotifyError::File { target: target.name.clone(), source })?;
        let password = text.lines().next().unwrap_or_default();
        builder = builder.credentials(Credentials::new(login.user.clone(), password.to_owned()));
    }
    Ok(builder.build())
}

fn parameters(target: &Target) -> Result<TlsParameters, NotifyError> {
    let smtp = &target.smtp;
    let name = smtp.certificate_name.clone().unwrap_or_else(|| smtp.host.clone());
    let mut builder = TlsParameters::builder(name);
    if let Some(path) = &smtp.ca {
        let pem =
            fs_err::read(path).map_err(|source| NotifyError::File { target: target.name.clone(), source })?;
        let bad = || NotifyError::BadCa { target: target.name.clone(), path: path.clone() };
        if !pem.windows(11).any(|part| part == b"CERTIFICATE") {
            return Err(bad());
        }
        let certificate = Certificate::from_pem(&pem).map_err(|_| bad())?;
        builder = builder.certificate_store(CertificateStore::None).add_root_certificate(certificate);
    }
    builder.build().map_err(|source| NotifyError::Tls { host: smtp.host.clone(), source })
}
