//! A filter made ready for the engine, and a bound for what its evaluation costs.

use super::super::NewSubscription;
use std::sync::Arc;
use tidings_protocol::matches::Matcher;
use tidings_protocol::query::Constraint;
use tidings_protocol::{Error, Predicate};

/// A subscription with its filter made ready: what takes long is done before it comes to the engine's thread.
pub(in crate::live) struct Prepared {
    pub(in crate::live) new: NewSubscription,
    pub(in crate::live) filter: Arc<[u8]>,
    pub(in crate::live) matcher: Matcher,
    /// How much work its evaluation may be.
    pub(in crate::live) effort: usize,
}

/// What an expression may cost more than a comparison.
const EXPRESSION_EFFORT: usize = 16;

impl Prepared {
    /// # Errors
    /// An expression that cannot be compiled.
    pub(in crate::live) fn new(new: NewSubscription) -> Result<Self, Error> {
        let matcher = Matcher::new(&new.predicate)?;
        let filter = new.predicate.canonical().into();
        let effort = effort(&new.predicate);
        Ok(Self { new, filter, matcher, effort })
    }
}

fn effort(predicate: &Predicate) -> usize {
    match predicate {
        Predicate::And(parts) | Predicate::Or(parts) | Predicate::Nor(parts) => parts.iter().map(effort).sum(),
        Predicate::Field { constraint: Constraint::Matches(_), .. } => EXPRESSION_EFFORT,
        Predicate::Field { constraint: Constraint::AllMatch(expressions), .. } => expressions.len() * EXPRESSION_EFFORT,
        Predicate::Field { constraint: Constraint::All(values), .. } => values.len(),
        Predicate::Field { .. } => 1,
    }
}
