//! The engine from outside: against golden bytes, against Debian's `restic`, against damage.

mod backup;
mod common;
mod damage;
mod foreign;
mod format;
mod keys;
mod locks;
mod reading;
mod store;
