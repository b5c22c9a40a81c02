//! The vault's local screen and its hand: a unix socket on the vault host itself, one JSON line in, JSON lines
//! out, the last one with `done` or `error`. Nothing on a network can reach it; who may connect is the
//! file's mode and owner.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, Sender, channel},
    time::Duration,
};

use kuramori_model::{approval::Action, fault::Fault, gate::VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::{
    approval::Proof,
    error::{Error, Result},
    restore::Which,
};

/// The fixed verb list.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// What the report would say now.
    Status {},
    /// Open a pull window now.
    Pull {
        /// Longer or shorter than usual; longer needs an approved request.
        #[serde(default)]
        max_seconds: Option<u32>,
        /// The approved request for a longer one.
        #[serde(default)]
        request: Option<u64>,
        /// Who asks for a longer one.
        #[serde(default)]
        proposer: String,
    },
    /// Prove what is here and apply the retention, with the gate closed.
    Verify {},
    /// First fill from a carried disk.
    Seed {
        /// The folder with the repositories.
        from: PathBuf,
    },
    /// Send restore points to a receiver of the configuration. Without a request it is planned and asked for.
    Restore {
        /// Its name; a request has its own.
        #[serde(default)]
        receiver: String,
        /// Which systems; all that have a complete restore point if empty.
        #[serde(default)]
        systems: Vec<String>,
        /// Which point of each.
        #[serde(default)]
        point: Which,
        /// Seconds of the window; twice what is expected if absent.
        #[serde(default)]
        max_seconds: Option<u32>,
        /// Why points that are suspect or damaged go too; without it they stay.
        #[serde(default)]
        reason: Option<String>,
        /// Plan only.
        #[serde(default)]
        dry: bool,
        /// The approved request.
        #[serde(default)]
        request: Option<u64>,
        /// Who asks.
        #[serde(default)]
        proposer: String,
    },
    /// Officers, retired ones too.
    Officers {},
    /// Enrol an officer, or give one another key.
    OfficerAdd {
        /// Their name.
        officer: String,
        /// Their public key.
        #[serde(default)]
        key: Option<VerifyingKey>,
        /// The approved request.
        #[serde(default)]
        request: Option<u64>,
        /// Who asks.
        #[serde(default)]
        proposer: String,
    },
    /// Retire an officer.
    OfficerRetire {
        /// Their name.
        officer: String,
        /// The approved request.
        #[serde(default)]
        request: Option<u64>,
        /// Who asks.
        #[serde(default)]
        proposer: String,
    },
    /// Make a sheet of one-time codes.
    OfficerSheet {
        /// Whose.
        officer: String,
        /// The approved request.
        #[serde(default)]
        request: Option<u64>,
        /// Who asks.
        #[serde(default)]
        proposer: String,
    },
    /// Ask for something that has no verb of its own here.
    Ask {
        /// What.
        action: Action,
        /// On what.
        target: String,
        /// Everything else that matters.
        #[serde(default)]
        params: BTreeMap<String, String>,
        /// Who asks.
        #[serde(default)]
        proposer: String,
    },
    /// Every request.
    Requests {},
    /// An officer says yes.
    Approve {
        /// To which request.
        request: u64,
        /// Who.
        officer: String,
        /// How.
        proof: Proof,
    },
    /// Somebody takes a request back.
    Withdraw {
        /// Which.
        request: u64,
        /// Who.
        #[serde(default)]
        who: String,
    },
    /// Carry out an approved request that has no verb of its own here; the answer is signed by the vault.
    Carry {
        /// Which.
        request: u64,
    },
    /// Release the gate from a lockdown or a latched fault.
    ReleaseGate {
        /// The approved request.
        #[serde(default)]
        request: Option<u64>,
        /// Who asks.
        #[serde(default)]
        proposer: String,
    },
    /// The log's newest signed checkpoint, and a page of it to print.
    AuditRoot {
        /// In Japanese.
        #[serde(default)]
        ja: bool,
    },
    /// Write a signed report.
    Report {},
    /// A person has looked at an alarm.
    Clear {
        /// Its key.
        key: String,
    },
    /// A person has compared the clock with the world.
    ConfirmClock {},
    /// A person knows the new repository.
    Confirm {
        /// Its name.
        repository: String,
    },
}

/// The last line of an answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// What came of it.
    Done(serde_json::Value),
    /// Why not.
    Error {
        /// Stable code.
        code: String,
        /// The sentence with its causes.
        message: String,
        /// What to do.
        hint: Option<String>,
        /// The exit code of a command that ends with this.
        exit: u8,
    },
}

impl From<Result<serde_json::Value>> for Answer {
    fn from(result: Result<serde_json::Value>) -> Self {
        match result {
            Ok(value) => Self::Done(value),
            Err(error) => Self::Error {
                code: error.code().to_owned(),
                message: kuramori_model::fault::chain(&error),
                hint: error.hint(),
                exit: error.exit() as u8,
            },
        }
    }
}

/// Where the socket lies.
pub fn socket(state: &Path) -> PathBuf {
    state.join("vault.sock")
}

/// Asks the running vault and waits for the end, however long it takes.
///
/// # Errors
/// [`Error::Io`] if no vault runs here.
pub fn ask(state: &Path, order: &Order) -> Result<Answer> {
    let path = socket(state);
    let failed = || Error::io(format!("ask the vault at `{}`", path.display()));
    let stream = UnixStream::connect(&path).map_err(failed())?;
    let mut line = serde_json::to_vec(order).unwrap_or_default();
    line.push(b'\n');
    (&stream).write_all(&line).map_err(failed())?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer).map_err(failed())?;
    serde_json::from_str(&answer).map_err(|error| failed()(error.into()))
}

/// An order and where its answer goes.
#[derive(Debug)]
pub struct Asked {
    /// What.
    pub order: Order,
    /// To whom.
    pub answer: Sender<Answer>,
}

/// Listens until the process ends; orders come out of the returned queue one after the other.
///
/// # Errors
/// [`Error::Io`] if the socket cannot be made.
pub fn listen(state: &Path) -> Result<Receiver<Asked>> {
    let path = socket(state);
    // Whoever has the register's lock is the only vault here, so an old socket is a leftover.
    let _ = fs_err::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(Error::io("make the vault's socket"))?;
    fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .map_err(Error::io("guard the socket"))?;
    let (send, receive) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let send = send.clone();
            std::thread::spawn(move || serve(&stream, &send));
        }
    });
    Ok(receive)
}

fn serve(stream: &UnixStream, send: &Sender<Asked>) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    let mut line = String::new();
    if BufReader::new(stream.take(64 << 10)).read_line(&mut line).is_err() {
        return;
    }
    let answer = match serde_json::from_str(&line) {
        Ok(order) => {
            let (answer, wait) = channel();
            match send.send(Asked { order, answer }) {
                Ok(()) => wait.recv().ok(),
                Err(_) => None,
            }
        }
        Err(error) => Some(Err(Error::Invalid(format!("not an order: {error}"))).into()),
    };
    let Some(answer) = answer else { return };
    let mut bytes = serde_json::to_vec(&answer).unwrap_or_default();
    bytes.push(b'\n');
    let mut stream = stream;
    let _ = stream.write_all(&bytes);
}
