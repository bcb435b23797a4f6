//! The collections of classes: made before anything needs them, as nobody waits for them then.

use super::errors::{already_exists, in_words, is_forbidden, is_missing};
use super::indexes;
use super::schemas::COLLECTION;
use crate::schema::FieldType;
use compact_str::CompactString;
use futures_util::TryStreamExt;
use mongodb::Database;
use mongodb::bson::{Document, doc};
use mongodb::error::Result;
use mongodb::results::CollectionSpecification;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tidings_protocol::ClassName;

/// Where this store keeps what Parse Server does not know of: one document per lock (see `unique`).
pub(super) const OWN: &str = "_Tidings";

/// What the collections of classes that are being deleted are called, before the name of the class.
const ASIDE: &str = "_Tidings:";

/// How soon images are looked after again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Said where images cannot be switched on.
const WITHOUT_IMAGES: &str = "its changes come without images, so its live queries get fresh results instead of \
    events; that ends when a user with the right to collMod (role dbAdmin) has started a server once";

/// The same, of the classes themselves.
const CLASSES_WITHOUT_IMAGES: &str = "its changes come without images, so classes are read again when one changes, and \
    who resumes across that gets a fresh result";

pub(super) struct Collections {
    /// Whether changes carry images: where there are no changes to hear, nothing keeps them.
    have_images: bool,
    /// What is known to be there: collections, and indexes as `Class/field`.
    ready: Mutex<HashSet<CompactString>>,
    /// When images were last looked after where a change came without; `None` where they may not be switched on.
    doubted: Mutex<HashMap<CompactString, Option<Instant>>>,
}

impl Collections {
    pub(super) fn new(have_images: bool) -> Self {
        Self { have_images, ready: Mutex::default(), doubted: Mutex::default() }
    }

    pub(super) fn is_ready(&self, name: &str) -> bool {
        self.lock().contains(name)
    }

    pub(super) fn set_ready(&self, name: &str) {
        self.lock().insert(name.into());
    }

    /// What was there is gone.
    pub(super) fn forget(&self, name: &str) {
        self.lock().retain(|known| known.split('/').next() != Some(name));
        self.doubted().remove(name);
    }

    /// A change came without images. Whether to look after them: not if that is known to be in vain, and a large change is
    /// told without, too.
    pub(super) fn doubt(&self, name: &str) -> bool {
        let mut doubted = self.doubted();
        match doubted.get(name) {
            Some(None) => false,
            Some(Some(last)) if last.elapsed() < LOOK_AGAIN => false,
            _ => {
                doubted.insert(name.into(), Some(Instant::now()));
                true
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<CompactString>> {
        // No code that runs under the lock can leave the set half-changed.
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doubted(&self) -> MutexGuard<'_, HashMap<CompactString, Option<Instant>>> {
        // As above.
        self.doubted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over a class that another program has made. Indexes are not made unasked there.
    pub(super) async fn adopt(&self, db: &Database, class: &str) {
        match self.create(db, class).await {
            Ok(()) => self.set_ready(class),
            Err(error) => tracing::warn!(class, error = in_words(&error), "its collection cannot be made yet"),
        }
    }

    /// The collection of a class that begins with these columns.
    pub(super) async fn make(
        &self,
        db: &Database,
        class: &ClassName,
        columns: &[(CompactString, FieldType)],
    ) -> Result<()> {
        if self.is_ready(class) {
            return Ok(());
        }
        self.create(db, class).await?;
        indexes::make(db, class, indexes::of_class(class)).await?;
        indexes::add(db, class, 0, columns.iter().map(|(name, field_type)| (name, field_type))).await;
        self.set_ready(class);
        if *class == ClassName::USER {
            for field in ["username", "email"] {
                self.make_folded(db, class, field).await?;
            }
        }
        Ok(())
    }

    /// A collection whose changes carry both images. One that exists gets them, if that is allowed.
    pub(super) async fn create(&self, db: &Database, name: &str) -> Result<()> {
        // Nobody hears of the members of relations.
        if !self.have_images || ClassName::from_trusted(name).is_relation() {
            return match db.run_command(doc! { "create": name }).await {
                Err(error) if already_exists(&error) => Ok(()),
                other => other.map(drop),
            };
        }
        let images = doc! { "enabled": true };
        let create = doc! { "create": name, "changeStreamPreAndPostImages": &images };
        match db.run_command(create).await {
            Err(error) if already_exists(&error) => {
                // To switch them on takes a right that few users have: only where it must be.
                let found = db.list_collections().filter(doc! { "name": name }).await?.try_next().await?;
                if found.is_none_or(|found| has_images(&found)) {
                    return Ok(());
                }
                let change = doc! { "collMod": name, "changeStreamPreAndPostImages": images };
                if let Err(error) = db.run_command(change).await {
                    let what = if name == COLLECTION { CLASSES_WITHOUT_IMAGES } else { WITHOUT_IMAGES };
                    tracing::warn!(collection = name, error = in_words(&error), "{what}");
                    if is_forbidden(&error) {
                        self.doubted().insert(name.into(), None);
                    }
                }
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// Takes away the collection of a class that is no more, and what it has beside documents. It is put aside first: who
    /// makes the class again meanwhile, and writes to it, must not lose that.
    pub(super) async fn remove(&self, db: &Database, class: &ClassName) -> Result<()> {
        let aside = format!("{ASIDE}{class}");
        let [from, to] = [class.as_str(), &aside].map(|name| format!("{}.{name}", db.name()));
        let rename = doc! { "renameCollection": &from, "to": &to };
        let admin = db.client().database("admin");
        let mut renamed = admin.run_command(rename.clone()).await;
        // Somebody has put it aside before, and has not come to the end of it.
        if renamed.as_ref().is_err_and(already_exists) {
            Self::put_back(db, &aside).await?;
            renamed = admin.run_command(rename).await;
        }
        match renamed {
            // It may have been put aside, and that be all.
            Err(error) if is_missing(&error) => {}
            other => drop(other?),
        }
        self.forget(class);
        Self::put_back(db, &aside).await
    }

    /// Ends what [`Collections::remove`] began, if this collection is one that was put aside: what somebody has written to
    /// the class since goes back.
    pub(super) async fn put_back(db: &Database, name: &str) -> Result<()> {
        let Some(class) = name.strip_prefix(ASIDE) else { return Ok(()) };
        let aside = db.collection::<Document>(name);
        if aside.find_one(doc! {}).await?.is_some() {
            aside.aggregate([doc! { "$merge": class }]).await?;
        }
        aside.drop().await
    }

    /// The index by which holders of a value are found, whatever its case.
    pub(super) async fn make_folded(&self, db: &Database, class: &ClassName, field: &str) -> Result<()> {
        let key = format!("{class}/{field}");
        if self.is_ready(&key) {
            return Ok(());
        }
        indexes::make(db, class, vec![indexes::folded(field)]).await?;
        self.set_ready(&key);
        Ok(())
    }
}

/// Whether a collection's changes carry both images.
pub(super) fn has_images(collection: &CollectionSpecification) -> bool {
    collection.options.change_stream_pre_and_post_images.as_ref().is_some_and(|images| images.enabled)
}
