//! Change records: what each commit did, with both images, kept for a while so that followers can read it again.

use super::keys;
use super::rows::Corrupt;
use super::view::{View, unavailable};
use crate::changes::{Change, Committed, ObjectChange, Position};
use crate::schema::ClassSchema;
use crate::storage::Unavailable;
use fjall::Readable;
use std::sync::Arc;
use tidings_protocol::bson::{read_map, read_object, write_map, write_object};
use tidings_protocol::{ClassName, Object, ObjectId};

const OBJECT: u8 = 1;
const SCHEMA: u8 = 2;
const UNSEEN: u8 = 3;
/// In place of a length: there is no such image.
const ABSENT: u32 = u32::MAX;

/// The part of a record that retention looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Milliseconds since 1970.
    pub(super) committed_at: i64,
    /// Bytes of all records that were ever written before this one. The difference of two is what lies between them,
    /// so that nobody has to add up.
    pub(super) bytes_before: u64,
}

pub(super) fn encode(change: &Change, header: Header) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(&header.committed_at.to_be_bytes());
    out.extend_from_slice(&header.bytes_before.to_be_bytes());
    match change {
        Change::Object(change) => {
            out.push(OBJECT);
            write_name(&change.class, &mut out);
            write_name(&change.id, &mut out);
            for image in [&change.before, &change.after] {
                match image {
                    Some(image) => write_part(&mut out, |out| write_object(image, out)),
                    None => out.extend_from_slice(&ABSENT.to_be_bytes()),
                }
            }
        }
        Change::Schema { class, before, schema } => {
            out.push(SCHEMA);
            write_name(class, &mut out);
            for schema in [before, schema] {
                match schema {
                    Some(schema) => write_part(&mut out, |out| write_map(&schema.to_stored(), out)),
                    None => out.extend_from_slice(&ABSENT.to_be_bytes()),
                }
            }
        }
        Change::Unseen { class, gone } => {
            out.push(UNSEEN);
            write_name(class, &mut out);
            // No id is empty.
            write_name(gone.as_deref().unwrap_or_default(), &mut out);
        }
    }
    out
}

/// The header of the record at this position, if it is there.
pub(super) fn header_at(view: &View, position: Position) -> Result<Option<Header>, Unavailable> {
    let record = view.published.disk.get(&view.files.keyspaces.changes, keys::change(position)).map_err(unavailable)?;
    Ok(record.map(|record| header(&record)).transpose()?)
}

pub(super) fn header(bytes: &[u8]) -> Result<Header, Corrupt> {
    Reader(bytes).header()
}

pub(super) fn decode(position: Position, bytes: &[u8]) -> Result<Committed, Corrupt> {
    let mut reader = Reader(bytes);
    reader.header()?;
    let change = match reader.array::<1>()? {
        [OBJECT] => {
            let class = ClassName::from_trusted(reader.name()?);
            let id = ObjectId::new(reader.name()?);
            let before = reader.image()?;
            let after = reader.image()?;
            Change::Object(ObjectChange { class, id, before, after })
        }
        [SCHEMA] => {
            let class = ClassName::from_trusted(reader.name()?);
            let before = reader.schema(&class)?;
            let schema = reader.schema(&class)?;
            Change::Schema { class, before, schema }
        }
        [UNSEEN] => {
            let class = ClassName::from_trusted(reader.name()?);
            let gone = Some(reader.name()?).filter(|id| !id.is_empty()).map(ObjectId::new);
            Change::Unseen { class, gone }
        }
        _ => return Err(UNREADABLE),
    };
    Ok(Committed { position, ordinal: 0, change })
}

const UNREADABLE: Corrupt = Corrupt("a change record cannot be read");

/// Names of classes and ids of objects are at most 255 bytes long.
fn write_name(name: &str, out: &mut Vec<u8>) {
    out.push(name.len() as u8);
    out.extend_from_slice(name.as_bytes());
}

fn write_part(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn header(&mut self) -> Result<Header, Corrupt> {
        let committed_at = i64::from_be_bytes(self.array()?);
        Ok(Header { committed_at, bytes_before: u64::from_be_bytes(self.array()?) })
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Corrupt> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(UNREADABLE)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Corrupt> {
        self.take(N)?.try_into().map_err(|_| UNREADABLE)
    }

    fn name(&mut self) -> Result<&'a str, Corrupt> {
        let [length] = self.array()?;
        std::str::from_utf8(self.take(usize::from(length))?).map_err(|_| UNREADABLE)
    }

    fn part(&mut self) -> Result<Option<&'a [u8]>, Corrupt> {
        match u32::from_be_bytes(self.array()?) {
            ABSENT => Ok(None),
            length => self.take(length as usize).map(Some),
        }
    }

    fn schema(&mut self, class: &ClassName) -> Result<Option<Arc<ClassSchema>>, Corrupt> {
        let Some(part) = self.part()? else { return Ok(None) };
        let map = read_map(part).map_err(|_| UNREADABLE)?;
        Ok(Some(Arc::new(ClassSchema::from_stored(class.clone(), &map).map_err(|_| UNREADABLE)?)))
    }

    fn image(&mut self) -> Result<Option<Arc<Object>>, Corrupt> {
        let part = self.part()?;
        part.map(|bytes| read_object(bytes).map(Arc::new)).transpose().map_err(|_| UNREADABLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidings_protocol::map;

    #[test]
    fn records_read_back_and_damage_is_noticed() {
        let class = ClassName::from_trusted("Message");
        let image = Arc::new(Object { id: ObjectId::new("x"), fields: map! { "a" => 1.0 }, ..Object::default() });
        let schema = Some(Arc::new(ClassSchema::new(class.clone())));
        let header_of = Header { committed_at: 5, bytes_before: 77 };
        for change in [
            Change::Object(ObjectChange {
                class: class.clone(),
                id: ObjectId::new("x"),
                before: None,
                after: Some(image.clone()),
            }),
            Change::Object(ObjectChange {
                class: class.clone(),
                id: ObjectId::new("x"),
                before: Some(image),
                after: None,
            }),
            Change::Schema { class: class.clone(), before: None, schema: schema.clone() },
            Change::Schema { class: class.clone(), before: schema.clone(), schema: schema.clone() },
            Change::Schema { class: class.clone(), before: schema, schema: None },
            Change::Unseen { class: class.clone(), gone: None },
            Change::Unseen { class, gone: Some(ObjectId::new("x")) },
        ] {
            let bytes = encode(&change, header_of);
            assert_eq!(decode(9, &bytes), Ok(Committed { position: 9, ordinal: 0, change }));
            assert_eq!(header(&bytes), Ok(header_of));
            for cut in 0..bytes.len() {
                assert!(decode(9, &bytes[..cut]).is_err());
            }
        }
    }
}
