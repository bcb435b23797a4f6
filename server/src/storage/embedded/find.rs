//! Answering a selection: objects come along the planned path, are asked again whether they match and may be read, and
//! go into a page, a bounded heap, a count or a set of values.

use super::catalog::ClassState;
use super::keys::Sequence;
use super::planner::{Access, Direction, IndexAccess, plan};
use super::scan::{Entries, Entry, Merged, Rows};
use super::view::{Row, View};
use crate::permissions::Principals;
use crate::storage::distinct::Distinct;
use crate::storage::{Explanation, Selection, Unavailable};
use rustc_hash::FxHashSet;
use std::collections::BinaryHeap;
use std::sync::Arc;
use tidings_protocol::matches::Matcher;
use tidings_protocol::order::write_sort_key;
use tidings_protocol::query::Order;
use tidings_protocol::{Object, ObjectId, Predicate, Value};

/// A find that takes longer than this many steps leaves the async worker to others: about two milliseconds.
const INLINE_STEPS: u64 = 1_000;
/// A long read makes room for others after so many steps: some tens of milliseconds.
const LONG_STEPS: u64 = 20_000;
/// Rows that an index finds are fetched one by one, which costs several times what a row costs a scan. An index path
/// that has looked at a quarter of the class, and at this many, gives up and lets a scan do the rest.
const PATIENCE: u64 = 2_000;

pub(super) struct Found {
    pub(super) objects: Vec<Arc<Object>>,
    pub(super) explanation: Explanation,
}

pub(super) async fn find(view: &View, selection: &Selection) -> Result<Found, Unavailable> {
    let nothing = Explanation { index: Vec::new(), ordered_by_index: false, examined: 0, returned: 0 };
    let empty = Found { objects: Vec::new(), explanation: nothing };
    let Some(class) = view.class(&selection.class).filter(|_| selection.limit > 0) else { return Ok(empty) };
    let mut access = plan(class, selection, |access| measure(view, access));
    loop {
        let explanation = explained(&access);
        let comes_sorted = match &access {
            Access::Ids(_) => false,
            Access::Index(access) => access.order.is_some() || selection.order.is_empty(),
            Access::Scan => selection.order.is_empty(),
        };
        let source = Source::new(view, class, access, &selection.order, false)?;
        let sink = if comes_sorted { Sink::page(selection) } else { Sink::sorted(selection) };
        let mut run = Run::new(view, class, selection, source, sink)?;
        if run.finish().await? {
            let objects = run.sink.into_objects(selection.skip);
            let returned = objects.len() as u64;
            return Ok(Found { objects, explanation: Explanation { examined: run.examined, returned, ..explanation } });
        }
        access = Access::Scan;
    }
}

pub(super) async fn count(view: &View, selection: &Selection) -> Result<u64, Unavailable> {
    let Some(class) = view.class(&selection.class) else { return Ok(0) };
    if selection.reader.master && selection.predicate == Predicate::everything() {
        return Ok(view.published.count(class));
    }
    Ok(in_any_order(view, class, selection, || Sink::Count(0)).await?.counted())
}

pub(super) async fn distinct(
    view: &View,
    selection: &Selection,
    field: &str,
) -> Result<Option<Vec<Value>>, Unavailable> {
    let Some(class) = view.class(&selection.class) else { return Ok(Some(Vec::new())) };
    let sink = in_any_order(view, class, selection, || Sink::Distinct(Distinct::of(field))).await?;
    Ok(sink.into_values())
}

/// Where all objects of a selection went. Their order does not matter, and must not choose the path.
async fn in_any_order(
    view: &View,
    class: &Arc<ClassState>,
    selection: &Selection,
    sink: impl Fn() -> Sink,
) -> Result<Sink, Unavailable> {
    let selection = Selection { order: Vec::new(), ..selection.clone() };
    let mut access = plan(class, &selection, |access| measure(view, access));
    loop {
        let source = Source::new(view, class, access, &[], true)?;
        let mut run = Run::new(view, class, &selection, source, sink())?;
        if run.finish().await? {
            return Ok(run.sink);
        }
        access = Access::Scan;
    }
}

/// How many entries a path would read, as far as it is worth knowing.
fn measure(view: &View, access: &IndexAccess) -> usize {
    const ENOUGH: usize = 64;
    let entries = access.ranges.iter().flat_map(|range| Entries::new(view, range, Direction::Forward));
    entries.take(ENOUGH).count()
}

fn explained(access: &Access) -> Explanation {
    let (index, ordered_by_index) = match access {
        Access::Ids(_) => (vec!["objectId".into()], false),
        Access::Index(access) => (access.fields.clone(), access.order.is_some()),
        Access::Scan => (Vec::new(), false),
    };
    Explanation { index, ordered_by_index, examined: 0, returned: 0 }
}

