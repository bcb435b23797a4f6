//! What a class is: its fields and their types, permissions and indexes; inference from values, and checks.
//!
//! Pure: storage keeps schemas and changes them in commit order; [`crate::objects`] asks here what a write needs.

mod class;
mod fields;

pub use class::{ClassSchema, Index, IndexField, OWNING_ID, RELATED_ID, SchemaEdit, Schemas};
pub use fields::{FieldType, infer};
