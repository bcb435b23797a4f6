//! What a subscription has missed: the events behind a point of the change log, as if it had been there.
//!
//! Runs on the runtime, a slice of the log at a time, while the engine goes on; what comes meanwhile is held for the
//! subscription and follows. Where the log cannot tell exactly what was missed it says so, and the subscription starts
//! afresh: history that is gone or too long, a class whose permissions or columns have changed on the way, changes that
//! came without their images.
//!
//! Nothing is sent that may not be read *now*, although it could be read then: of an object that was lost on the way,
//! the client hears that it left, with the state that it knows.

use super::event::{EventBody, Relations};
use super::reads::{ReadAnswer, Reply, Ticket, is_own_row};
use super::render::{Render, Shown};
use super::transition::{Seen, is_watched, seen};
use crate::changes::{
    Change, ChangeSource, ChangeTail, Committed, Cursor, ObjectChange, Point, Position, Read, SourceError,
};
use crate::permissions::Principals;
use crate::schema::ClassSchema;
use compact_str::CompactString;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use tidings_protocol::live::Event;
use tidings_protocol::matches::Matcher;
use tidings_protocol::{Access, ClassName, Code, Error, ObjectId, Predicate};

/// What one subscription wants to know of the log.
#[derive(Clone, Debug)]
pub(super) struct ReplayRequest {
    pub(super) ticket: Ticket,
    pub(super) timeline: CompactString,
    /// What is behind this was missed.
    pub(super) from: Point,
    /// Everything up to here is wanted; what is behind it is held for the subscription.
    pub(super) until: Position,
    pub(super) interest: Interest,
    pub(super) bounds: Bounds,
}

/// What the subscription asks for, and with which rights.
#[derive(Clone, Debug)]
pub(super) struct Interest {
    pub(super) class: ClassName,
    /// As they are now, not as of each event: find shows old objects so, too.
    pub(super) relations: Relations,
    pub(super) predicate: Arc<Predicate>,
    /// Top-level fields that the filter names.
    pub(super) fields: Vec<CompactString>,
    pub(super) principals: Principals,
    pub(super) keys: Option<Arc<[CompactString]>>,
    pub(super) watch: Option<Arc<[CompactString]>>,
    pub(super) hidden: Arc<[CompactString]>,
}

/// How much may be looked at, and found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) changes: usize,
    pub(super) log_bytes: usize,
    pub(super) event_bytes: usize,
}

/// How much of the log is read at a time.
const SLICE_CHANGES: usize = 1_000;
const SLICE_BYTES: usize = 1 << 20;

/// The log does not tell what was missed.
#[derive(Debug, PartialEq)]
struct Untold;

impl ReplayRequest {
    pub(super) async fn answer(self, tail: &ChangeTail, source: &dyn ChangeSource) -> ReadAnswer {
        let ticket = self.ticket;
        let outcome = self.run(tail, source).await.map_err(|error| match error {
            SourceError::Gone => None,
            SourceError::Unavailable(reason) => Some(reason),
        });
        let outcome = match outcome {
            Ok(reply) => Ok(reply),
            Err(None) => Ok(Reply::Untold),
            Err(Some(reason)) => {
                tracing::error!(reason, "cannot read what a live query has missed");
                Err(Error::new(Code::InternalServerError, "Internal server error."))
            }
        };
        ReadAnswer { ticket, outcome }
    }

    async fn run(self, tail: &ChangeTail, source: &dyn ChangeSource) -> Result<Reply, SourceError> {
        let (from, until) = (self.from, self.until);
        let mut at = from.whole();
        // This process may not have heard of it yet; but somebody must have committed it.
        if at > tail.newest() {
            if at > source.newest().await? {
                return Ok(Reply::Untold);
            }
            // Whatever is read for this client from here on must be no older.
            tail.reached(at);
        }
        let Ok(mut scan) = Scan::new(self) else { return Ok(Reply::Untold) };
        loop {
            let slice = match tail.read_after(at, SLICE_CHANGES) {
                Read::Changes(changes) => changes,
                Read::Behind => source.read_after(at, SLICE_BYTES).await?,
            };
            let Some(last) = slice.last() else { break };
            at = last.position;
            for committed in slice.iter().filter(|committed| committed.point() > from) {
                if scan.take(committed) == Err(Untold) {
                    return Ok(Reply::Untold);
                }
            }
            if at >= until {
                break;
            }
            tokio::task::yield_now().await;
        }
        Ok(Reply::Missed { through: at.max(until), events: scan.finish() })
    }
}

/// The events found so far.
struct Scan {
    request: ReplayRequest,
    matcher: Matcher,
    render: Render,
    events: Vec<Arc<EventBody>>,
    objects: FxHashMap<ObjectId, Followed>,
    changes: usize,
    log_bytes: usize,
    event_bytes: usize,
}

