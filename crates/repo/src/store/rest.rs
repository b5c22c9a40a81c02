//! A repository on a REST server: restic's protocol over HTTPS, as `kuramori repo serve` and rest-server
//! speak it.
//!
//! One client with one pool of kept connections serves any number of threads. What may pass is tried again
//! with growing pauses: a connection that broke, a time-out, 408, 429 and every 5xx but 507. What will not
//! pass ends at once: 401 and 403 (login), 404 (missing), 416 (truncated), 507 (full).
//!
//! - A part of a file is taken only if the answer says that it is exactly that part, and has its length.
//! - An upload whose answer was lost is sent again. A server that knows the file then says yes; one that
//!   refuses every name that exists (rest-server) is asked for the bytes, and the same bytes are a success.
//! - A download goes on at the byte where it broke ([`RestStore::fetch_to`]).
//! - A list is read while it comes and never held.
//!
//! Every piece of data passes the [`Brake`] and the [`Cancel`] of the options.
//!
//! The client blocks and has a thread of its own: it must not be made, used or dropped on a thread of an
//! async runtime, except where that may block.

mod address;
mod exchange;
mod listing;
mod options;
mod transfer;

use std::io::{self, Write};

use reqwest::{
    Method, StatusCode, Url,
    blocking::{Client, RequestBuilder},
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, RANGE},
};
use zeroize::Zeroizing;

pub use options::{Brake, FreeRun, RestOptions};

use self::{
    exchange::{Trouble, again},
    transfer::Taken,
};
use super::{FileId, FileKind, Payload, Store};
use crate::{Error, Result, error::file_name};

/// The form of lists with sizes.
const V2: &str = "application/vnd.x.restic.rest.v2";

/// A repository's files on a REST server.
#[derive(Debug)]
pub struct RestStore {
    client: Client,
    base: Url,
    login: Option<Login>,
    options: RestOptions,
}