/// One way along a path, under way.
struct Run<'a> {
    view: &'a View,
    class: &'a Arc<ClassState>,
    matcher: Matcher,
    reader: &'a Principals,
    source: Source,
    sink: Sink,
    steps: u64,
    examined: u64,
    /// After so many steps a path through an index gives up.
    patience: u64,
}

enum Outcome {
    Done,
    GaveUp,
    /// The steps that were granted are used up.
    Paused,
}

impl<'a> Run<'a> {
    fn new(
        view: &'a View,
        class: &'a Arc<ClassState>,
        selection: &'a Selection,
        source: Source,
        sink: Sink,
    ) -> Result<Self, Unavailable> {
        // Whoever read the predicate compiled its expressions once already.
        let matcher = Matcher::new(&selection.predicate).map_err(|error| Unavailable(error.to_string()))?;
        let patience = match source {
            Source::Rows(_) | Source::Ids(_) => u64::MAX,
            Source::InOrder(_) | Source::Collect { .. } | Source::Any { .. } => {
                PATIENCE.max(view.published.count(class) / 4)
            }
        };
        Ok(Self { view, class, matcher, reader: &selection.reader, source, sink, steps: 0, examined: 0, patience })
    }

    /// Runs to the end. False if the path gave up. A long run waits for its turn: of many at a time each would only take
    /// longer, and all of them a thread.
    async fn finish(&mut self) -> Result<bool, Unavailable> {
        let outcome = match self.advance(INLINE_STEPS)? {
            Outcome::Paused => {
                metrics::counter!("tidings_store_long_reads_total").increment(1);
                let view = self.view;
                loop {
                    // Never closed, so always granted; in the order of asking.
                    let _turn = view.files.long_reads.acquire().await;
                    let until = self.steps + LONG_STEPS;
                    match aside(|| self.advance(until))? {
                        Outcome::Paused => {}
                        outcome => break outcome,
                    }
                }
            }
            outcome => outcome,
        };
        Ok(matches!(outcome, Outcome::Done))
    }

    fn advance(&mut self, until: u64) -> Result<Outcome, Unavailable> {
        while self.steps < until {
            if self.steps >= self.patience {
                return Ok(Outcome::GaveUp);
            }
            self.steps += 1;
            let keeps = self.steps <= INLINE_STEPS;
            match self.source.step(self.view, self.class, keeps)? {
                Step::Row((sequence, object)) => {
                    self.examined += 1;
                    let may = self.reader.may(tidings_protocol::Access::Read, object.acl.as_ref());
                    if may && self.matcher.matches(&object) && self.sink.take(sequence, object) {
                        return Ok(Outcome::Done);
                    }
                }
                Step::Nothing => {}
                Step::End => return Ok(Outcome::Done),
                Step::GiveUp => return Ok(Outcome::GaveUp),
            }
        }
        Ok(Outcome::Paused)
    }
}

/// Runs what takes long so that an async worker's other tasks move elsewhere; plainly where there is no such worker.
fn aside<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

enum Step {
    Row(Row),
    /// Work was done, but there is no object yet.
    Nothing,
    End,
    /// This path cannot give what it promised.
    GiveUp,
}

/// Where objects come from.
enum Source {
    Ids(std::vec::IntoIter<ObjectId>),
    Rows(Box<Rows>),
    /// An index that gives the order.
    InOrder(Merged),
    /// An index for a selection without an order: its entries are collected first, then read as they were created.
    Collect {
        ranges: Ranges,
        collected: Vec<Entry>,
        sorted: bool,
    },
    /// An index for whoever sorts or counts anyway.
    Any {
        ranges: Ranges,
        seen: Option<FxHashSet<Sequence>>,
    },
}

impl Source {
    fn new(
        view: &View,
        class: &Arc<ClassState>,
        access: Access,
        order: &[Order],
        counts: bool,
    ) -> Result<Self, Unavailable> {
        Ok(match access {
            Access::Ids(mut ids) => {
                ids.sort_unstable();
                ids.dedup();
                Self::Ids(ids.into_iter())
            }
            Access::Scan => Self::Rows(Box::new(Rows::new(view, class, 0))),
            Access::Index(access) => match access.order {
                Some(direction) => Self::InOrder(Merged::new(view, &access, direction)?),
                None if order.is_empty() && !counts => {
                    Self::Collect { ranges: Ranges::new(access), collected: Vec::new(), sorted: false }
                }
                None => {
                    let repeats = access.repeats;
                    Self::Any { ranges: Ranges::new(access), seen: repeats.then(FxHashSet::default) }
                }
            },
        })
    }

