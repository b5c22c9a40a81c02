//! `kuramori repo serve` and what it needs: a certificate and logins.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use kuramori_model::{
    clock::{Clock, SystemClock, SystemRandom},
    fault::Exit,
};
use kuramori_serve::{Config, Event, FileLogins, Limits, Mode, Watch, password::PasswordHash, tls};

use super::open::secret_from;
use crate::{Outcome, failure::CliError, ui::Ui};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder that holds one repository per system
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Address and port
    #[arg(long, default_value = "127.0.0.1:8443", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The server's certificate (PEM)
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The logins (TOML); looked at every second
    #[arg(long, value_name = "FILE")]
    logins: PathBuf,
    /// Only take in what a vault sends in a restore window; starts on an empty folder
    #[arg(long)]
    receiver: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Certificate {
    /// Names and IP addresses of the server; may be given several times
    #[arg(long, required = true, value_name = "NAME")]
    name: Vec<String>,
    /// The folder for `ca.pem`, `server.pem` and `server.key`
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Days that the certificate is valid
    #[arg(long, default_value_t = 825, value_name = "DAYS")]
    days: u64,
}

#[derive(Debug, clap::Args)]
pub(super) struct Login {
    /// The login's name
    #[arg(long, value_name = "NAME")]
    name: String,
    /// A file with its password
    #[arg(long, value_name = "FILE")]
    password_file: PathBuf,
    /// What it may do: append, read or receive
    #[arg(long, value_parser = ["append", "read", "receive"], value_name = "ROLE")]
    role: String,
    /// The repository (needed for append; all others where it is left out)
    #[arg(long, value_name = "NAME", required_if_eq("role", "append"))]
    repository: Option<String>,
}

/// Prints what happened, one line an event.
#[derive(Debug)]
struct Log {
    json: bool,
}

impl Watch for Log {
    fn event(&self, event: Event) {
        if self.json || event.alarming() {
            tracing::info!(target: "kuramori::serve", "{event:?}");
        }
    }
}

pub(super) fn run(args: &Args, ui: &Ui) -> Outcome {
    let config = Config {
        root: args.root.clone(),
        mode: if args.receiver { Mode::Receiver } else { Mode::Store },
        tls: tls::load(&args.certificate, &args.key)?,
        logins: Arc::new(FileLogins::open(&args.logins)?),
        watch: Arc::new(Log { json: ui.json }),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        limits: Limits::default(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CliError::File)?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(args.listen).await.map_err(CliError::File)?;
        let address = listener.local_addr().map_err(CliError::File)?;
        ui.line(format!("{} https://{address}/", ui.pick("待ち受けています:", "serving at")));
        ui.data(&serde_json::json!({"message_type": "status", "listening": address.to_string()}));
        kuramori_serve::run(config, listener, stop()).await?;
        Ok(Exit::Done)
    })
}

/// Ready when the process is told to end.
async fn stop() {
    let interrupted = tokio::signal::ctrl_c();
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut terminated) => {
            tokio::select! {
                _ = interrupted => {}
                _ = terminated.recv() => {}
            }
        }
        Err(_) => {
            let _ = interrupted.await;
        }
    }
}

pub(super) fn certificate(args: &Certificate, ui: &Ui) -> Outcome {
    let valid = Duration::from_hours(24 * args.days);
    let now = SystemClock.now();
    let authority = tls::authority("Kuramori", now, valid, &SystemRandom)?;
    let names: Vec<&str> = args.name.iter().map(String::as_str).collect();
    let server = tls::issue(&authority, &names, now, valid, &SystemRandom)?;
    fs_err::create_dir_all(&args.out).map_err(CliError::File)?;
    for (name, text, mode) in [
        ("ca.pem", authority.certificate.as_str(), 0o644),
        ("server.pem", server.certificate.as_str(), 0o644),
        ("server.key", server.key.as_str(), 0o600),
    ] {
        write_new(&args.out.join(name), text, mode).map_err(CliError::File)?;
    }
    let fingerprint = tls::fingerprint(&authority.certificate)?;
    ui.line(format!("{} {}", ui.pick("認証局の指紋:", "fingerprint of the authority:"), fingerprint));
    ui.data(&serde_json::json!({"message_type": "summary", "authority_sha256": fingerprint}));
    Ok(Exit::Done)
}

/// A file that is not there yet; a key is never readable by others, not even for a moment.
fn write_new(path: &std::path::Path, text: &str, mode: u32) -> std::io::Result<()> {
    use std::io::Write;

    use fs_err::os::unix::fs::OpenOptionsExt;
    let mut file = fs_err::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

pub(super) fn login(args: &Login, ui: &Ui) -> Outcome {
    let secret = secret_from(&args.password_file)?;
    let password = std::str::from_utf8(secret.expose())
        .map_err(|_| CliError::Argument("a login's password must be UTF-8".to_owned()))?;
    let hash = PasswordHash::new(password, &SystemRandom);
    let scope = match (&args.repository, args.role.as_str()) {
        (Some(name), "append") => format!("repository = \"{name}\""),
        (Some(name), _) => format!("repositories = [\"{name}\"]"),
        (None, _) => "repositories = \"all\"".to_owned(),
    };
    ui.line(format!(
        "[[login]]\nname = \"{}\"\npassword = \"{hash}\"\nrole = \"{}\"\n{scope}",
        args.name, args.role
    ));
    Ok(Exit::Done)
}