struct Login {
    name: String,
    password: Zeroizing<String>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl RestStore {
    /// Reads the address and makes the client; nothing is sent yet.
    ///
    /// `url` is `rest:https://login:password@host:port/repository/`, the `rest:` may be left out. Plain
    /// `http` is taken only to the machine itself, since a login would travel in clear.
    pub fn new(url: &str, options: RestOptions) -> Result<Self> {
        let (base, login) = address::read(url, &options)?;
        let client = options.client(&base)?;
        Ok(Self { client, base, login, options })
    }

    /// The names of the repositories that this login sees, if the address is that of a server
    /// (`https://login:password@host:port/`) and not of one repository. Only `kuramori repo serve` can say.
    pub fn repositories(&self) -> Result<Vec<String>> {
        let listed = self.tries("list the repositories", |_| {
            let response = self.send(self.request(Method::GET, self.base.clone()))?;
            if response.status() != StatusCode::OK {
                return Err(self.unfit(&response, FileKind::Config, FileId::ZERO, "list the repositories"));
            }
            self.take_all(response, 1 << 20, "list the repositories")
        })?;
        let names: Vec<String> =
            serde_json::from_slice(&listed).map_err(|error| self.remote(error, "list the repositories"))?;
        let fits = |name: &String| {
            (1..=64).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
        };
        if let Some(bad) = names.iter().find(|name| !fits(name)) {
            let why = format!("`{}` cannot be a repository's name", bad.chars().take(80).collect::<String>());
            return Err(self.remote(why, "list the repositories"));
        }
        Ok(names)
    }

    /// Writes a file to `out`, from the byte `offset` to its end, and gives the number of bytes written.
    ///
    /// A connection that breaks is taken up again at the byte where it broke. After an error `out` holds
    /// the bytes up to there, and a later call with the right `offset` goes on. An `offset` at the file's
    /// end writes nothing; one beyond it is [`Error::Damaged`]. The caller checks the hash.
    pub fn fetch_to(&self, kind: FileKind, id: FileId, out: &mut dyn Write, offset: u64) -> Result<u64> {
        let action = format!("give `{}`", file_name(kind, id));
        let mut taken = Taken { position: offset, size: None };
        loop {
            let before = taken.position;
            // Each try that brought something on is followed by a full number of tries again.
            match self.tries(&action, |_| self.fetch_once(kind, id, out, &mut taken, &action)) {
                Ok(()) => return Ok(taken.position - offset),
                Err(Error::Remote { retry: true, .. }) if taken.position > before => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn url(&self, kind: FileKind, id: FileId) -> Result<Url> {
        let path =
            if kind == FileKind::Config { "config".to_owned() } else { format!("{}/{id}", kind.folder()) };
        self.base.join(&path).map_err(|error| self.remote(error, "take the address"))
    }

    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.client.request(method, url);
        match &self.login {
            Some(login) => request.basic_auth(&login.name, Some(login.password.as_str())),
            None => request,
        }
    }
}

impl Store for RestStore {
    fn place(&self) -> String {
        format!("rest:{}", self.base)
    }

    fn create(&self) -> Result<()> {
        let mut url = self.base.clone();
        url.set_query(Some("create=true"));
        self.tries("make the repository", |_| {
            let response = self.send(self.request(Method::POST, url.clone()))?;
            if response.status().is_success() {
                return Ok(());
            }
            Err(self.unfit(&response, FileKind::Config, FileId::ZERO, "make the repository"))
        })
    }

    fn list(&self, kind: FileKind, each: &mut dyn FnMut(FileId, u64) -> Result<()>) -> Result<()> {
        if kind == FileKind::Config {
            return Ok(());
        }
        let action = format!("list `{kind}`");
        let url =
            self.base.join(&format!("{}/", kind.folder())).map_err(|error| self.remote(error, &action))?;
        let mut begun = false;
        self.tries(&action, |_| {
            let response = self.send(self.request(Method::GET, url.clone()).header(ACCEPT, V2))?;
            match response.status() {
                StatusCode::NOT_FOUND => return Ok(()),
                StatusCode::OK => {}
                _ => return Err(self.unfit(&response, kind, FileId::ZERO, &action)),
            }
            if response.headers().get(CONTENT_TYPE).is_none_or(|form| form != V2) {
                return Err(self.remote("it knows no lists with sizes", &action).into());
            }
            let read = listing::read(response, &mut |id, size| {
                begun = true;
                self.options.cancel.check()?;
                each(id, size)
            });
            read.map_err(|trouble| match trouble {
                // A name was handed on already; once more would hand it on twice.
                Trouble::Again(source) if begun => Trouble::Final(Error::Remote {
                    place: self.place(),
                    action: action.clone(),
                    source,
                    retry: true,
                }),
                other => other,
            })
        })
    }

    fn size(&self, kind: FileKind, id: FileId) -> Result<u64> {
        let action = format!("tell the size of `{}`", file_name(kind, id));
        let url = self.url(kind, id)?;
        self.tries(&action, |_| {
            let response = self.send(self.request(Method::HEAD, url.clone()))?;
            if response.status() != StatusCode::OK {
                return Err(self.unfit(&response, kind, id, &action));
            }
            number(response.headers(), CONTENT_LENGTH.as_str())
                .ok_or_else(|| self.remote("it does not say the length", &action).into())
        })
    }

    fn read(&self, kind: FileKind, id: FileId, limit: u64) -> Result<Vec<u8>> {
        let action = format!("give `{}`", file_name(kind, id));
        let url = self.url(kind, id)?;
        self.tries(&action, |_| {
            let response = self.send(self.request(Method::GET, url.clone()))?;
            if response.status() != StatusCode::OK {
                return Err(self.unfit(&response, kind, id, &action));
            }
            if response.content_length().is_some_and(|size| size > limit) {
                return Err(Error::damaged(kind, id, format!("it is larger than {limit} bytes")).into());
            }
            self.take_all(response, limit, &action)
        })
    }

    fn read_range(&self, kind: FileKind, id: FileId, offset: u64, len: u32) -> Result<Vec<u8>> {
        if len == 0 {
            return Ok(Vec::new());
        }
        let action = format!("give a part of `{}`", file_name(kind, id));
        let url = self.url(kind, id)?;
        let last = offset.saturating_add(u64::from(len) - 1);
        self.tries(&action, |_| {
            let asked =
                self.request(Method::GET, url.clone()).header(RANGE, format!("bytes={offset}-{last}"));
            let response = self.send(asked)?;
            let truncated = |size: u64| {
                let why = format!("it ends at byte {size}, before byte {last} that was asked for");
                Trouble::Final(Error::damaged(kind, id, why))
            };
            match response.status() {
                StatusCode::PARTIAL_CONTENT => {}
                StatusCode::RANGE_NOT_SATISFIABLE => {
                    return Err(truncated(transfer::total(response.headers()).unwrap_or(0)));
                }
                StatusCode::OK => {
                    return Err(self.remote("it sends more than was asked for", &action).into());
                }
                _ => return Err(self.unfit(&response, kind, id, &action)),
            }
            match transfer::range(response.headers()) {
                Some((first, end, _)) if (first, end) == (offset, last) => {}
                Some((first, end, size)) if first == offset && end < last && end + 1 == size => {
                    return Err(truncated(size));
                }
                _ => {
                    let got = response.headers().get(CONTENT_RANGE).map(|range| format!("{range:?}"));
                    let why = format!("asked for bytes {offset}-{last} it sends {}", got.unwrap_or_default());
                    return Err(self.remote(why, &action).into());
                }
            }
            let bytes = self.take_all(response, u64::from(len), &action)?;
            if bytes.len() as u64 == u64::from(len) {
                Ok(bytes)
            } else {
                Err(again(io::Error::from(io::ErrorKind::UnexpectedEof)))
            }
        })
    }

    fn write(&self, kind: FileKind, id: FileId, payload: Payload<'_>) -> Result<()> {
        let action = format!("store `{}`", file_name(kind, id));
        let response = self.tries(&action, |_| self.upload_once(kind, id, payload, &action))?;
        if response.status().is_success() {
            return Ok(());
        }
        // Refused: because the name is taken, or because of the login. The stored bytes decide.
        match transfer::same(self, kind, id, payload) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Exists { file: file_name(kind, id) }),
            Err(Error::Missing { .. } | Error::Login { .. }) => {
                Err(Error::Login { place: self.place(), action })
            }
            Err(error) => Err(error),
        }
    }

    fn remove(&self, kind: FileKind, id: FileId) -> Result<()> {
        let action = format!("delete `{}`", file_name(kind, id));
        let url = self.url(kind, id)?;
        self.tries(&action, |_| {
            let response = self.send(self.request(Method::DELETE, url.clone()))?;
            match response.status() {
                StatusCode::NOT_FOUND => Ok(()),
                status if status.is_success() => Ok(()),
                _ => Err(self.unfit(&response, kind, id, &action)),
            }
        })
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}
