//! Random questions about random objects: the embedded store's find, MongoDB's find and the live matcher must give the
//! same set, the finds in the same order. [`plain`] adds a fourth voice, MongoDB itself, asked as Parse Server asks it:
//! where the others agree on something else than MongoDB, they are wrong.
//!
//! `TIDINGS_AGREE_CASES` asks more questions than the usual ones, `TIDINGS_AGREE_SEED` those of one seed. Without a
//! MongoDB the embedded store and the matcher are still compared.

mod generate;
mod plain;
mod shrink;

use self::generate::{Asked, COLUMNS, Case, INDEXES};
use super::contract::{edit_index, fresh_class};
use super::embedded::{Embedded, EmbeddedOptions};
use super::mongo::testing;
use super::{Action, Guard, Selection, Storage, Write};
use crate::schema::{ClassSchema, SchemaEdit};
use futures_util::future::join_all;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Instant;
use tidings_protocol::matches::Matcher;
use tidings_protocol::order::write_sort_key;
use tidings_protocol::{ClassName, Object};

/// How many questions are asked when nobody says otherwise.
const CASES: u64 = 3_000;
/// How many of them are about the same objects: to store these costs as much as some dozen questions.
const QUESTIONS: u64 = 100;

/// How many failures are told: made small, they are often different ones.
const TOLD: usize = 5;
/// Questions under way together, so that ours and the database's work overlap.
const AT_ONCE: usize = 10;

/// Who answers, each with the same objects.
struct Voices {
    embedded: Arc<Embedded>,
    /// The store, and the database below it.
    mongo: Option<(Arc<dyn Storage>, mongodb::Database)>,
    class: ClassName,
    schema: ClassSchema,
    /// What is stored now.
    stored: Vec<Object>,
}

impl Voices {
    async fn new(folder: &std::path::Path, url: Option<&str>, indexed: bool) -> Self {
        let class = fresh_class("Agree");
        let mut schema = ClassSchema::new(class.clone());
        schema.fields.extend(COLUMNS.iter().map(|(name, field_type)| ((*name).into(), field_type())));
        let mongo = match url {
            Some(url) => {
                let raw = mongodb::Client::with_uri_str(url).await.unwrap().default_database().unwrap();
                let store: Arc<dyn Storage> = testing::open(url).await;
                Some((store, raw))
            }
            None => None,
        };
        let embedded = Embedded::open(folder, EmbeddedOptions::default()).unwrap();
        let voices = Self { embedded, mongo, class, schema, stored: Vec::new() };
        for store in voices.stores() {
            store.edit_schema(SchemaEdit::Create(voices.schema.clone())).await.unwrap();
            for (name, keys) in INDEXES.iter().filter(|_| indexed) {
                store.edit_schema(edit_index(&voices.class, name, keys)).await.unwrap();
            }
        }
        voices
    }

    fn stores(&self) -> Vec<Arc<dyn Storage>> {
        let embedded: Arc<dyn Storage> = self.embedded.clone();
        let mongo = self.mongo.iter().map(|(store, _)| store.clone());
        std::iter::once(embedded).chain(mongo).collect()
    }

    /// Puts these objects in the place of those that were there.
    async fn store(&mut self, objects: &[Object]) {
        if self.stored == objects {
            return;
        }
        let write = |object: &Object, action| Write {
            class: self.class.clone(),
            id: object.id.clone(),
            action,
            guard: Guard::default(),
            fields: Vec::new(),
        };
        let deletes = self.stored.iter().map(|object| write(object, Action::Delete));
        let creates = objects.iter().map(|object| write(object, Action::Create(object.clone())));
        let writes: Vec<Write> = deletes.chain(creates).collect();
        for store in self.stores() {
            store.commit(writes.clone()).await.unwrap();
        }
        self.stored = objects.to_vec();
    }

    /// In what they differ about these objects.
    async fn differ(&mut self, objects: &[Object], asked: &Asked) -> Option<String> {
        self.store(objects).await;
        self.ask(asked).await.err()
    }

    /// Asks all of them. What MongoDB itself said is true where it had something to say.
    async fn ask(&self, asked: &Asked) -> Result<bool, String> {
        let Some(page) = asked.selection(&self.class) else { return Ok(false) };
        let all = Selection { skip: 0, limit: u64::MAX, ..page.clone() };
        let (whole, cut) = expected(&self.stored, &page);
        for (name, store) in ["embedded", "mongo"].into_iter().zip(self.stores()) {
            let snapshot = store.snapshot().await.unwrap();
            let found = snapshot.find(&all).await.map_err(|error| format!("{name} fails: {error:?}"))?;
            same("the matcher", &whole, name, &owned(found))?;
            let count = snapshot.count(&page).await.unwrap();
            if count != whole.len() as u64 {
                return Err(format!("the matcher finds {} objects, {name} counts {count}", whole.len()));
            }
            if cut.len() < whole.len() {
                same("of the page, the matcher", &cut, name, &owned(snapshot.find(&page).await.unwrap()))?;
            }
        }
        let Some((_, raw)) = &self.mongo else { return Ok(false) };
        let Some(question) = plain::question(&all, &self.schema) else { return Ok(false) };
        let Some(mut found) = question.ask(raw).await else { return Ok(false) };
        let mut expected: Vec<&str> = whole.iter().map(|object| object.id.as_str()).collect();
        if question.sort.is_none() {
            expected.sort_unstable();
            found.sort_unstable();
        }
        if found == expected {
            return Ok(true);
        }
        Err(format!("we find [{}], MongoDB itself [{}], asked {question}", expected.join(" "), found.join(" ")))
    }
}

