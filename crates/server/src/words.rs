//! Findings in words.

use jiff::tz::TimeZone;
use kuramori_model::finding::Finding;

use crate::lang::Catalogue;

/// A finding's sentence and its next action.
pub(crate) fn finding(finding: &Finding, _: &Catalogue, _: &TimeZone) -> (String, String) {
    (finding.code.clone(), finding.action.clone())
}
