//! The agent's identity on disk.
//!
//! ```text
//! identity.pem      certificate and private key in one file, 0600: replaced as a whole
//! authorities.pem   which authorities of the server are believed
//! ```

use std::{io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use kuramori_wire::identity::{self, Holder, Pair};

use crate::{AgentError, Result};

const IDENTITY: &str = "identity.pem";
const AUTHORITIES: &str = "authorities.pem";

/// Who this agent is and whom it believes.
#[derive(Debug, Clone)]
pub struct State {
    /// Certificate and key.
    pub own: Pair,
    /// What the certificate says.
    pub holder: Holder,
    /// PEM of the authorities.
    pub authorities: String,
}

impl State {
    /// Reads what enrolment wrote.
    ///
    /// # Errors
    /// [`AgentError::NotEnrolled`], or what is wrong with the files.
    pub fn read(folder: &Path) -> Result<Self> {
        let file = folder.join(IDENTITY);
        if !file.exists() {
            return Err(AgentError::NotEnrolled(folder.display().to_string()));
        }
        let text = fs_err::read_to_string(&file).map_err(AgentError::State)?;
        let authorities = fs_err::read_to_string(folder.join(AUTHORITIES)).map_err(AgentError::State)?;
        Self::new(Pair { certificate: text.clone(), key: text.into() }, authorities)
    }

    /// From its parts.
    ///
    /// # Errors
    /// If there is no certificate in it.
    pub fn new(own: Pair, authorities: String) -> Result<Self> {
        let certificates = identity::certificates(&own.certificate)?;
        let first = certificates
            .first()
            .ok_or_else(|| AgentError::NotEnrolled("a file without a certificate".to_owned()))?;
        Ok(Self { holder: identity::read(first)?, own, authorities })
    }

    /// Writes it; the authorities first, so that the identity never stands without them.
    ///
    /// # Errors
    /// [`AgentError::State`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs_err::create_dir_all(folder).map_err(AgentError::State)?;
        private(&folder.join(AUTHORITIES), self.authorities.as_bytes())?;
        // A pair that was read holds both in either field.
        let certificate = identity_part(&self.own.certificate, "CERTIFICATE");
        let key = identity_part(&self.own.key, "PRIVATE KEY");
        private(&folder.join(IDENTITY), format!("{certificate}{key}").as_bytes())
    }
}

/// The blocks of one kind of a PEM text.
fn identity_part(text: &str, kind: &str) -> String {
    let (begin, end) = (format!("-----BEGIN {kind}-----"), format!("-----END {kind}-----"));
    let mut rest = text;
    let mut found = String::new();
    while let Some(from) = rest.find(&begin) {
        let Some(until) = rest[from..].find(&end) else { break };
        let until = from + until + end.len();
        found.push_str(&rest[from..until]);
        found.push('\n');
        rest = &rest[until..];
    }
    found
}

fn private(path: &Path, content: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    let _ = fs_err::remove_file(&partial);
    let mut options = fs_err::OpenOptions::new();
    options.write(true).create_new(true);
    options.options_mut().mode(0o600);
    let mut file = options.open(&partial).map_err(AgentError::State)?;
    file.write_all(content).map_err(AgentError::State)?;
    file.sync_all().map_err(AgentError::State)?;
    fs_err::rename(&partial, path).map_err(AgentError::State)?;
    // The new name has to outlive a power cut, too: the server knows the old certificate only until it sees this one.
    let folder = path.parent().unwrap_or(path);
    fs_err::File::open(folder).and_then(|folder| folder.sync_all()).map_err(AgentError::State)
}
