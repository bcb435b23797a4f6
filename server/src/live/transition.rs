//! What a change is to one subscriber: a pure table, and who sees what of the two images.

use crate::changes::ObjectChange;
use crate::permissions::Principals;
use compact_str::CompactString;
use tidings_protocol::live::Event;
use tidings_protocol::update::top_level;
use tidings_protocol::{Access, Object};

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

/// What somebody is told of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) event: Event,
    /// Whether the ACL of the before-image lets them read it.
    pub(super) reads_before: bool,
    pub(super) reads_after: bool,
}

/// What a change is to these principals, whose filter matches its images or not.
pub(super) fn seen(change: &ObjectChange, matched_before: bool, matched_after: bool, who: &Principals) -> Option<Seen> {
    let may_read = |image: Option<&Object>| image.is_some_and(|object| who.may(Access::Read, object.acl.as_ref()));
    let (before, after) = (change.before.as_deref(), change.after.as_deref());
    let (reads_before, reads_after) = (may_read(before), may_read(after));
    let sight = |exists: bool, visible: bool| match (exists, visible) {
        (false, _) => Sight::Absent,
        (true, true) => Sight::Visible,
        (true, false) => Sight::Hidden,
    };
    let saw = sight(before.is_some(), matched_before && reads_before);
    let sees = sight(after.is_some(), matched_after && reads_after);
    Some(Seen { event: transition(saw, sees)?, reads_before, reads_after })
}

/// Whether who watches these fields hears of the event: one of them differs; on a create, one is there. What is hidden
/// is not watched.
pub(super) fn is_watched(
    change: &ObjectChange,
    event: Event,
    watch: &[CompactString],
    hidden: &[CompactString],
) -> bool {
    if !matches!(event, Event::Create | Event::Update) {
        return true;
    }
    watch.iter().filter(|path| !hidden.iter().any(|field| field == top_level(path))).any(|path| {
        let values = |object: Option<&Object>| {
            let mut values = Vec::new();
            if let Some(object) = object {
                tidings_protocol::query::visit_path(object, path, &mut |found| {
                    values.extend(found.value.cloned());
                    false
                });
            }
            values
        };
        values(change.before.as_deref()) != values(change.after.as_deref())
    })
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
