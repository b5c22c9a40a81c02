//! The admin socket's other end: what the command line speaks. Blocking.

use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, body::Bytes, header};
use hyper_util::rt::TokioIo;
use kuramori_model::fault::{Exit, Fault, Kind};
use serde::{Serialize, de::DeserializeOwned};

use crate::admin::Problem;

/// A connection's worth of calls to a running server.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

/// Why a call came back without what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no server answers on `{}`", socket.display())]
    Away {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The server said no, in its own words.
    #[error("{}", .0.title)]
    Refused(Box<Problem>),
    /// The answer was cut off or makes no sense.
    #[error("the server's answer cannot be used: {0}")]
    Broken(String),
}

impl Fault for ClientError {
    fn code(&self) -> &'static str {
        match self {
            Self::Away { .. } => "client.no-server",
            // A command fails once; its code may live as long as the process.
            Self::Refused(problem) => Box::leak(problem.code.clone().into_boxed_str()),
            Self::Broken(_) => "client.broken-answer",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Away { .. } => Kind::Fix,
            Self::Refused(problem) => problem.kind,
            Self::Broken(_) => Kind::Retry,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Away { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Some("run it as the server's user or as root".to_owned())
            }
            Self::Away { .. } => Some(
                "start it with `kuramori server --config FILE`, or name its socket with `--socket`"
                    .to_owned(),
            ),
            Self::Refused(problem) => problem.hint.clone(),
            Self::Broken(_) => None,
        }
    }

    fn exit(&self) -> Exit {
        let Self::Refused(problem) = self else { return Exit::Fix };
        match problem.exit_code {
            0..=1 => Exit::Fix,
            3 => Exit::Partial,
            4 => Exit::Damaged,
            5 => Exit::Refused,
            10 => Exit::NoRepository,
            11 => Exit::Locked,
            12 => Exit::Authentication,
            _ => Exit::Unexpected,
        }
    }
}

impl Client {
    /// Speaks to the server that listens on this socket.
    pub fn new(socket: &Path) -> Result<Self, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| ClientError::Broken(error.to_string()))?;
        Ok(Self { socket: socket.to_owned(), runtime })
    }

    /// Asks for something.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, &())
    }

    /// Asks for something to be done.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.call(Method::POST, path, body)
    }

    /// Replaces something.
    pub fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.call(Method::PUT, path, body)
    }

    /// Removes something.
    pub fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::DELETE, path, &())
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let broken = |error: &dyn std::fmt::Display| ClientError::Broken(error.to_string());
        let body = serde_json::to_vec(body).map_err(|error| broken(&error))?;
        let (status, bytes) = self.runtime.block_on(async {
            let stream = tokio::net::UnixStream::connect(&self.socket)
                .await
                .map_err(|source| ClientError::Away { socket: self.socket.clone(), source })?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|error| broken(&error))?;
            let connection = tokio::spawn(connection);
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(header::HOST, "localhost")
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::new(Bytes::from(body)))
                .map_err(|error| broken(&error))?;
            let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
            let status = response.status();
            let bytes = response.into_body().collect().await.map_err(|error| broken(&error))?.to_bytes();
            connection.abort();
            Ok::<_, ClientError>((status, bytes))
        })?;
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|error| broken(&error));
        }
        match serde_json::from_slice(&bytes) {
            Ok(problem) => Err(ClientError::Refused(Box::new(problem))),
            Err(_) => Err(ClientError::Broken(format!("{status}: {}", String::from_utf8_lossy(&bytes)))),
        }
    }
}
