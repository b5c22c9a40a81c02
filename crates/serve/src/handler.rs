//! One request: who asks, may they, do it, tell.

mod put;

use std::{io, net::SocketAddr, sync::Arc};

use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::Incoming,
    header::{
        ACCEPT, ACCEPT_RANGES, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE,
    },
};

use crate::{
    Config, Kind, Login, Outcome, RepositoryName, Role, ServeError, Verb,
    connection::Intake,
    content::{self, Part},
    door::{Door, NoEntry},
    listing,
    name::{File, Target},
    policy,
    reply::{Pieces, Reply, Report, plain, text},
    shelf::Shelf,
    usage::Usage,
};

/// Body that is still read after an upload was refused, so that the client hears why.
const DRAIN: u64 = 256 << 20;

const OCTETS: &str = "application/octet-stream";

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) config: Config,
    pub(crate) shelf: Shelf,
    door: Door,
    usage: Usage,
}

impl Server {
    pub(crate) fn open(config: Config) -> Result<Self, ServeError> {
        let shelf = Shelf::open(&config.root, config.mode)?;
        let door = Door::new(config.logins.clone(), &*config.random);
        let usage = Usage::new(config.clock.clone());
        Ok(Self { config, shelf, door, usage })
    }

    fn report(&self, peer: SocketAddr, verb: Verb) -> Report {
        let mut report = Report::about(&self.config.watch, &self.config.clock, verb);
        report.event.peer = Some(peer);
        report
    }

    /// Tells about a connection that came to no request.
    pub(crate) fn connection_event(&self, peer: SocketAddr, outcome: Outcome) {
        self.report(peer, Verb::Connect).send(outcome, 0);
    }