/// An object that events were found of.
struct Followed {
    /// Which ones.
    events: Vec<usize>,
    /// Whether its last image seen may be read.
    is_readable: bool,
}

impl Scan {
    fn new(request: ReplayRequest) -> Result<Self, Error> {
        Ok(Self {
            matcher: Matcher::new(&request.interest.predicate)?,
            request,
            render: Render::default(),
            events: Vec::new(),
            objects: FxHashMap::default(),
            changes: 0,
            log_bytes: 0,
            event_bytes: 0,
        })
    }

    fn take(&mut self, committed: &Committed) -> Result<(), Untold> {
        let bounds = self.request.bounds;
        self.changes += 1;
        self.log_bytes += committed.weight();
        match &committed.change {
            Change::Object(change) if change.class == self.request.interest.class => {
                self.take_object(change, committed.point());
            }
            Change::Schema { class, before, schema } if *class == self.request.interest.class => {
                self.request.interest.outlives(before.as_deref(), schema.as_deref())?;
            }
            Change::Unseen { class, .. } if *class == self.request.interest.class => return Err(Untold),
            Change::Object(_) | Change::Schema { .. } | Change::Unseen { .. } => {}
        }
        let is_too_much =
            self.changes > bounds.changes || self.log_bytes > bounds.log_bytes || self.event_bytes > bounds.event_bytes;
        if is_too_much { Err(Untold) } else { Ok(()) }
    }

    fn take_object(&mut self, change: &ObjectChange, point: Point) {
        let interest = &self.request.interest;
        let who = &interest.principals;
        if let Some(followed) = self.objects.get_mut(&change.id) {
            followed.is_readable = is_readable(change, who);
        }
        let matches = |image: &Option<_>| image.as_deref().is_some_and(|object| self.matcher.matches(object));
        let (matched_before, matched_after) = (matches(&change.before), matches(&change.after));
        let Some(Seen { event, reads_before, reads_after }) = seen(change, matched_before, matched_after, who) else {
            return;
        };
        let image = change.before.as_deref().or(change.after.as_deref());
        let owns = image.is_some_and(|object| is_own_row(&interest.class, object, who));
        let hidden = if owns { &[][..] } else { &interest.hidden };
        if interest.watch.as_ref().is_some_and(|watch| !is_watched(change, event, watch, hidden)) {
            return;
        }
        self.render.begin();
        let body = self.render.body(&Shown {
            class: &interest.class,
            relations: &interest.relations,
            change,
            cursor: &Cursor::at(self.request.timeline.clone(), point),
            event,
            reads_before,
            reads_after,
            keys_id: 0,
            keys: interest.keys.as_deref(),
            hidden_id: 0,
            hidden,
        });
        let is_readable = is_readable(change, who);
        let followed = self.objects.entry(change.id.clone()).or_insert(Followed { events: Vec::new(), is_readable });
        followed.events.push(self.events.len());
        self.event_bytes += body.weight();
        self.events.push(body);
    }

    /// All events, without what may not be read any more.
    fn finish(mut self) -> Vec<Arc<EventBody>> {
        let mut is_withdrawn = vec![false; self.events.len()];
        for Followed { events, .. } in self.objects.values().filter(|followed| !followed.is_readable) {
            let (Some(&first), Some(&last)) = (events.first(), events.last()) else { continue };
            for &at in events {
                is_withdrawn[at] = true;
            }
            let known = match &self.events[first] {
                body if matches!(body.event, Event::Create | Event::Enter) => continue,
                body => body.clone(),
            };
            let image = known.original().unwrap_or_else(|| known.object());
            self.events[last] = self.events[last].instead(Event::Leave, image, Some(image));
            is_withdrawn[last] = false;
        }
        let mut withdrawn = is_withdrawn.into_iter();
        self.events.retain(|_| !withdrawn.next().unwrap_or_default());
        self.events
    }
}

/// The last that there is of an object.
fn is_readable(change: &ObjectChange, who: &Principals) -> bool {
    let image = change.after.as_deref().or(change.before.as_deref());
    image.is_some_and(|object| who.may(Access::Read, object.acl.as_ref()))
}

impl Interest {
    /// Whether events before and after this change of the class can be told by the same rules.
    fn outlives(&self, before: Option<&ClassSchema>, after: Option<&ClassSchema>) -> Result<(), Untold> {
        // There is no class yet, or no more: then everything is as in a new one.
        let unmade = ClassSchema::new(self.class.clone());
        let permits_the_same = before.unwrap_or(&unmade).permissions == after.unwrap_or(&unmade).permissions;
        // Values of removed columns go without a change of their objects.
        let gone = before.map(|before| before.fields_gone_from(after)).unwrap_or_default();
        let asks_for_gone = self.fields.iter().any(|field| gone.contains(field));
        if permits_the_same && !asks_for_gone { Ok(()) } else { Err(Untold) }
    }
}
