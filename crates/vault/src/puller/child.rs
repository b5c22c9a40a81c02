//! The puller's process: reads [`Ask`] lines, speaks HTTPS, writes frames.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    time::Duration,
};

use reqwest::{
    StatusCode,
    blocking::{Body, Client, Response},
    header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, RANGE},
};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{
    Deserialize,
    de::{SeqAccess, Visitor},
};

use super::{Ask, ENTRY, FRAME, Failure, LINE, Meet, What};

/// restic's list with sizes; the answer must have exactly this type.
const V2: &str = "application/vnd.x.restic.rest.v2";
/// A list of repositories is never longer than this.
const NAMES: u64 = 64 << 10;
/// A process that a server has taken over cannot take more memory than this.
const MEMORY: u64 = 2 << 30;

/// Runs until standard input ends. The body of `kuramori vault puller`.
///
/// # Errors
/// Only if standard output breaks: then the vault is gone.
pub fn run() -> io::Result<()> {
    let _ = setrlimit(Resource::As, Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) });
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = rustix::thread::set_no_new_privs(true);
    std::thread::spawn(die_with_the_vault);
    let mut input = BufReader::with_capacity(FRAME, io::stdin().lock());
    let mut output = Frames { out: io::stdout().lock(), buffer: Vec::with_capacity(FRAME + 5) };
    let mut met = None;
    loop {
        let mut line = String::new();
        if (&mut input).take(LINE).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let outcome = match serde_json::from_str(&line) {
            Ok(Ask::Meet(meet)) => Met::new(*meet).map(|new| met = Some(new)),
            Ok(ask) => match &met {
                Some(met) => met.answer(ask, &mut input, &mut output),
                None => {
                    Err(Failure { what: What::Request, text: "nobody to speak with yet".to_owned() }.into())
                }
            },
            Err(error) => Err(Failure { what: What::Request, text: error.to_string() }.into()),
        };
        match outcome {
            Ok(()) => output.frame(b'.', &[])?,
            Err(Stop::Failed(failure)) => output.frame(b'!', &serde_json::to_vec(&failure)?)?,
            Err(Stop::Gone(error)) => return Err(error),
        }
    }
}

/// Ends the process when the vault's end of the pipe is gone, also in the middle of a transfer.
#[expect(clippy::exit, reason = "this thread's one purpose")]
fn die_with_the_vault() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let stdin = io::stdin();
    loop {
        let mut watched = [PollFd::new(&stdin, PollFlags::empty())];
        let pause = Timespec { tv_sec: 1, tv_nsec: 0 };
        let _ = poll(&mut watched, Some(&pause));
        if watched[0].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            std::process::exit(0);
        }
    }
}

enum Stop {
    /// The request failed; the next one may work.
    Failed(Failure),
    /// Nobody listens any more.
    Gone(io::Error),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<reqwest::Error> for Stop {
    fn from(error: reqwest::Error) -> Self {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        let what = if error.is_redirect() || error.is_decode() { What::Misbehaved } else { What::Network };
        Self::Failed(Failure { what, text })
    }
}

fn failed(what: What, text: impl Into<String>) -> Stop {
    Stop::Failed(Failure { what, text: text.into() })
}

struct Frames<W> {
    out: W,
    buffer: Vec<u8>,
}

impl<W: Write> Frames<W> {
    fn frame(&mut self, tag: u8, payload: &[u8]) -> io::Result<()> {
        self.buffer.clear();
        self.buffer.push(tag);
        self.buffer.extend(u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.buffer.extend(payload);
        self.out.write_all(&self.buffer)?;
        self.out.flush()
    }

    fn send(&mut self, tag: u8, payload: &[u8]) -> Result<(), Stop> {
        self.frame(tag, payload).map_err(Stop::Gone)
    }
}

struct Met {
    client: Client,
    meet: Meet,
}

impl Met {
    fn new(meet: Meet) -> Result<Self, Stop> {
        let ca = reqwest::Certificate::from_pem(meet.ca.as_bytes())?;
        let client = Client::builder()
            .tls_certs_only([ca])
            .https_only(true)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .resolve(&meet.name, meet.address)
            .connect_timeout(Duration::from_secs(meet.connect_s))
            // The vault measures each transfer itself; this only ends what it has given up.
            .timeout(None::<Duration>)
            .tcp_user_timeout(Duration::from_secs(meet.stall_s))
            .tcp_nodelay(true)
            .build()?;
        Ok(Self { client, meet })
    }

    fn answer(
        &self,
        ask: Ask,
        input: &mut impl BufRead,
        output: &mut Frames<impl Write>,
    ) -> Result<(), Stop> {
        match ask {
            Ask::Meet(_) => Ok(()),
            Ask::Repositories {} => {
                let mut text = Vec::new();
                let response = self.get("", None, 0)?;
                response.take(NAMES).read_to_end(&mut text).map_err(broke)?;
                // Only the form is checked here; the vault checks each name.
                let names: Vec<String> = serde_json::from_slice(&text).map_err(|_| {
                    failed(What::Misbehaved, "sent no list of repositories, or a too long one")
                })?;
                output.send(b'n', &serde_json::to_vec(&names).unwrap_or_default())
            }
            Ask::List { repository, kind, most } => {
                let response = self.get(&format!("{repository}/{kind}/"), Some(V2), 0)?;
                if response.headers().get(CONTENT_TYPE).is_none_or(|form| form != V2) {
                    return Err(failed(What::Misbehaved, "sent a list without sizes"));
                }
                list(response, most, output)
            }
            Ask::Fetch { path, offset, most } => {
                let mut response = self.get(&path, None, offset)?;
                let mut buffer = vec![0; FRAME];
                let mut left = most;
                while left > 0 {
                    let step = usize::try_from(left).unwrap_or(FRAME).min(FRAME);
                    let read = response.read(&mut buffer[..step]).map_err(broke)?;
                    if read == 0 {
                        break;
                    }
                    output.send(b'd', &buffer[..read])?;
                    left -= read as u64;
                }
                Ok(())
            }
            Ask::Create { repository } => {
                let url = format!("{}{repository}/?create=true", self.meet.base);
                let response =
                    self.client.post(url).basic_auth(&self.meet.login, Some(&self.meet.password)).send()?;
                expect(&response, StatusCode::OK)
            }
            Ask::Put { path, size } => self.put(&path, size, input),
        }
    }

