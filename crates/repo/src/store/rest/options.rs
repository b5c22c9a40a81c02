//! How a REST client behaves.

use std::{fmt::Debug, sync::Arc, time::Duration};

use kuramori_model::clock::{Clock, SystemClock};
use reqwest::{Certificate, Url, blocking::Client, redirect::Policy};
use zeroize::Zeroizing;

use crate::{Cancel, Error, Result};

/// Longest pause between two looks at [`Cancel`] while waiting.
const LOOK: Duration = Duration::from_millis(100);
/// Kept connections that are idle; one per thread that works at the same time.
const KEPT: usize = 32;

/// Slows transfers down: a bandwidth limit by network, time or window.
pub trait Brake: Debug + Send + Sync {
    /// Called after each piece of so many bytes was moved, on the thread that moves it; waits as long as
    /// the limit asks for.
    fn pass(&self, bytes: u64);
}

/// Slows nothing down.
#[derive(Debug, Clone, Copy, Default)]
pub struct FreeRun;

impl Brake for FreeRun {
    fn pass(&self, _: u64) {}
}

/// How a REST client behaves.
#[derive(Debug, Clone)]
pub struct RestOptions {
    /// The authority to trust, PEM. With it no other is trusted; without it the system's are.
    pub root: Option<Vec<u8>>,
    /// The login's password, if the address has none.
    pub password: Option<Zeroizing<String>>,
    /// How often a request is sent before it counts as failed; at least once.
    pub tries: u32,
    /// Time for a connection with its TLS handshake.
    pub connect: Duration,
    /// Longest time without a byte or an answer.
    pub stall: Duration,
    /// Slowest upload that is waited for, in bytes per second.
    pub floor: u64,
    /// Slows transfers down.
    pub brake: Arc<dyn Brake>,
    /// Stops everything.
    pub cancel: Cancel,
    /// Waits between tries.
    pub clock: Arc<dyn Clock>,
}

impl Default for RestOptions {
    fn default() -> Self {
        Self {
            root: None,
            password: None,
            tries: 8,
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            floor: 64 << 10,
            brake: Arc::new(FreeRun),
            cancel: Cancel::default(),
            clock: Arc::new(SystemClock),
        }
    }
}

impl RestOptions {
    /// The HTTP client. No proxy and no redirect: the login goes to the one server that was named.
    pub(super) fn client(&self, base: &Url) -> Result<Client> {
        let wrong = |what: String| Error::Invalid {
            what,
            hint: "give the certificate authority of the REST server as a PEM file".to_owned(),
        };
        let mut client = Client::builder()
            .user_agent(concat!("kuramori/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .no_proxy()
            .redirect(Policy::none())
            .referer(false)
            .https_only(base.scheme() == "https")
            .connect_timeout(self.connect)
            .timeout(self.stall)
            // Shorter than the server keeps them, so a request does not meet a closing door.
            .pool_idle_timeout(Duration::from_secs(45))
            .pool_max_idle_per_host(KEPT);
        if let Some(root) = &self.root {
            let roots = Certificate::from_pem_bundle(root)
                .map_err(|error| wrong(format!("the certificate authority cannot be read: {error}")))?;
            if roots.is_empty() {
                return Err(wrong("the file of the certificate authority holds no certificate".to_owned()));
            }
            client = client.tls_certs_only(roots);
        }
        client.build().map_err(|error| wrong(format!("the HTTPS client cannot be made: {error}")))
    }

    /// Waits, unless the work is cancelled.
    pub(super) fn rest(&self, time: Duration) -> Result<()> {
        let mut left = time;
        while !left.is_zero() {
            self.cancel.check()?;
            let step = left.min(LOOK);
            self.clock.sleep(step);
            left -= step;
        }
        self.cancel.check()
    }
}

/// Whether a connection failed because the server's certificate is not to be trusted.
pub(super) fn untrusted(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(this) = cause {
        if this.to_string().contains("invalid peer certificate") {
            return true;
        }
        // An I/O error keeps what is inside it out of the chain of sources.
        cause = this.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref).map_or_else(
            || this.source(),
            |inside| {
                let inside: &(dyn std::error::Error + 'static) = inside;
                Some(inside)
            },
        );
    }
    false
}