    fn step(&mut self, view: &View, class: &ClassState, keeps: bool) -> Result<Step, Unavailable> {
        match self {
            Self::Ids(ids) => {
                let Some(id) = ids.next() else { return Ok(Step::End) };
                Ok(view.row(class, &id)?.map_or(Step::Nothing, Step::Row))
            }
            Self::Rows(rows) => Ok(rows.next()?.map_or(Step::End, Step::Row)),
            Self::InOrder(entries) => match entries.next()? {
                None => Ok(Step::End),
                Some(entry) if entry.is_cut() => Ok(Step::GiveUp),
                Some(entry) => fetch(view, class, &entry, keeps),
            },
            Self::Any { ranges, seen } => match ranges.next(view)? {
                None => Ok(Step::End),
                Some(entry) if seen.as_mut().is_some_and(|seen| !seen.insert(entry.sequence())) => Ok(Step::Nothing),
                Some(entry) => fetch(view, class, &entry, keeps),
            },
            Self::Collect { ranges, collected, sorted } => {
                if !*sorted {
                    if let Some(entry) = ranges.next(view)? {
                        collected.push(entry);
                        return Ok(Step::Nothing);
                    }
                    // Taken from the end.
                    collected.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.sequence()));
                    collected.dedup_by_key(|entry| entry.sequence());
                    *sorted = true;
                }
                match collected.pop() {
                    None => Ok(Step::End),
                    Some(entry) => fetch(view, class, &entry, keeps),
                }
            }
        }
    }
}

fn fetch(view: &View, class: &ClassState, entry: &Entry, keeps: bool) -> Result<Step, Unavailable> {
    let sequence = entry.sequence();
    let object = view.row_of_entry(class, sequence, entry.id()?, keeps)?;
    debug_assert!(object.is_some(), "an index entry without its row");
    Ok(object.map_or(Step::Nothing, |object| Step::Row((sequence, object))))
}

/// The ranges of a path, one after the other.
struct Ranges {
    access: IndexAccess,
    next: usize,
    open: Option<Entries>,
}

impl Ranges {
    fn new(access: IndexAccess) -> Self {
        Self { access, next: 0, open: None }
    }

    fn next(&mut self, view: &View) -> Result<Option<Entry>, Unavailable> {
        loop {
            if let Some(open) = &mut self.open
                && let Some(entry) = open.next()
            {
                return entry.map(Some);
            }
            let Some(range) = self.access.ranges.get(self.next) else { return Ok(None) };
            self.next += 1;
            self.open = Some(Entries::new(view, range, Direction::Forward));
        }
    }
}

/// Where objects go.
enum Sink {
    /// They come in order: skip some, keep the page.
    Page {
        skip: u64,
        room: u64,
        objects: Vec<Arc<Object>>,
    },
    /// They come in any order: keep the first ones by sort key. The heap's top is the last of them.
    Sorted {
        order: Vec<Order>,
        keep: usize,
        heap: BinaryHeap<Keyed>,
        scratch: Vec<u8>,
    },
    Count(u64),
    Distinct(Distinct),
}

struct Keyed {
    key: Vec<u8>,
    object: Arc<Object>,
}

impl Ord for Keyed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

impl PartialOrd for Keyed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Keyed {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Keyed {}

impl Sink {
    fn page(selection: &Selection) -> Self {
        Self::Page { skip: selection.skip, room: selection.limit, objects: Vec::new() }
    }

    fn sorted(selection: &Selection) -> Self {
        let keep = usize::try_from(selection.skip.saturating_add(selection.limit)).unwrap_or(usize::MAX);
        Self::Sorted { order: selection.order.clone(), keep, heap: BinaryHeap::new(), scratch: Vec::new() }
    }

    /// True when no further object is needed.
    fn take(&mut self, sequence: Sequence, object: Arc<Object>) -> bool {
        match self {
            Self::Page { skip, .. } if *skip > 0 => {
                *skip -= 1;
                false
            }
            Self::Page { room, objects, .. } => {
                objects.push(object);
                *room -= 1;
                *room == 0
            }
            Self::Sorted { order, keep, heap, scratch } => {
                scratch.clear();
                if order.is_empty() {
                    scratch.extend_from_slice(&sequence.to_be_bytes());
                } else {
                    write_sort_key(&object, order, scratch);
                }
                if heap.len() < *keep {
                    heap.push(Keyed { key: scratch.clone(), object });
                } else if let Some(mut last) = heap.peek_mut()
                    && *scratch < last.key
                {
                    last.key.clone_from(scratch);
                    last.object = object;
                }
                false
            }
            Self::Count(count) => {
                *count += 1;
                false
            }
            Self::Distinct(distinct) => !distinct.add(&object),
        }
    }

    fn into_objects(self, skip: u64) -> Vec<Arc<Object>> {
        match self {
            Self::Page { objects, .. } => objects,
            Self::Sorted { heap, .. } => {
                let skip = usize::try_from(skip).unwrap_or(usize::MAX);
                heap.into_sorted_vec().into_iter().skip(skip).map(|keyed| keyed.object).collect()
            }
            Self::Count(_) | Self::Distinct(_) => Vec::new(),
        }
    }

    fn counted(&self) -> u64 {
        if let Self::Count(count) = self { *count } else { 0 }
    }

    fn into_values(self) -> Option<Vec<Value>> {
        if let Self::Distinct(distinct) = self { distinct.finish() } else { None }
    }
}
