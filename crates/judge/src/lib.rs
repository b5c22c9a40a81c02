//! Was every backup really taken, is it what it claims to be, and what may be removed?
//!
//! **In** flow recorded facts: what each run read ([`facts::RunFacts`]), when the receiver committed which
//! point, how far a running job is, when the scheduler and the vault were last heard. **Out** come
//! [`Finding`](kuramori_model::finding::Finding)s (code, system, severity, figures, evidence, next action),
//! the times at which jobs are due ([`schedule`]), and a plan of removals ([`retention`]).
//!
//! **What can go wrong** is a judge that cries wolf until nobody listens, or one that sleeps through an
//! empty dump. Both are measured by a seeded simulation of system-nights (`tests/nights.rs`). Facts that a
//! source cannot know are `None` and are never guessed.
//!
//! **Invariant:** pure. No I/O, no clock is read: the caller says what time it is. Order and age come from
//! the receiver, never from what the sender claims.

pub mod calendar;
pub mod expect;
pub mod facts;
pub mod foreign;
pub mod history;
pub mod night;
pub mod platform;
pub mod retention;
pub mod schedule;
