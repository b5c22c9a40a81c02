//! The hospital's mail server: aiosmtpd, which delivers everything into one Maildir.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    error::{LabError, Result},
    lab::{Host, Lab},
    program::Program,
    role::Role,
    wait::wait_until,
};

/// The name of the server's process in the lab's register.
pub const PROCESS: &str = "aiosmtpd";

/// The mail server of a lab.
#[derive(Debug, Clone, Copy)]
pub struct Mail<'lab> {
    lab: &'lab Lab,
}

/// One mail as it was received, decoded by Python's own library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// The file in the Maildir.
    pub file: String,
    /// The sender.
    pub from: String,
    /// The recipients.
    pub to: String,
    /// The subject, decoded.
    pub subject: String,
    /// The first text part, decoded.
    pub body: String,
}

impl Received {
    /// When it arrived, in seconds of the wall clock: a Maildir's file name begins with seconds and
    /// microseconds (`1732000000.M250000P…`).
    pub fn arrived(&self) -> Option<f64> {
        let (seconds, rest) = self.file.split_once(".M")?;
        let micros: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some(seconds.parse::<f64>().ok()? + micros.parse::<f64>().ok()? / 1e6)
    }
}

/// Reads all mails of a Maildir, oldest first.
const READ: &str = r"
import email, email.policy, json, os, sys
out = []
folder = os.path.join(sys.argv[1], 'new')
for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
    with open(os.path.join(folder, name), 'rb') as f:
        m = email.message_from_binary_file(f, policy=email.policy.default)
    body = m.get_body(('plain', 'html'))
    out.append(dict(file=name, **{'from': str(m['from'])}, to=str(m['to']), subject=str(m['subject']),
                    body=body.get_content() if body else ''))
json.dump(out, sys.stdout)
";

impl<'lab> Mail<'lab> {
    pub(crate) fn of(lab: &'lab Lab) -> Self {
        Self { lab }
    }

    fn host(self) -> Host<'lab> {
        self.lab.host(Role::Mai)
    }

    /// Where it listens; plain SMTP without login, as relays inside hospitals are.
    pub fn address(self) -> SocketAddr {
        (Role::Mai.address(), 25).into()
    }

    /// The Maildir.
    pub fn folder(self) -> PathBuf {
        self.host().folder().join("maildir")
    }

    /// Starts the server and waits until it answers.
    pub fn start(self) -> Result<()> {
        let server = Program::new("/usr/bin/python3")
            .args(["-m", "aiosmtpd", "-n", "-u", "-c", "aiosmtpd.handlers.Mailbox", "-l"])
            .arg(self.address().to_string())
            .arg(self.folder());
        let mut process = self.host().spawn(PROCESS, &server, &self.lab.log(PROCESS))?;
        let address = self.address();
        process.wait_until("the mail server answers", Duration::from_mins(2), || {
            let reached = self.host().inside(|| super::witness::reaches(address, Duration::from_secs(1)))?;
            Ok(reached.then_some(()))
        })
    }

    /// All mails received, oldest first.
    pub fn received(self) -> Result<Vec<Received>> {
        let bytes = Program::new("/usr/bin/python3").args(["-c", READ]).arg(self.folder()).run()?;
        serde_json::from_slice(&bytes).map_err(|source| LabError::Format { path: self.folder(), source })
    }

    /// Waits for a mail that `fits`.
    pub fn wait_for(
        &self,
        what: &str,
        limit: Duration,
        fits: impl Fn(&Received) -> bool,
    ) -> Result<Received> {
        wait_until(what, limit, || Ok(self.received()?.into_iter().find(&fits)))
    }
}
