//! What a change is to one subscriber: a pure table.

use tidings_protocol::live::Event;

/// How one subscriber stands to one image of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// There is no such image: before a create, after a delete.
    Absent,
    /// The object exists; the filter does not match, or the subscriber may not read it.
    Hidden,
    /// The filter matches and the subscriber may read it.
    Visible,
}

/// The event for a subscriber who stood so to the before-image and stands so to the after-image.
///
/// Losing the right to read is a `leave` and gaining it an `enter`, with no rule of their own.
pub(super) fn transition(before: Sight, after: Sight) -> Option<Event> {
    match (before, after) {
        (Sight::Visible, Sight::Visible) => Some(Event::Update),
        (Sight::Visible, Sight::Hidden) => Some(Event::Leave),
        (Sight::Visible, Sight::Absent) => Some(Event::Delete),
        (Sight::Hidden, Sight::Visible) => Some(Event::Enter),
        (Sight::Absent, Sight::Visible) => Some(Event::Create),
        (Sight::Hidden | Sight::Absent, Sight::Hidden | Sight::Absent) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_sights() {
        use Sight::{Absent, Hidden, Visible};
        for (before, after, event) in [
            (Absent, Absent, None),
            (Absent, Hidden, None),
            (Absent, Visible, Some(Event::Create)),
            (Hidden, Absent, None),
            (Hidden, Hidden, None),
            (Hidden, Visible, Some(Event::Enter)),
            (Visible, Absent, Some(Event::Delete)),
            (Visible, Hidden, Some(Event::Leave)),
            (Visible, Visible, Some(Event::Update)),
        ] {
            assert_eq!(transition(before, after), event, "{before:?} {after:?}");
        }
    }
}