fn owned(found: Vec<Arc<Object>>) -> Vec<Object> {
    found.into_iter().map(Arc::unwrap_or_clone).collect()
}

fn same(one: &str, ours: &[Object], other: &str, theirs: &[Object]) -> Result<(), String> {
    if ours == theirs {
        return Ok(());
    }
    let ids = |objects: &[Object]| objects.iter().map(|object| object.id.as_str()).collect::<Vec<_>>().join(" ");
    let contents = if ids(ours) == ids(theirs) { ", with other contents" } else { "" };
    Err(format!("{one} finds [{}], {other} [{}]{contents}", ids(ours), ids(theirs)))
}

/// What the matcher lets through, in the order that was asked for, and the page of it.
fn expected(objects: &[Object], selection: &Selection) -> (Vec<Object>, Vec<Object>) {
    let matcher = Matcher::new(&selection.predicate).unwrap();
    let may = |object: &Object| selection.reader.may(tidings_protocol::Access::Read, object.acl.as_ref());
    let mut whole: Vec<Object> = objects.iter().filter(|row| may(row) && matcher.matches(row)).cloned().collect();
    // Without an order they come as they were created, as they do from the generator.
    if !selection.order.is_empty() {
        whole.sort_by_cached_key(|object| {
            let mut key = Vec::new();
            write_sort_key(object, &selection.order, &mut key);
            key
        });
    }
    let cut = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let page = whole.iter().skip(cut(selection.skip)).take(cut(selection.limit)).cloned().collect();
    (whole, page)
}

impl Asked {
    fn selection(&self, class: &ClassName) -> Option<Selection> {
        Some(Selection {
            class: class.clone(),
            predicate: self.predicate()?,
            reader: self.reader.clone(),
            order: self.order(),
            skip: self.skip,
            limit: self.limit,
            columns: None,
        })
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stores_and_the_matcher_agree() {
    let started = Instant::now();
    let only = number("TIDINGS_AGREE_SEED");
    let rounds = number("TIDINGS_AGREE_CASES").unwrap_or(CASES).div_ceil(QUESTIONS);
    // By default always the same questions: a suite must not fail by chance. More of them are new ones each time.
    let first = match number("TIDINGS_AGREE_CASES") {
        Some(_) => u64::from(rand::random::<u32>()),
        None => 0,
    };
    let seeds = only.map_or(first..first + rounds, |seed| seed..seed + 1);
    let url = testing::url().await;
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut voices = [
        Voices::new(folders[0].path(), url.as_deref(), false).await,
        Voices::new(folders[1].path(), url.as_deref(), true).await,
    ];
    let (mut cases, mut heard) = (0, 0);
    let mut failures = Vec::new();
    for seed in seeds {
        let voices = &mut voices[usize::from(seed % 2 == 1)];
        let mut rng = StdRng::seed_from_u64(seed);
        let objects = generate::objects(&mut rng);
        voices.store(&objects).await;
        let questions: Vec<Asked> = (0..QUESTIONS).map(|_| generate::asked(&mut rng, &objects)).collect();
        cases += questions.len();
        let mut failed = None;
        for some in questions.chunks(AT_ONCE) {
            let answers = join_all(some.iter().map(|asked| voices.ask(asked))).await;
            heard += answers.iter().filter(|answer| matches!(answer, Ok(true))).count();
            failed = failed.or(some.iter().zip(&answers).find(|(_, answer)| answer.is_err()).map(|(asked, _)| asked));
        }
        if let Some(asked) = failed {
            let case = shrink::smallest(voices, Case { objects: objects.clone(), asked: asked.clone() }).await;
            let difference = voices.differ(&case.objects, &case.asked).await.unwrap_or_default();
            failures.push(format!("TIDINGS_AGREE_SEED={seed} fails:\n{case}{difference}\n"));
            if failures.len() == TOLD {
                break;
            }
        }
    }
    let (took, who) = (started.elapsed(), if url.is_some() { "three" } else { "two" });
    let _ = writeln!(
        std::io::stderr(),
        "{cases} questions to {who} in {took:.1?}, {heard} of them to MongoDB itself as well"
    );
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
