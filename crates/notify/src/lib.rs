//! Telling people: what was found, in their language, until somebody's mail server has taken it.
//!
//! ```text
//! findings that opened, grew louder or are gone ──▶ Notice ──route──▶ (target, notice) ──▶ the caller's
//! durable outbox ──deliver──▶ SMTP server   │ failed: next_try() says when again
//! ```
//! **In** flow notices with their findings; **out** come mails in Japanese and English that name the system
//! and the next action. A notice has a stable id, and so has its mail: if a crash sends it twice, the mail
//! program shows one, and the recovery appears below the alarm that it ends.
//!
//! **What can go wrong:** the server is away, refuses the address, has a certificate of an unknown CA. Every
//! case is a typed error with its code; the caller keeps the notice and tries again. That nobody can be told
//! is itself a finding ([`speechless`]), as is silence: the daily mail is missed when it does not come.
//!
//! **Invariant:** decides nothing about what is wrong; knows no database; every figure of a notice is the
//! finding's.

mod config;
mod error;
mod letter;
mod notice;
mod route;
mod smtp;
mod speech;
mod words;

pub use crate::{
    config::{Language, Login, Matcher, Notify, Security, Smtp, Target},
    error::NotifyError,
    letter::{Letter, compose},
    notice::{Item, Notice, Occasion},
    route::{Outgoing, next_try, route},
    smtp::deliver,
    speech::{TargetState, speechless},
    words::{Words, dash},
};