    /// Answers one request. Never fails: what goes wrong becomes an answer and an event.
    pub(crate) async fn handle(
        self: Arc<Self>,
        peer: SocketAddr,
        request: Request<Incoming>,
    ) -> Response<Reply> {
        let login = match self.enter(peer, &request).await {
            Ok(login) => login,
            Err(response) => return response,
        };
        let target = Target::parse(request.uri().path());
        let verb = target
            .as_ref()
            .map_or(Verb::Other, |target| policy::verb(request.method(), target, request.uri().query()));
        let mut report = self.report(peer, verb);
        report.event.login = Some(login.name.clone());
        let Some(target) = target else {
            return self
                .turn_away(request, report, StatusCode::BAD_REQUEST, "not a path of this protocol")
                .await;
        };
        report.event.repository = target.repository().cloned();
        let file = target.file();
        report.event.kind = match &target {
            Target::Folder(_, kind) => Some(*kind),
            _ => file.map(File::kind),
        };
        report.event.name = file.and_then(File::name);
        if verb == Verb::Other {
            return self
                .turn_away(request, report, StatusCode::METHOD_NOT_ALLOWED, "not of this protocol")
                .await;
        }
        if !policy::allowed(self.config.mode, &login.role, verb, &target) {
            return self
                .turn_away(request, report, StatusCode::FORBIDDEN, "this login may not do that")
                .await;
        }
        if verb == Verb::Put
            && let Some(file) = file
        {
            // A task of its own: if the client goes away after its last byte, the file is stored, counted and
            // told of all the same.
            let server = self.clone();
            let put = tokio::spawn(async move { server.put(request, report, &login, file).await });
            return put.await.unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR));
        }
        let blocking = self.clone();
        let answer = tokio::task::spawn_blocking(move || {
            blocking.answer(verb, &target, &login, request.headers(), report)
        })
        .await;
        answer.unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR))
    }

    async fn enter(
        &self,
        peer: SocketAddr,
        request: &Request<Incoming>,
    ) -> Result<Arc<Login>, Response<Reply>> {
        match self.door.enter(request.headers().get(AUTHORIZATION), peer.ip()).await {
            Ok(entered) => {
                if entered.fresh {
                    let mut report = self.report(peer, Verb::Login);
                    report.event.login = Some(entered.login.name.clone());
                    report.send(Outcome::Done, 0);
                }
                Ok(entered.login)
            }
            Err(NoEntry::Busy) => {
                self.report(peer, Verb::Login).send(Outcome::Busy, 0);
                Err(text(StatusCode::TOO_MANY_REQUESTS, "too many logins are being checked"))
            }
            Err(no) => {
                let mut report = self.report(peer, Verb::Login);
                if let NoEntry::Wrong { name } = no {
                    report.event.login = Some(name);
                }
                report.send(Outcome::Unauthorised, 0);
                let mut response = text(StatusCode::UNAUTHORIZED, "login needed");
                let scheme = HeaderValue::from_static("Basic realm=\"kuramori\", charset=\"UTF-8\"");
                response.headers_mut().insert(hyper::header::WWW_AUTHENTICATE, scheme);
                Err(response)
            }
        }
    }

    /// Refuses, after the rest of the body was read, so that the client hears it.
    async fn turn_away(
        &self,
        request: Request<Incoming>,
        report: Report,
        status: StatusCode,
        why: &str,
    ) -> Response<Reply> {
        let outcome = if status == StatusCode::FORBIDDEN { Outcome::Refused } else { Outcome::Bad };
        report.send(outcome, 0);
        let limits = self.config.limits;
        Intake::new(request.into_body(), limits.stall, limits.floor, 0).drain(DRAIN).await;
        text(status, why)
    }

    /// Everything but uploads; blocks on the disk.
    fn answer(
        &self,
        verb: Verb,
        target: &Target,
        login: &Login,
        headers: &HeaderMap,
        report: Report,
    ) -> Response<Reply> {
        match (verb, target) {
            (Verb::Repositories, _) => self.repositories(login, report),
            (Verb::Create, Target::Repository(repository)) => match self.shelf.create(repository) {
                Ok(()) => report.done(plain(StatusCode::OK)),
                Err(error) => failed(&error, report),
            },
            (Verb::List, Target::Folder(repository, kind)) => self.list(repository, *kind, headers, report),
            (Verb::Head, Target::File(repository, file)) => match self.shelf.read(repository, *file) {
                Ok((_, size)) => report.done(size_only(size)),
                Err(error) => failed(&error, report),
            },
            (Verb::Get, Target::File(repository, file)) => match self.shelf.read(repository, *file) {
                Ok((file, size)) => send(file, size, headers.get(RANGE), report),
                Err(error) => failed(&error, report),
            },
            (Verb::Delete, Target::File(repository, File::Named(Kind::Locks, name))) => {
                match self.shelf.delete_lock(repository, *name) {
                    Ok(Some(size)) => {
                        self.usage.removed(repository, size);
                        report.done(plain(StatusCode::OK))
                    }
                    Ok(None) => {
                        report.send(Outcome::Missing, 0);
                        plain(StatusCode::OK)
                    }
                    Err(error) => failed(&error, report),
                }
            }
            // The policy lets nothing else through; should it ever, it ends here.
            _ => {
                report.send(Outcome::Refused, 0);
                plain(StatusCode::FORBIDDEN)
            }
        }
    }

    fn list(
        &self,
        repository: &RepositoryName,
        kind: Kind,
        headers: &HeaderMap,
        report: Report,
    ) -> Response<Reply> {
        let folder = self.shelf.repository(repository);
        if !folder.is_dir() {
            return failed(&io::ErrorKind::NotFound.into(), report);
        }
        let sizes = headers.get(ACCEPT).is_some_and(|accept| accept == listing::V2);
        let queue = listing::pieces(&folder.join(kind.folder()), kind, sizes);
        let mut response = Response::new(Reply::Pieces(Pieces::new(queue, None, report)));
        let form = HeaderValue::from_static(if sizes { listing::V2 } else { listing::V1 });
        response.headers_mut().insert(CONTENT_TYPE, form);
        response
    }

    fn repositories(&self, login: &Login, report: Report) -> Response<Reply> {
        let mut names = match self.shelf.repositories() {
            Ok(names) => names,
            Err(error) => return failed(&error, report),
        };
        if let Role::Read { repositories } = &login.role {
            names.retain(|name| repositories.contains(name));
        }
        let list = serde_json::to_vec(&names).unwrap_or_default();
        report.send(Outcome::Done, list.len() as u64);
        let mut response = Response::new(Reply::Text(Some(list.into())));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

/// The answer to `HEAD`.
fn size_only(size: u64) -> Response<Reply> {
    let mut response = plain(StatusCode::OK);
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(size));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OCTETS));
    response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

/// Sends a file or a part of it.
fn send(file: fs_err::File, size: u64, range: Option<&HeaderValue>, report: Report) -> Response<Reply> {
    let (status, start, length) = match content::part(range, size) {
        Part::Outside => {
            report.send(Outcome::Bad, 0);
            let mut response = text(StatusCode::RANGE_NOT_SATISFIABLE, "nothing of this range exists");
            if let Ok(range) = HeaderValue::from_str(&format!("bytes */{size}")) {
                response.headers_mut().insert(CONTENT_RANGE, range);
            }
            return response;
        }
        Part::Whole => (StatusCode::OK, 0, size),
        Part::Range(start, length) => (StatusCode::PARTIAL_CONTENT, start, length),
    };
    let queue = content::pieces(file, start, length);
    let mut response = Response::new(Reply::Pieces(Pieces::new(queue, Some(length), report)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(OCTETS));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if status == StatusCode::PARTIAL_CONTENT
        && let Ok(range) = HeaderValue::from_str(&format!("bytes {start}-{}/{size}", start + length - 1))
    {
        headers.insert(CONTENT_RANGE, range);
    }
    response
}

fn failed(error: &io::Error, report: Report) -> Response<Reply> {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            report.send(Outcome::Missing, 0);
            plain(StatusCode::NOT_FOUND)
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            report.send(Outcome::Full, 0);
            text(StatusCode::INSUFFICIENT_STORAGE, "the disk is full")
        }
        _ => {
            report.send(Outcome::Failed(error.to_string()), 0);
            text(StatusCode::INTERNAL_SERVER_ERROR, "the disk failed")
        }
    }
}
