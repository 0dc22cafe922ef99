//! `replayer mount`: the tree of a moment as a read-only file system. Owns the command; what is shown is in `view`, what is read in
//! `reading` and `cache`, how the kernel is answered in `serve`, how it is mounted in `fuse`.

mod cache;
mod fuse;
mod reading;
mod serve;
#[cfg(test)]
mod tests;
mod view;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use self::reading::Past;
use self::serve::Served;
use super::tree::Tree;
use crate::cli::{MomentArgs, MountArgs};
use crate::exit::{Exit, failure};
use crate::media::Media;
use crate::output::{Format, escape};

/// Runs `replayer mount`: says when it is mounted, and returns when it is unmounted.
pub(crate) fn run(args: &MountArgs, format: Format) -> Result<Exit> {
    let MountArgs {
        moment: MomentArgs { past, at },
        cache_mib,
        directory,
    } = args;
    crate::media::parse_at(at.as_deref())?;
    let directory = empty_directory(directory)?;
    // The threads that answer want what lives as long as they may: that is as long as this process, which mounts once.
    let media: &'static Media = Box::leak(Box::new(Media::open(&past.media)?.without_asking()));
    let mut tree = Tree::at(media, past, at.as_deref())?;
    // Nobody asks here what an inode was to the journal.
    tree.moment.folded.index = HashMap::new();
    let (exit, point) = (tree.moment.exit(), &tree.moment.point);
    let text = format!("mounted {}: {}\n", directory.display(), point.text());
    let document = json!({
        "mounted": escape(directory.as_os_str().as_encoded_bytes()), "point": point.json(),
        "entries": tree.plan().entries(), "inodes": tree.plan().nodes.len(), "cache_bytes_max": cache_mib << 20,
        "complete": exit == Exit::Ok,
    });
    let served = Past::new(media, past.volume.clone(), tree, cache_mib << 20);
    let mount = fuse::mount(Served(Box::leak(Box::new(served))), &directory)?;
    if let Err(error) = format.result(&text, &document) {
        mount.unmount();
        return Err(error);
    }
    mount.serve()?;
    Ok(exit)
}

/// The directory to mount on, by its full path: what lies in another one would be hidden.
fn empty_directory(directory: &Path) -> Result<PathBuf> {
    let shown = directory.display();
    let wrong = |why: &str| failure(Exit::Failed, format!("{shown} {why}"));
    let mut entries = fs::read_dir(directory).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => wrong("is not there: make it, an empty directory"),
        io::ErrorKind::NotADirectory => wrong("is no directory: give an empty one"),
        _ => failure(Exit::Failed, format!("open {shown}: {error}")),
    })?;
    match entries.next() {
        None => fs::canonicalize(directory).with_context(|| format!("find {shown}")),
        Some(Ok(_)) => Err(wrong("is not empty: give an empty directory")),
        Some(Err(error)) => Err(error).with_context(|| format!("list {shown}")),
    }
}