    fn get(&self, path: &str, accept: Option<&'static str>, offset: u64) -> Result<Response, Stop> {
        let mut request = self
            .client
            .get(format!("{}{path}", self.meet.base))
            .basic_auth(&self.meet.login, Some(&self.meet.password));
        if let Some(accept) = accept {
            request = request.header(ACCEPT, accept);
        }
        if offset > 0 {
            request = request.header(RANGE, format!("bytes={offset}-"));
        }
        let response = request.send()?;
        if offset == 0 {
            expect(&response, StatusCode::OK)?;
        } else {
            expect(&response, StatusCode::PARTIAL_CONTENT)?;
            let begins = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
            if !begins.is_some_and(|range| range.starts_with(&format!("bytes {offset}-"))) {
                return Err(failed(What::Misbehaved, "sent another part than it was asked for"));
            }
        }
        Ok(response)
    }

    /// The body comes from our own standard input, which has to be read to the end of the file whatever the
    /// server does: what is left of it would be taken for the next request.
    fn put(&self, path: &str, size: u64, input: &mut impl BufRead) -> Result<(), Stop> {
        let (send, receive) = std::sync::mpsc::sync_channel::<Vec<u8>>(4);
        let body = Body::sized(Pieces { receive, now: io::Cursor::new(Vec::new()) }, size);
        let url = format!("{}{path}", self.meet.base);
        let request =
            self.client.post(url).basic_auth(&self.meet.login, Some(&self.meet.password)).body(body);
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| request.send());
            let mut left = size;
            let mut listening = true;
            while left > 0 {
                let step = usize::try_from(left).unwrap_or(FRAME).min(FRAME);
                let mut piece = vec![0; step];
                input.read_exact(&mut piece).map_err(Stop::Gone)?;
                listening = listening && send.send(piece).is_ok();
                left -= step as u64;
            }
            drop(send);
            let response =
                sending.join().map_err(|_| failed(What::Request, "the upload's thread ended"))??;
            expect(&response, StatusCode::OK)
        })
    }
}

struct Pieces {
    receive: std::sync::mpsc::Receiver<Vec<u8>>,
    now: io::Cursor<Vec<u8>>,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.now.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            match self.receive.recv() {
                Ok(piece) => self.now = io::Cursor::new(piece),
                Err(_) => return Ok(0),
            }
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form that `map_err` wants")]
fn broke(error: io::Error) -> Stop {
    failed(What::Network, error.to_string())
}

fn expect(response: &Response, expected: StatusCode) -> Result<(), Stop> {
    let status = response.status();
    let text = format!("answered {status} for {}", response.url().path());
    match status {
        _ if status == expected => Ok(()),
        StatusCode::NOT_FOUND => Err(failed(What::Missing, response.url().path())),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(failed(What::Refused, text)),
        _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            Err(failed(What::Network, text))
        }
        _ => Err(failed(What::Misbehaved, text)),
    }
}

/// Passes a list on entry by entry, in little memory however long it is.
fn list(response: Response, most: u64, output: &mut Frames<impl Write>) -> Result<(), Stop> {
    struct Each<'a, W> {
        output: &'a mut Frames<W>,
        pending: Vec<u8>,
        left: u64,
        stop: Option<Stop>,
    }

    impl<'de, W: Write> Visitor<'de> for &mut Each<'_, W> {
        type Value = ();

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list of names and sizes")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
            use serde::de::Error;
            while let Some(entry) = sequence.next_element::<Entry>()? {
                if self.left == 0 {
                    self.stop = Some(failed(What::Misbehaved, "sent an endless list"));
                    return Err(A::Error::custom("too many"));
                }
                self.left -= 1;
                self.pending.extend(entry.name.0);
                self.pending.extend(entry.size.to_le_bytes());
                if self.pending.len() + ENTRY > FRAME {
                    if let Err(stop) = self.output.send(b'l', &self.pending) {
                        self.stop = Some(stop);
                        return Err(A::Error::custom("gone"));
                    }
                    self.pending.clear();
                }
            }
            Ok(())
        }
    }

    let mut each = Each { output, pending: Vec::with_capacity(FRAME), left: most, stop: None };
    // An entry has about 90 bytes; a list cannot be longer than its entries allow.
    let reader =
        BufReader::with_capacity(FRAME, response.take(most.saturating_mul(160).saturating_add(1 << 16)));
    let mut parser = serde_json::Deserializer::from_reader(reader);
    let parsed = serde::Deserializer::deserialize_seq(&mut parser, &mut each).and_then(|()| parser.end());
    let Each { output, pending, stop, .. } = each;
    match (parsed, stop) {
        (_, Some(stop)) => Err(stop),
        (Err(error), None) if error.is_io() => Err(failed(What::Network, error.to_string())),
        (Err(error), None) => Err(failed(What::Misbehaved, format!("sent a list that is none: {error}"))),
        (Ok(()), None) => output.send(b'l', &pending),
    }
}

#[derive(Deserialize)]
struct Entry {
    name: kuramori_repo::store::FileId,
    size: u64,
}
