//! The journal: what is written on media, and what it means.
//!
//! Owns records, segments, manifests, the chain, the store interface, and the meaning of it all (fold, points, verify). It knows
//! nothing of how changes are captured (`abi`, aya) nor of how a tree is made on a disk.

mod chain;
mod check;
mod checkpoint;
mod convert;
mod copy;
mod crypt;
mod damage;
mod error;
pub mod fold;
mod head;
mod index;
mod label;
mod manifest;
mod pages;
mod points;
mod reader;
pub mod record;
mod retention;
mod scan;
mod schema;
mod segment;
mod sign;
pub mod store;
mod verify;
mod writer;

pub use chain::{Journal, Problem};
pub use checkpoint::{Checkpoint, CheckpointSize, Complete};
pub use convert::{
    LINK_TARGET_BYTES_MAX, NAME_BYTES_MAX, OFFSET_MAX, WRITE_BYTES_MAX, XATTR_VALUE_BYTES_MAX, op_name,
};
pub use copy::{Copyable, copy_carried, copy_segment, make_manifest_durable, sealed_manifest};
pub use crypt::{Encryption, Identities, Recipients};
pub use damage::Damage;
pub use error::{Error, Result};
pub use head::Head;
pub use index::{copy_index, write_index};
pub use label::{LABEL_NAME, Label, MediumName, Naming};
pub use manifest::{CheckpointOf, FORMAT_VERSION, Manifest, Parts, Point, PointKind, RowGroup, VolumeInfo};
pub use points::{At, OpenHole, ResolvedPoint, Span, resolve};
pub use reader::{RowRef, Segment};
pub use scan::Reader;
pub use segment::{Data, Projection};
pub use sign::{PublicKey, Signer};
pub use verify::{EpochRange, VerifyReport};
pub use writer::{SealedSegment, Writer};
