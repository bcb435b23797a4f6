//! Writes each event once for everybody who sees the same of it.

use super::class::{HiddenId, KeysId};
use super::event::{EventBody, Relations, write_object};
use crate::changes::{Cursor, ObjectChange};
use compact_str::CompactString;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use tidings_protocol::live::Event;
use tidings_protocol::{ClassName, Object};

/// What was written for the change at hand.
#[derive(Default)]
pub(super) struct Render {
    images: FxHashMap<(Image, KeysId, HiddenId), Vec<u8>>,
    bodies: FxHashMap<(Event, Parts, KeysId, HiddenId), Arc<EventBody>>,
}

/// What a frame shows as `object` and as `original`.
type Parts = (Image, Option<Image>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Image {
    Before,
    After,
}

/// One change as one view of it is shown.
pub(super) struct Shown<'a> {
    pub(super) class: &'a ClassName,
    pub(super) relations: &'a Relations,
    pub(super) change: &'a ObjectChange,
    /// Right behind the change.
    pub(super) cursor: &'a Cursor,
    pub(super) event: Event,
    /// Whether the ACL of the before-image lets them read it.
    pub(super) reads_before: bool,
    pub(super) reads_after: bool,
    pub(super) keys_id: KeysId,
    pub(super) keys: Option<&'a [CompactString]>,
    pub(super) hidden_id: HiddenId,
    pub(super) hidden: &'a [CompactString],
}

impl Render {
    /// Forgets the last change.
    pub(super) fn begin(&mut self) {
        self.images.clear();
        self.bodies.clear();
    }

    pub(super) fn body(&mut self, shown: &Shown<'_>) -> Arc<EventBody> {
        let (object, original) = match shown.event {
            Event::Create => (Image::After, None),
            // Who was granted access by this change could not read what was there before.
            Event::Enter => (Image::After, shown.reads_before.then_some(Image::Before)),
            Event::Update => (Image::After, Some(Image::Before)),
            // Who lost access gets the last state that they could read, and nothing new.
            Event::Leave if !shown.reads_after => (Image::Before, Some(Image::Before)),
            Event::Leave => (Image::After, Some(Image::Before)),
            Event::Delete => (Image::Before, None),
        };
        let key = (shown.event, (object, original), shown.keys_id, shown.hidden_id);
        if let Some(body) = self.bodies.get(&key) {
            return body.clone();
        }
        for image in [Some(object), original].into_iter().flatten() {
            self.write(image, shown);
        }
        let json =
            |image: Image| self.images.get(&(image, shown.keys_id, shown.hidden_id)).map_or(&[][..], Vec::as_slice);
        let body = EventBody::new(shown.event, &shown.change.id, shown.cursor, json(object), original.map(json));
        self.bodies.insert(key, body.clone());
        body
    }

    fn write(&mut self, image: Image, shown: &Shown<'_>) {
        self.images.entry((image, shown.keys_id, shown.hidden_id)).or_insert_with(|| {
            let object: Option<&Object> = match image {
                Image::Before => shown.change.before.as_deref(),
                Image::After => shown.change.after.as_deref(),
            };
            let mut json = Vec::with_capacity(512);
            if let Some(object) = object {
                write_object(shown.class, object, shown.relations, shown.keys, shown.hidden, &mut json);
            }
            json
        });
    }
}
