//! Makes the tree that a made-up volume has at its end, from its shape alone.

use std::fs::{self, File, FileTimes, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use journal::record::Time;

use super::content::{Content, LINE_BYTES};
use super::shape::Shape;
use super::story::{End, directory_name, file_name};

/// Bytes made at once.
const CHUNK_BYTES: u64 = 1 << 20;
/// Versions are counted from the last one.
const LAST_VERSION: u64 = 0;
const _WHOLE_LINES: () = assert!(CHUNK_BYTES.is_multiple_of(LINE_BYTES), "chunks are whole lines");

pub(super) fn make(shape: &Shape, content: &Content, end: &End, root: &Path) -> Result<()> {
    fs::create_dir(root).with_context(|| format!("make {}", root.display()))?;
    for directory in 0..shape.directories() {
        let path = root.join(directory_name(directory));
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
    }
    let mut buffer = vec![0; usize::try_from(CHUNK_BYTES)?];
    for (file, &time) in (0..shape.all_files()).zip(&end.files) {
        let path = root
            .join(directory_name(shape.directory(file)))
            .join(file_name(file));
        let mut made = File::create_new(&path).with_context(|| format!("make {}", path.display()))?;
        let size = shape.size(file);
        for offset in (0..size).step_by(buffer.len()) {
            let part = &mut buffer[..usize::try_from(CHUNK_BYTES.min(size - offset))?];
            content.fill(part, file, LAST_VERSION, offset);
            made.write_all(part)
                .with_context(|| format!("write {}", path.display()))?;
        }
        let attributes = (shape.permissions(file), end.owner, time);
        set(&path, &made, attributes).with_context(|| format!("set attributes of {}", path.display()))?;
    }
    let of_directories = (0..shape.directories()).zip(&end.directories);
    let directories = of_directories.map(|(directory, time)| (root.join(directory_name(directory)), *time));
    for (path, time) in directories.chain([(root.to_owned(), end.root)]) {
        let made = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        set(&path, &made, (0o755, end.owner, time))
            .with_context(|| format!("set attributes of {}", path.display()))?;
    }
    Ok(())
}

fn set(path: &Path, made: &File, attributes: (u32, (u32, u32), Time)) -> Result<()> {
    let (permissions, (uid, gid), Time { sec, nsec }) = attributes;
    chown(path, Some(uid), Some(gid))?;
    made.set_permissions(Permissions::from_mode(permissions))?;
    let time = SystemTime::UNIX_EPOCH + Duration::new(u64::try_from(sec)?, nsec);
    made.set_times(FileTimes::new().set_accessed(time).set_modified(time))?;
    Ok(())
}
