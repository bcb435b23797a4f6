//! One group of commits while it is put together: what it will write, over the published state.
//!
//! Each write sees the earlier ones of its group. A commit that fails is taken back, and nothing else is.

use super::catalog::{self, Catalog, ClassState, Dropped, Numbers};
use super::indexes::Index;
use super::keys::{ClassId, EntryValue, Sequence};
use super::log::{self, Header};
use super::rows;
use super::scan::Rows;
use super::view::{Row, View, unavailable};
use crate::changes::{Change, Committed, Cursor, ObjectChange, Position};
use crate::schema::{ClassSchema, SchemaEdit};
use crate::storage::limits::{self, too_large};
use crate::storage::{Action, Guard, Membership, Refused, Unavailable, Unique, Write, WriteError, Written};
use compact_str::CompactString;
use fjall::Readable;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tidings_protocol::matches::Matcher;
use tidings_protocol::{Access, ClassName, Code, Error, Object, ObjectId, Value, map};

pub(super) struct Group {
    view: View,
    limits: Limits,
    committed_at: i64,
    pub(super) catalog: Catalog,
    pub(super) numbers: Numbers,
    pub(super) position: Position,
    /// Bytes of all change records up to here.
    pub(super) log_bytes: u64,
    pub(super) ids: FxHashMap<(ClassId, ObjectId), Option<Sequence>>,
    pub(super) rows: FxHashMap<(ClassId, Sequence), StagedRow>,
    /// Sorted, because uniqueness asks for all keys with a prefix.
    pub(super) entries: BTreeMap<Vec<u8>, Option<EntryValue>>,
    pub(super) meta: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    pub(super) counts: FxHashMap<ClassId, i64>,
    pub(super) records: Vec<(Position, Vec<u8>)>,
    pub(super) changes: Vec<Arc<Committed>>,
    /// Bytes of rows and records so far.
    pub(super) bytes: usize,
    /// Bytes of rows alone.
    row_bytes: usize,
    /// How to take back what the commit at hand has staged.
    undo: Vec<Undo>,
}

/// A row as the group leaves it.
pub(super) struct StagedRow {
    pub(super) id: ObjectId,
    /// The object and its bytes; `None` if it is deleted.
    pub(super) object: Option<(Arc<Object>, Vec<u8>)>,
    pub(super) generation: Position,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) object_bytes: usize,
    pub(super) commit_bytes: usize,
}

enum Undo {
    Id((ClassId, ObjectId), Option<Option<Sequence>>),
    Row((ClassId, Sequence), Option<StagedRow>),
    Entry(Vec<u8>, Option<Option<EntryValue>>),
    Meta(Vec<u8>, Option<Option<Vec<u8>>>),
    Count(ClassId, i64),
    Catalog(Catalog, Numbers),
}

