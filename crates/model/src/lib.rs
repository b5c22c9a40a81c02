//! The words of the house: what every other room talks about, without doing anything.
//!
//! Nothing flows through this crate. It holds the types that two or more rooms share: ids, units, times,
//! protection classes, the entries of a source's tree, the errors' contract, and the messages between the
//! vault, the gate and its observer. What can go wrong here is a value that must not exist; the
//! constructors refuse it.
//!
//! **Invariant:** no I/O. The one exception, on purpose, is [`clock`]: the machine's clock and random
//! source are read there and nowhere else.

pub mod approval;
pub mod binlog;
pub mod blocks;
pub mod class;
pub mod clock;
pub mod fault;
pub mod finding;
pub mod foreign;
pub mod gate;
pub mod ids;
pub mod lock;
pub mod sizing;
pub mod tree;
pub mod units;
pub mod wal;
