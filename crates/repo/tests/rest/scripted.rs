//! A server that answers as the test says: plain HTTP on the machine itself, one thread per connection.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, atomic::AtomicBool, atomic::Ordering},
};

use kuramori_model::clock::ManualClock;
use kuramori_repo::store::{RestOptions, RestStore};

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// What the test lets the server do.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// Status, further header lines, body.
    Say(u16, Vec<String>, Vec<u8>),
    /// The same, but the connection ends after so many bytes of the body.
    Cut(u16, Vec<String>, Vec<u8>, usize),
    /// The connection ends without an answer.
    Silence,
}

pub(crate) fn say(status: u16) -> Answer {
    Answer::Say(status, Vec::new(), Vec::new())
}

type Script = dyn Fn(usize, &Asked) -> Answer + Send + Sync;

pub(crate) struct Scripted {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    ending: Arc<AtomicBool>,
    accepting: Option<std::thread::JoinHandle<()>>,
}

impl Scripted {
    /// The script gets the number of the request, from 0, and the request.
    pub(crate) fn new(script: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let ending = Arc::new(AtomicBool::new(false));
        let script: Arc<Script> = Arc::new(script);
        let accepting = {
            let (asked, ending) = (asked.clone(), ending.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if ending.load(Ordering::SeqCst) {
                        return;
                    }
                    let (asked, script) = (asked.clone(), script.clone());
                    std::thread::spawn(move || serve(&stream.unwrap(), &asked, &*script));
                }
            })
        };
        Self { address, asked, ending, accepting: Some(accepting) }
    }

    /// A client whose pauses take no time.
    pub(crate) fn store(&self) -> RestStore {
        self.store_with(RestOptions { tries: 4, clock: clock(), ..RestOptions::default() })
    }

    pub(crate) fn store_with(&self, options: RestOptions) -> RestStore {
        RestStore::new(&format!("rest:http://pacs:geheim@{}/pacs/", self.address), options).unwrap()
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new("2026-01-01T00:00:00Z".parse().unwrap()))
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let _ = self.accepting.take().unwrap().join();
    }
}

fn serve(stream: &TcpStream, asked: &Mutex<Vec<Asked>>, script: &Script) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        let number = {
            let mut asked = asked.lock().unwrap();
            asked.push(request.clone());
            asked.len() - 1
        };
        let (status, headers, body, cut) = match script(number, &request) {
            Answer::Say(status, headers, body) => (status, headers, body, None),
            Answer::Cut(status, headers, body, cut) => (status, headers, body, Some(cut)),
            Answer::Silence => return,
        };
        let mut head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n", body.len());
        for line in headers {
            head += &line;
            head += "\r\n";
        }
        let sent = if request.method == "HEAD" { &[][..] } else { &body[..cut.unwrap_or(body.len())] };
        let mut writer = stream;
        let wrote = writer.write_all(format!("{head}\r\n").as_bytes()).and_then(|()| writer.write_all(sent));
        if wrote.is_err() || cut.is_some() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<&TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut parts = line.split_whitespace();
    let (method, path) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    let mut request = Asked { method, path, range: None, authorization: None, body: Vec::new() };
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "range" => request.range = Some(value.to_owned()),
            "authorization" => request.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    request.body = vec![0; length];
    reader.read_exact(&mut request.body).ok()?;
    Some(request)
}