impl Group {
    pub(super) fn new(view: View, numbers: Numbers, log_bytes: u64, committed_at: i64, limits: Limits) -> Self {
        Self {
            limits,
            committed_at,
            catalog: view.published.catalog.clone(),
            numbers,
            position: view.published.position,
            log_bytes,
            view,
            ids: FxHashMap::default(),
            rows: FxHashMap::default(),
            entries: BTreeMap::new(),
            meta: BTreeMap::new(),
            counts: FxHashMap::default(),
            records: Vec::new(),
            changes: Vec::new(),
            bytes: 0,
            row_bytes: 0,
            undo: Vec::new(),
        }
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether a row is made in this group.
    pub(super) fn is_new(&self, sequence: Sequence) -> bool {
        sequence > self.view.published.position
    }

    pub(super) fn view(&self) -> &View {
        &self.view
    }

    /// Stages all writes, or none.
    pub(super) fn commit(&mut self, writes: Vec<Write>) -> Result<Vec<Written>, Refused> {
        let limit = self.row_bytes.saturating_add(self.limits.commit_bytes);
        self.atomically(|group| {
            let mut written = Vec::with_capacity(writes.len());
            for (at, write) in writes.into_iter().enumerate() {
                written.push(group.write(write).map_err(|error| Refused { at, error })?);
                if group.row_bytes > limit {
                    let error = too_large("commit", group.limits.commit_bytes).into();
                    return Err(Refused { at, error });
                }
            }
            Ok(written)
        })
    }

    pub(super) fn edit_schema(&mut self, edit: SchemaEdit) -> Result<Option<Arc<ClassSchema>>, WriteError> {
        self.atomically(|group| group.edit(edit))
    }

    fn atomically<T, E: From<Unavailable>>(&mut self, stage: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<T, E> {
        self.undo.clear();
        let (records, position, log_bytes) = (self.records.len(), self.position, self.log_bytes);
        let (bytes, row_bytes) = (self.bytes, self.row_bytes);
        // A bug that shows with one write must not end the thread that makes all of them.
        let staged = catch_unwind(AssertUnwindSafe(|| stage(self)));
        let result = staged.unwrap_or_else(|_| Err(Unavailable("a write made the store panic".to_owned()).into()));
        if result.is_err() {
            self.records.truncate(records);
            self.changes.truncate(records);
            (self.position, self.log_bytes) = (position, log_bytes);
            (self.bytes, self.row_bytes) = (bytes, row_bytes);
            while let Some(undo) = self.undo.pop() {
                self.take_back(undo);
            }
        }
        result
    }

    fn take_back(&mut self, undo: Undo) {
        fn restore<K: Eq + std::hash::Hash, V>(map: &mut FxHashMap<K, V>, key: K, value: Option<V>) {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        fn restore_sorted<V>(map: &mut BTreeMap<Vec<u8>, V>, key: Vec<u8>, value: Option<V>) {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        match undo {
            Undo::Id(key, value) => restore(&mut self.ids, key, value),
            Undo::Row(key, value) => restore(&mut self.rows, key, value),
            Undo::Entry(key, value) => restore_sorted(&mut self.entries, key, value),
            Undo::Meta(key, value) => restore_sorted(&mut self.meta, key, value),
            Undo::Count(class, by) => *self.counts.entry(class).or_default() -= by,
            Undo::Catalog(catalog, numbers) => (self.catalog, self.numbers) = (catalog, numbers),
        }
    }

    fn write(&mut self, write: Write) -> Result<Written, WriteError> {
        let class = self.class_for(&write)?;
        match write.action {
            Action::Create(object) => {
                limits::check_id(&write.id)?;
                if self.row(&class, &write.id)?.is_some() {
                    return Err(WriteError::Exists);
                }
                if write.guard.expect.is_some() {
                    return Err(WriteError::Unexpected);
                }
                let class = self.check_unique(class, &write.id, &write.guard.unique)?;
                let object = Object { id: write.id, ..object };
                let sequence = self.position + 1;
                self.put(&write.class, &class, sequence, None, Some(Arc::new(object)))
            }
            Action::Update { update, at } => {
                let (sequence, before) = self.guarded(&class, &write.id, &write.guard)?;
                let class = self.check_unique(class, &write.id, &write.guard.unique)?;
                let mut after = Object::clone(&before);
                update.apply(&mut after)?;
                after.updated_at = at.max(before.updated_at);
                self.put(&write.class, &class, sequence, Some(before), Some(Arc::new(after)))
            }
            Action::Expect => {
                let (_, object) = self.guarded(&class, &write.id, &write.guard)?;
                Ok(Written { cursor: self.cursor(), before: Some(object.clone()), after: Some(object) })
            }
            Action::Join(_) | Action::Leave(_) => {
                limits::check_id(&write.id)?;
                self.relate(&write.class, &class, write.id, write.action)
            }
            Action::DeleteIfPresent if self.row(&class, &write.id)?.is_none() => Ok(self.nothing()),
            Action::Delete | Action::DeleteIfPresent => {
                let (sequence, before) = self.guarded(&class, &write.id, &write.guard)?;
                self.put(&write.class, &class, sequence, Some(before), None)
            }
        }
    }

    fn relate(
        &mut self,
        relation: &ClassName,
        class: &Arc<ClassState>,
        id: ObjectId,
        action: Action,
    ) -> Result<Written, WriteError> {
        match (action, self.row(class, &id)?) {
            (Action::Join(Membership { owner, related }), None) => {
                let fields = map! { Membership::OWNER => owner.as_str(), Membership::RELATED => related.as_str() };
                let object = Object { id, fields, ..Object::default() };
                self.put(relation, class, self.position + 1, None, Some(Arc::new(object)))
            }
            (Action::Leave(_), Some((sequence, before))) => self.put(relation, class, sequence, Some(before), None),
            _ => Ok(self.nothing()),
        }
    }

    fn nothing(&self) -> Written {
        Written { cursor: self.cursor(), before: None, after: None }
    }

    /// The newest change, staged ones included.
    fn cursor(&self) -> Cursor {
        Cursor::behind(self.view.files.timeline.clone(), self.position)
    }

    /// The class as this write needs it: made, or given further columns.
    fn class_for(&mut self, write: &Write) -> Result<Arc<ClassState>, WriteError> {
        let known = self.catalog.get(&write.class).cloned();
        let mut schema = match &known {
            Some(class) if class.has_all(&write.fields)? => return Ok(class.clone()),
            Some(class) => ClassSchema::clone(&class.schema),
            None if write.action.creates() => ClassSchema::new(write.class.clone()),
            None => return Err(WriteError::NotFound),
        };
        for (name, field_type) in &write.fields {
            if schema.check_field(name, field_type)? {
                schema.fields.insert(name.clone(), field_type.clone());
            }
        }
        let mut numbers = self.numbers;
        let class = match known {
            Some(class) => {
                let is_empty = self.count(&class) == 0;
                class.with_schema(schema, &[], self.position + 1, is_empty, &mut numbers).0
            }
            None => ClassState::new(schema, &mut numbers),
        };
        let class = Arc::new(class);
        let before = self.replace_class(&write.class, Some(class.clone()), numbers);
        let schema = Some(class.schema.clone());
        self.record(Change::Schema { class: write.class.clone(), before, schema });
        Ok(class)
    }

    /// The row that an update or delete is about, if the guard holds.
    fn guarded(&self, class: &ClassState, id: &ObjectId, guard: &Guard) -> Result<Row, WriteError> {
        let Some((sequence, object)) = self.row(class, id)? else { return Err(WriteError::NotFound) };
        if guard.writer.as_ref().is_some_and(|writer| !writer.may(Access::Write, object.acl.as_ref())) {
            return Err(WriteError::NotFound);
        }
        if let Some(expected) = &guard.expect
            && !Matcher::new(expected)?.matches(&object)
        {
            return Err(WriteError::Unexpected);
        }
        Ok((sequence, object))
    }

    fn row(&self, class: &ClassState, id: &ObjectId) -> Result<Option<Row>, WriteError> {
        match self.ids.get(&(class.id, id.clone())) {
            Some(None) => Ok(None),
            Some(Some(sequence)) => {
                let staged = self.rows.get(&(class.id, *sequence)).and_then(|row| row.object.as_ref());
                Ok(staged.map(|(object, _)| (*sequence, object.clone())))
            }
            None => Ok(self.view.row(class, id)?),
        }
    }

    fn count(&self, class: &ClassState) -> u64 {
        let staged = self.counts.get(&class.id).copied().unwrap_or_default();
        self.view.published.count(class).saturating_add_signed(staged)
    }

    /// Makes sure that nobody else holds these values; the class may get an index for it.
    fn check_unique(
        &mut self,
        mut class: Arc<ClassState>,
        id: &ObjectId,
        unique: &[Unique],
    ) -> Result<Arc<ClassState>, WriteError> {
        for Unique { field, value } in unique.iter().filter(|unique| !unique.value.is_null()) {
            let index = match class.unique_index(field) {
                Some(index) => index.clone(),
                None => {
                    let (with_index, index) = self.add_unique_index(&class, field)?;
                    class = with_index;
                    index
                }
            };
            let mut prefix = index.prefix();
            let cut = index.write_component(0, value, &mut prefix);
            for holder in self.holders(&prefix)? {
                let is_other = holder != *id;
                if is_other && (!cut || self.holds(&class, &holder, field, value)?) {
                    return Err(WriteError::Duplicate { field: field.clone() });
                }
            }
        }
        Ok(class)
    }

    /// The ids in all entries that begin with these bytes.
    fn holders(&self, prefix: &[u8]) -> Result<Vec<ObjectId>, WriteError> {
        let id = |key: &[u8], value: EntryValue| {
            let id = key.get(key.len().checked_sub(usize::from(value.id_length))?..)?;
            std::str::from_utf8(id).ok().map(ObjectId::new)
        };
        let mut holders = Vec::new();
        for item in self.view.published.disk.prefix(&self.view.files.keyspaces.indexes, prefix) {
            let (key, value) = item.into_inner().map_err(unavailable)?;
            if !self.entries.contains_key(&*key) {
                holders.extend(EntryValue::from_bytes(&value).and_then(|value| id(&key, value)));
            }
        }
        let staged = self.entries.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix));
        holders.extend(staged.filter_map(|(key, value)| id(key, (*value)?)));
        Ok(holders)
    }

    /// Whether an object really holds a value of which the index has only the beginning.
    fn holds(&self, class: &ClassState, id: &ObjectId, field: &str, value: &Value) -> Result<bool, WriteError> {
        let folded = |value: &Value| value.as_str().map(str::to_lowercase);
        let row = self.row(class, id)?;
        Ok(row.is_some_and(|(_, object)| object.field(field).is_some_and(|held| folded(&held) == folded(value))))
    }

    /// The first use of a field as unique gives it an index, filled at once: a check that sees only some of the
    /// objects is none. The fields that the server itself keeps unique have theirs from the beginning.
    fn add_unique_index(
        &mut self,
        class: &ClassState,
        field: &str,
    ) -> Result<(Arc<ClassState>, Arc<Index>), WriteError> {
        let mut numbers = self.numbers;
        let (class, index) = class.with_unique(field, &mut numbers);
        let class = Arc::new(class);
        let mut on_disk = Rows::new(&self.view, &class, 0);
        while let Some((sequence, object)) = on_disk.next()? {
            if !self.rows.contains_key(&(class.id, sequence)) {
                index.entries(&object, sequence).into_iter().for_each(|(key, value)| self.set_entry(key, Some(value)));
            }
        }
        let staged = self.rows.iter().filter(|((owner, _), _)| *owner == class.id);
        let staged =
            staged.filter_map(|((_, sequence), row)| row.object.as_ref().map(|(object, _)| (sequence, object)));
        let staged: Vec<_> = staged.flat_map(|(sequence, object)| index.entries(object, *sequence)).collect();
        staged.into_iter().for_each(|(key, value)| self.set_entry(key, Some(value)));
        let name = class.schema.class.clone();
        self.replace_class(&name, Some(class.clone()), numbers);
        Ok((class, index))
    }

    /// Stages one object's new state, and everything that follows from it.
    fn put(
        &mut self,
        name: &ClassName,
        class: &ClassState,
        sequence: Sequence,
        before: Option<Arc<Object>>,
        after: Option<Arc<Object>>,
    ) -> Result<Written, WriteError> {
        let position = self.position + 1;
        let Some(id) = after.as_ref().or(before.as_ref()).map(|object| object.id.clone()) else {
            return Err(WriteError::NotFound);
        };
        let staged = match &after {
            Some(object) => {
                limits::check_depth(object)?;
                let bytes = rows::encode(object, position);
                if bytes.len() > self.limits.object_bytes {
                    return Err(too_large("object", self.limits.object_bytes).into());
                }
                self.bytes += bytes.len();
                self.row_bytes += bytes.len();
                Some((object.clone(), bytes))
            }
            None => None,
        };
        self.set_entries(class, sequence, before.as_deref(), after.as_deref());
        let row = StagedRow { id: id.clone(), object: staged, generation: class.generation };
        let replaced = self.rows.insert((class.id, sequence), row);
        self.undo.push(Undo::Row((class.id, sequence), replaced));
        if before.is_none() != after.is_none() {
            let key = (class.id, id.clone());
            let replaced = self.ids.insert(key.clone(), after.is_some().then_some(sequence));
            self.undo.push(Undo::Id(key, replaced));
            let by = if after.is_some() { 1 } else { -1 };
            *self.counts.entry(class.id).or_default() += by;
            self.undo.push(Undo::Count(class.id, by));
        } else {
            // Later writes of the group look here first.
            let key = (class.id, id.clone());
            let replaced = self.ids.insert(key.clone(), Some(sequence));
            self.undo.push(Undo::Id(key, replaced));
        }
        self.record(Change::Object(ObjectChange {
            class: name.clone(),
            id,
            before: before.as_ref().map(public),
            after: after.as_ref().map(public),
        }));
        let cursor = Cursor::behind(self.view.files.timeline.clone(), position);
        Ok(Written { cursor, before, after })
    }

    fn set_entries(&mut self, class: &ClassState, sequence: Sequence, before: Option<&Object>, after: Option<&Object>) {
        for index in &class.indexes {
            if let (Some(before), Some(after)) = (before, after)
                && !index.is_touched(before, after)
            {
                continue;
            }
            let old = before.map(|object| index.entries(object, sequence)).unwrap_or_default();
            let new = after.map(|object| index.entries(object, sequence)).unwrap_or_default();
            for (key, _) in &old {
                if !new.iter().any(|(kept, _)| kept == key) {
                    self.set_entry(key.clone(), None);
                }
            }
            for (key, value) in new {
                if !old.iter().any(|(known, _)| *known == key) {
                    self.set_entry(key, Some(value));
                }
            }
        }
    }

    fn set_entry(&mut self, key: Vec<u8>, value: Option<EntryValue>) {
        let replaced = self.entries.insert(key.clone(), value);
        self.undo.push(Undo::Entry(key, replaced));
    }

    fn set_meta(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        let replaced = self.meta.insert(key.clone(), value);
        self.undo.push(Undo::Meta(key, replaced));
    }

    /// Answers the class as it was.
    fn replace_class(
        &mut self,
        name: &ClassName,
        class: Option<Arc<ClassState>>,
        numbers: Numbers,
    ) -> Option<Arc<ClassSchema>> {
        self.undo.push(Undo::Catalog(self.catalog.clone(), self.numbers));
        self.set_meta(catalog::class_key(name), class.as_ref().map(|class| class.to_bytes()));
        if numbers != self.numbers {
            self.set_meta(catalog::NUMBERS.to_vec(), Some(numbers.to_bytes()));
        }
        self.numbers = numbers;
        let classes = Arc::make_mut(&mut self.catalog);
        let before = match class {
            Some(class) => classes.insert(name.clone(), class),
            None => classes.remove(name),
        };
        before.map(|class| class.schema.clone())
    }

    fn record(&mut self, change: Change) {
        self.position += 1;
        let header = Header { committed_at: self.committed_at, bytes_before: self.log_bytes };
        let record = log::encode(&change, header);
        self.log_bytes += record.len() as u64;
        self.bytes += record.len();
        self.records.push((self.position, record));
        self.changes.push(Arc::new(Committed { position: self.position, ordinal: 0, change }));
    }

    fn edit(&mut self, edit: SchemaEdit) -> Result<Option<Arc<ClassSchema>>, WriteError> {
        match edit {
            SchemaEdit::Create(schema) => {
                let name = schema.class.clone();
                if self.catalog.contains_key(&name) {
                    return Err(invalid_class(format!("Class {name} already exists.")));
                }
                let mut numbers = self.numbers;
                let class = Arc::new(ClassState::new(schema, &mut numbers));
                Ok(Some(self.edited(name, class, numbers)))
            }
            SchemaEdit::Update(name, changes) => {
                let Some(before) = self.catalog.get(&name).cloned() else {
                    return Err(invalid_class(format!("Class {name} does not exist.")));
                };
                let (schema, remove_fields) = (before.schema.edited(&changes)?, changes.remove_fields);
                if schema == *before.schema && remove_fields.is_empty() {
                    return Ok(Some(before.schema.clone()));
                }
                let is_empty = self.count(&before) == 0;
                let mut numbers = self.numbers;
                let (class, dropped) =
                    before.with_schema(schema, &remove_fields, self.position + 1, is_empty, &mut numbers);
                for index in dropped {
                    self.drop_later(Dropped::Index(index));
                }
                let after = self.edited(name, Arc::new(class), numbers);
                self.drop_relations(&before.schema, &remove_fields);
                Ok(Some(after))
            }
            SchemaEdit::Delete(name) => {
                let Some(class) = self.catalog.get(&name).cloned() else { return Ok(None) };
                let count = self.count(&class);
                if count > 0 {
                    let message = format!("Class {name} is not empty, contains {count} objects, cannot drop schema.");
                    return Err(Error::new(Code::InvalidSchemaOperation, message).into());
                }
                self.remove_class(name, &class);
                self.drop_relations(&class.schema, &class.schema.fields.keys().cloned().collect::<Vec<_>>());
                Ok(None)
            }
        }
    }

    fn edited(&mut self, name: ClassName, class: Arc<ClassState>, numbers: Numbers) -> Arc<ClassSchema> {
        let schema = class.schema.clone();
        let before = self.replace_class(&name, Some(class), numbers);
        self.record(Change::Schema { class: name, before, schema: Some(schema.clone()) });
        schema
    }

    fn remove_class(&mut self, name: ClassName, class: &ClassState) {
        let before = self.replace_class(&name, None, self.numbers);
        self.set_meta(catalog::count_key(class.id), None);
        self.record(Change::Schema { class: name, before, schema: None });
    }

    /// Drops the members of relations whose columns go: nobody finds them any more.
    fn drop_relations(&mut self, before: &ClassSchema, gone: &[CompactString]) {
        for relation in before.relations(gone) {
            let Some(class) = self.catalog.get(&relation).cloned() else { continue };
            self.remove_class(relation, &class);
            self.drop_later(Dropped::Class(class.id));
            for index in &class.indexes {
                self.drop_later(Dropped::Index(index.id));
            }
        }
    }

    /// Has `chores` free the room.
    fn drop_later(&mut self, dropped: Dropped) {
        self.set_meta(dropped.key(), Some(Vec::new()));
    }
}

/// The object as change records hold it.
fn public(object: &Arc<Object>) -> Arc<Object> {
    if object.has_internal_fields() { Arc::new(object.without_internal_fields()) } else { object.clone() }
}

/// # Errors
/// 116 for an object that takes more bytes than this.
pub(super) fn check_size(object: &Object, limit: usize) -> Result<(), Error> {
    // In memory an object takes more than on disk: only large ones are worth encoding.
    let is_large = object.weight() > limit && rows::encode(object, Position::MAX).len() > limit;
    if is_large { Err(too_large("object", limit)) } else { Ok(()) }
}

fn invalid_class(message: String) -> WriteError {
    Error::new(Code::InvalidClassName, message).into()
}
