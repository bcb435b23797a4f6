//! What a class is: its fields, their types and options, permissions and indexes; inference from values, and checks.
//!
//! Pure: storage keeps schemas and changes them in commit order; [`crate::objects`] asks here what a write needs.

mod class;
mod fields;
mod options;

pub use class::{ClassSchema, Index, IndexField, OWNING_ID, RELATED_ID, SchemaChanges, SchemaEdit, Schemas};
pub use fields::{FieldType, infer};
pub use options::FieldOptions;
