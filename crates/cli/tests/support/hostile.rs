//! A peer that speaks the protocol well enough to break it where it wants.
#![allow(clippy::unwrap_used, reason = "a helper of a test may stop it")]

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use kuramori_agent::{enrol, state::State};
use kuramori_model::{
    clock::{Clock, SeededRandom, SystemClock},
    tree::{Entry, EntryKind, Meta, TreePath},
};
use kuramori_wire::{
    Error, Result,
    frame::{Frame, FrameReader, send},
    identity,
    line::{self, Reader, Writer},
    message::{Begin, Hello, Item, Message, SessionId, Unit, VERSION, Welcome},
    tls::{self, Trust},
    token::Token,
};

/// One connection.
pub(crate) struct Talk {
    pub(crate) reader: FrameReader<Reader>,
    pub(crate) writer: Writer,
    pulse: Option<Pulse>,
}

/// Signs of life on a connection, for a test that is busy elsewhere for longer than the other side bears.
struct Pulse {
    /// A long frame goes out in pieces: none of another one may come between them.
    turn: Arc<Mutex<()>>,
    /// The thread ends when this is gone.
    _over: mpsc::Sender<()>,
}

impl Pulse {
    fn start(mut writer: Writer) -> Self {
        let turn = Arc::new(Mutex::new(()));
        let (over, ended) = mpsc::channel::<()>();
        let shared = turn.clone();
        std::thread::spawn(move || {
            while ended.recv_timeout(Duration::from_secs(5)) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _turn = shared.lock().unwrap();
                if send(&mut writer, &Message::Ping).is_err() {
                    return;
                }
            }
        });
        Self { turn, _over: over }
    }
}

impl Talk {
    fn new(reader: Reader, writer: Writer, chunks: bool) -> Self {
        Self { reader: FrameReader::new(reader, chunks), writer, pulse: None }
    }

    /// As an honest peer does on its control connection, from now on.
    fn alive(mut self) -> Self {
        self.pulse = Some(Pulse::start(self.writer.clone()));
        self
    }

    /// The next frame, or why there is none; signs of life are left out.
    pub(crate) fn hear(&mut self) -> Result<Frame> {
        let mut turns = 0;
        loop {
            let frame = self.reader.read(&mut |came| {
                turns += u32::from(!came);
                if turns > 480 { Err(Error::Silent { seconds: 120 }) } else { Ok(()) }
            })?;
            if frame != Frame::Message(Message::Ping) {
                return Ok(frame);
            }
        }
    }

    pub(crate) fn message(&mut self) -> Message {
        match self.hear() {
            Ok(Frame::Message(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn say(&mut self, message: &Message) {
        let turn = self.pulse.as_ref().map(|pulse| pulse.turn.lock().unwrap());
        send(&mut self.writer, message).unwrap();
        drop(turn);
    }
}

/// An agent with a good certificate and bad manners.
pub(crate) struct BadAgent {
    pub(crate) state: State,
    door: SocketAddr,
}

impl BadAgent {
    pub(crate) fn enrol(door: SocketAddr, token: &str, folder: &Path) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let token = Token::read(token).unwrap();
        enrol::enrol(&door.to_string(), &token, folder, &clock).unwrap();
        Self { state: State::read(folder).unwrap(), door }
    }

    /// Connects with the certificate and says nothing yet.
    pub(crate) fn connect(&self) -> Talk {
        let authorities = identity::certificates(&self.state.authorities).unwrap();
        let config = tls::client(Trust::Authorities(authorities), Some(&self.state.own)).unwrap();
        let (reader, writer, _) = line::connect(TcpStream::connect(self.door).unwrap(), config).unwrap();
        Talk::new(reader, writer, false)
    }

    pub(crate) fn open(&self, first: &Message) -> Talk {
        let mut talk = self.connect();
        talk.say(first);
        talk
    }

    /// The control connection.
    pub(crate) fn hello(&self, start: u8) -> Talk {
        let unit = Unit { name: "files".to_owned(), kind: "files".to_owned() };
        let mut talk = self.open(&Message::Hello(Hello {
            oldest: VERSION,
            newest: VERSION,
            program: "bad".to_owned(),
            now: 0,
            start: [start; 16],
            units: vec![unit],
        }));
        assert!(matches!(talk.message(), Message::Welcome(_)));
        talk.alive()
    }
}

/// An item; `path` may be anything of five bytes, also what no honest agent would write.
pub(crate) fn file_item(path: &str) -> Item {
    let path = TreePath::new(path).unwrap();
    Item::from(&Entry { path, kind: EntryKind::File { size: 3 }, meta: Meta::default() })
}

/// A server with an authority that the agent believes, and bad manners.
pub(crate) struct BadServer {
    pub(crate) address: SocketAddr,
    listener: TcpListener,
    tls: tls::Server,
}

impl BadServer {
    /// Also writes the agent's identity, as an enrolment would.
    pub(crate) fn start(state: &Path) -> Self {
        let random = SeededRandom::new(5);
        let now = SystemClock.now();
        let year = Duration::from_hours(24 * 365);
        let authority = identity::authority(1, now, year, &random).unwrap();
        let own = identity::issue_server(&authority, now, year, &random).unwrap();
        let (key, request) = identity::request("x").unwrap();
        let certificate = identity::issue_agent(&authority, &request, "ward-1", now, year, &random).unwrap();
        let pair = identity::Pair { certificate, key };
        State::new(pair, authority.certificate.clone()).unwrap().write(state).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tls = tls::server(&[(authority.certificate.clone(), own)]).unwrap();
        Self { address: listener.local_addr().unwrap(), listener, tls }
    }

    /// The next connection and its first message.
    pub(crate) fn accept(&self) -> (Talk, Message) {
        let (socket, _) = self.listener.accept().unwrap();
        let (reader, writer, _) = line::accept(socket, &self.tls).unwrap();
        let mut talk = Talk::new(reader, writer, true);
        let first = talk.message();
        (talk, first)
    }

    /// A control connection, greeted.
    pub(crate) fn control(&self) -> Talk {
        let (mut talk, first) = self.accept();
        let Message::Hello(_) = first else { panic!("{first:?}") };
        talk.say(&Message::Welcome(welcome(VERSION)));
        talk.alive()
    }

    /// The main line and the one data line of a session, in whatever order they come.
    pub(crate) fn session(&self) -> (Talk, Talk) {
        let (mut main, mut lane) = (None, None);
        while main.is_none() || lane.is_none() {
            let (talk, first) = self.accept();
            match first {
                Message::Main { .. } => main = Some(talk),
                Message::Lane { .. } => lane = Some(talk),
                other => panic!("{other:?}"),
            }
        }
        (main.unwrap(), lane.unwrap())
    }
}

pub(crate) fn welcome(version: u16) -> Welcome {
    Welcome {
        version,
        name: "ward-1".to_owned(),
        now: SystemClock.now().as_second(),
        authorities: String::new(),
        renew: false,
    }
}

pub(crate) fn begin(number: u8, unit: &str) -> Message {
    let session: SessionId = [number; 16];
    Message::Begin(Begin {
        session,
        unit: unit.to_owned(),
        lanes: 1,
        credit: 1 << 20,
        table: Vec::new(),
        parent: true,
    })
}
