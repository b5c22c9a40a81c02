//! Checks who asks.
//!
//! A password's check is slow on purpose, so three things keep the door from being blocked: checked
//! credentials are remembered (as a keyed hash that also covers the stored hash, so a changed password is
//! forgotten by itself), only two checks run at a time, and one address can have only so many waiting.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hyper::header::HeaderValue;
use kuramori_model::clock::Random;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::{Login, Logins, password::PasswordHash};

/// Checks that run at the same time: 16 MiB each.
const CHECKS: usize = 2;
/// Checks that one address may have running or waiting.
const WAITING: usize = 32;
/// Credentials that are remembered.
const REMEMBERED: usize = 4096;

/// Somebody came in.
#[derive(Debug)]
pub(crate) struct Entered {
    pub(crate) login: Arc<Login>,
    /// Checked just now, not remembered.
    pub(crate) fresh: bool,
}

/// Why somebody did not come in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoEntry {
    /// No login was given.
    Missing,
    /// Unknown login or wrong password.
    Wrong { name: String },
    /// Too many checks are waiting for this address.
    Busy,
}

#[derive(Debug)]
pub(crate) struct Door {
    logins: Arc<dyn Logins>,
    key: hmac::Key,
    known: Mutex<HashSet<[u8; 32]>>,
    checks: Semaphore,
    waiting: Mutex<HashMap<IpAddr, usize>>,
}

impl Door {
    pub(crate) fn new(logins: Arc<dyn Logins>, random: &dyn Random) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        random.fill(key.as_mut_slice());
        Self {
            logins,
            key: hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()),
            known: Mutex::default(),
            checks: Semaphore::new(CHECKS),
            waiting: Mutex::default(),
        }
    }

    /// Checks an `Authorization` header.
    pub(crate) async fn enter(&self, header: Option<&HeaderValue>, from: IpAddr) -> Result<Entered, NoEntry> {
        let (name, password) = header.and_then(basic).ok_or(NoEntry::Missing)?;
        let login = self.logins.find(&name);
        let tag = login.as_ref().map(|login| self.tag(login, &password));
        if let (Some(login), Some(tag)) = (&login, tag)
            && self.remembers(&tag)
        {
            return Ok(Entered { login: login.clone(), fresh: false });
        }
        let _place = Place::take(&self.waiting, from).ok_or(NoEntry::Busy)?;
        let _turn = self.checks.acquire().await.map_err(|_| NoEntry::Busy)?;
        if let (Some(login), Some(tag)) = (&login, tag)
            && self.remembers(&tag)
        {
            return Ok(Entered { login: login.clone(), fresh: false });
        }
        let hash = login.as_ref().map_or_else(PasswordHash::nobody, |login| login.password.clone());
        let right = tokio::task::spawn_blocking(move || hash.verify(&password)).await.unwrap_or(false);
        match (login, tag) {
            (Some(login), Some(tag)) if right => {
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                if known.len() >= REMEMBERED {
                    known.clear();
                }
                known.insert(tag);
                Ok(Entered { login, fresh: true })
            }
            _ => Err(NoEntry::Wrong { name: name.chars().take(64).collect() }),
        }
    }

    fn remembers(&self, tag: &[u8; 32]) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(tag)
    }

    fn tag(&self, login: &Login, password: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [login.name.as_str(), &login.password.to_string(), password] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part.as_bytes());
        }
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }
}

/// One of an address's places in the queue.
struct Place<'a> {
    waiting: &'a Mutex<HashMap<IpAddr, usize>>,
    from: IpAddr,
}

impl<'a> Place<'a> {
    fn take(waiting: &'a Mutex<HashMap<IpAddr, usize>>, from: IpAddr) -> Option<Self> {
        let mut places = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let count = places.entry(from).or_default();
        if *count >= WAITING {
            return None;
        }
        *count += 1;
        Some(Self { waiting, from })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut places = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = places.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                places.remove(&self.from);
            }
        }
    }
}

fn basic(header: &HeaderValue) -> Option<(String, Zeroizing<String>)> {
    let (scheme, text) = header.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || text.len() > 1024 {
        return None;
    }
    let decoded = Zeroizing::new(String::from_utf8(BASE64.decode(text.trim()).ok()?).ok()?);
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), Zeroizing::new(password.to_owned())))
}

#[cfg(test)]
mod tests {
    use kuramori_model::clock::SeededRandom;

    use super::*;
    use crate::{MemoryLogins, Repositories, Role};

    fn header(name: &str, password: &str) -> HeaderValue {
        HeaderValue::from_str(&format!("Basic {}", BASE64.encode(format!("{name}:{password}")))).unwrap()
    }

    #[tokio::test]
    async fn remembers_only_what_was_right() {
        let random = SeededRandom::new(5);
        let login = Login {
            name: "vault".to_owned(),
            password: PasswordHash::new("a:b", &random),
            role: Role::Read { repositories: Repositories::All },
        };
        let door = Door::new(Arc::new(MemoryLogins::new([login])), &random);
        let from = IpAddr::from([127, 0, 0, 1]);
        let wrong = |name: &str| NoEntry::Wrong { name: name.to_owned() };
        assert_eq!(door.enter(None, from).await.unwrap_err(), NoEntry::Missing);
        assert_eq!(
            door.enter(Some(&HeaderValue::from_static("Bearer x")), from).await.unwrap_err(),
            NoEntry::Missing
        );
        for _ in 0..2 {
            assert_eq!(door.enter(Some(&header("vault", "a")), from).await.unwrap_err(), wrong("vault"));
            assert_eq!(door.enter(Some(&header("nobody", "")), from).await.unwrap_err(), wrong("nobody"));
        }
        assert!(door.enter(Some(&header("vault", "a:b")), from).await.unwrap().fresh);
        assert!(!door.enter(Some(&header("vault", "a:b")), from).await.unwrap().fresh);
        assert!(door.waiting.lock().unwrap().is_empty());
    }
}
