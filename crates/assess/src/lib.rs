//! Before anything is installed: what a hospital's own list says about its backups.
//!
//! **In** flow the list of departmental systems as a spreadsheet exports it (CSV in UTF-8 or Shift_JIS,
//! Japanese or English headings, in any order) and a short questionnaire. **Out** come what is uncovered,
//! which offline copies and generations are missing, an order in which the systems come back, and the next
//! three steps; on one page, in Japanese or English.
//!
//! **What can go wrong:** a heading that nobody knows (it is named and left out), a cell that cannot be read
//! (the line is named). An empty cell is *unknown* and never counts as good: somebody has to ask.
//!
//! **Invariant:** does no I/O, changes nothing, and never says 適合: it tells what the list says.

mod error;
mod judge;
mod page;
mod questions;
mod register;

pub use error::{AssessError, Result};
pub use judge::{Assessment, Gap, Step, Verdict, assess};
pub use page::document;
pub use questions::{Answers, QUESTIONS, Question};
pub use register::{Register, Row, decode, parse};
