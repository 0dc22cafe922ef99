//! A disk in memory for tests, which fails where it is told to and loses what was not synced.
//!
//! Owns which operation meets a fault, and how it goes on. What is cached, durable and lost is in `cache`. The disk is as forgetful as the
//! contract of [`super::disk`] allows: names and content that were not synced are kept, lost or torn independently of each other.

mod cache;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use self::cache::{Contents, Names, Node, Random, SECTOR_BYTES};
use super::disk::{Access, Disk, DiskFile, Entry, EntryKind, Existing};

/// Which operations a fault is counted by, and meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// Every operation, reads too.
    Any,
    /// What changes something, and syncs.
    Change,
    /// Syncs of files and directories.
    Sync,
}

/// What happens at an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The disk is gone until [`FaultDisk::power_on`] or [`FaultDisk::go_on`]. Whether the operation under way is done is left to chance.
    Gone,
    /// So many operations fail with this error. What a sync that fails had to write may be lost for ever.
    Error(Errno, u64),
    /// From now on every write takes half of what it is given.
    Short,
    /// From now on operations do not come back, until [`FaultDisk::repair`].
    Freeze,
    /// From now on syncs succeed, and the disk does not keep what it was given.
    Forget,
}

/// A fault, and how many operations pass before one meets it.
#[derive(Clone, Copy, Debug)]
struct Fault {
    on: On,
    after: u64,
    what: What,
}

struct State {
    files: BTreeMap<u64, Contents>,
    names: Names,
    next_file: u64,
    room_bytes: Option<u64>,
    /// Operations since the last plan: any, changes, syncs.
    counts: [u64; 3],
    fault: Option<Fault>,
    /// What was opened before the disk was gone is no good any more.
    mounted: u64,
    random: Random,
}

impl State {
    /// Counts an operation; the fault that it meets, if any.
    fn meet(&mut self, on: On) -> Option<What> {
        let met = match on {
            On::Any => 1,
            On::Change => 2,
            On::Sync => 3,
        };
        self.counts[..met].iter_mut().for_each(|count| *count += 1);
        self.due(on)
    }

    fn due(&self, on: On) -> Option<What> {
        let fault = self.fault?;
        let is_met = match fault.on {
            On::Any => true,
            On::Change => on != On::Any,
            On::Sync => on == On::Sync,
        };
        (is_met && self.counts[fault.on as usize] > fault.after).then_some(fault.what)
    }

    fn is_back(&mut self) {
        self.mounted += 1;
        self.fault = None;
    }

    fn used_bytes(&self) -> u64 {
        let files = self.names.files().into_iter();
        files
            .filter_map(|(_, file)| Some(self.files.get(&file)?.len() as u64))
            .sum()
    }
}

/// How an operation goes on.
#[derive(Clone, Copy, Debug)]
enum Course {
    Well,
    /// It is done, a write by half, and reported as failed.
    Failed(Errno),
    Short,
    Forgotten,
}

impl Course {
    fn end(self) -> io::Result<()> {
        match self {
            Self::Failed(errno) => Err(errno.into()),
            Self::Well | Self::Short | Self::Forgotten => Ok(()),
        }
    }
}

struct Shared {
    state: Mutex<State>,
    thawed: Condvar,
    /// Of all disks of a host.
    is_gone: Arc<AtomicBool>,
}

impl Shared {
    fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an operation, of a file that was opened at this mount.
    fn step(&self, on: On, mounted: Option<u64>) -> io::Result<(MutexGuard<'_, State>, Course)> {
        let mut state = self.lock();
        let mut met = state.meet(on);
        while met == Some(What::Freeze) && !self.is_gone() {
            state = self.thawed.wait(state).unwrap_or_else(PoisonError::into_inner);
            met = state.due(on);
        }
        if self.is_gone() || mounted.is_some_and(|mounted| mounted != state.mounted) {
            return Err(Errno::IO.into());
        }
        let course = match met {
            None | Some(What::Freeze) => Course::Well,
            Some(What::Short) => Course::Short,
            Some(What::Forget) => Course::Forgotten,
            Some(What::Gone) => {
                self.is_gone.store(true, Ordering::SeqCst);
                // What a sync had to write is still to be lost or kept when the power is back.
                if on != On::Change || state.random.below(2) == 0 {
                    return Err(Errno::IO.into());
                }
                Course::Failed(Errno::IO)
            }
            Some(What::Error(errno, times)) => {
                if let Some(fault) = &mut state.fault {
                    fault.what = What::Error(errno, times.saturating_sub(1));
                }
                match times {
                    0 => Course::Well,
                    _ if on == On::Sync || on == On::Change && state.random.below(2) == 0 => {
                        Course::Failed(errno)
                    }
                    _ => return Err(errno.into()),
                }
            }
        };
        Ok((state, course))
    }
}

/// A disk that fails. Clones share the content.
#[derive(Clone)]
pub struct FaultDisk(Arc<Shared>);

impl FaultDisk {
    /// A disk with one empty directory; the seed decides whatever is left to chance.
    pub fn new(root: &Path, seed: u64) -> Self {
        Self::of_host(root, seed, Arc::default())
    }

    /// Another disk of the same host: they are gone at once.
    #[must_use]
    pub fn beside(&self, root: &Path, seed: u64) -> Self {
        Self::of_host(root, seed, Arc::clone(&self.0.is_gone))
    }

    fn of_host(root: &Path, seed: u64, is_gone: Arc<AtomicBool>) -> Self {
        let state = State {
            files: BTreeMap::new(),
            names: Names::new(root),
            next_file: 1,
            room_bytes: None,
            counts: [0; 3],
            fault: None,
            mounted: 0,
            random: Random::new(seed),
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            thawed: Condvar::new(),
            is_gone,
        }))
    }

    /// Counts operations from now on, and lets them meet this fault.
    pub fn plan(&self, on: On, after: u64, what: What) {
        let mut state = self.0.lock();
        state.counts = [0; 3];
        state.fault = Some(Fault { on, after, what });
    }

    /// Operations since the last plan.
    pub fn operations(&self, on: On) -> u64 {
        self.0.lock().counts[on as usize]
    }

    /// No more faults; what was frozen goes on.
    pub fn repair(&self) {
        self.0.lock().fault = None;
        self.0.thawed.notify_all();
    }

    /// Takes the disk away, now.
    pub fn take_away(&self) {
        self.0.is_gone.store(true, Ordering::SeqCst);
        self.0.thawed.notify_all();
    }

    /// Whether it is gone.
    pub fn is_gone(&self) -> bool {
        self.0.is_gone()
    }

    /// The disk is back after its power was gone: what was not synced is there, lost or torn.
    pub fn power_on(&self) {
        let mut guard = self.0.lock();
        let state = &mut *guard;
        for contents in state.files.values_mut() {
            contents.lose(&mut state.random);
        }
        state.names.lose(&mut state.random);
        let named: BTreeSet<u64> = state.names.files().into_iter().map(|(_, file)| file).collect();
        state.files.retain(|file, _| named.contains(file));
        state.is_back();
        self.0.is_gone.store(false, Ordering::SeqCst);
    }

    /// The disk was never away: only who used it has died, and what is cached is there.
    pub fn go_on(&self) {
        self.0.lock().is_back();
        self.0.is_gone.store(false, Ordering::SeqCst);
    }

    /// Bytes that all files together may take.
    pub fn set_room(&self, bytes: Option<u64>) {
        self.0.lock().room_bytes = bytes;
    }

    /// Another disk takes the place of this one, and this one's content that of the other.
    pub fn exchange(&self, other: &Self) {
        let (mut here, mut there) = (self.0.lock(), other.0.lock());
        let (here, there) = (&mut *here, &mut *there);
        std::mem::swap(&mut here.files, &mut there.files);
        std::mem::swap(&mut here.names, &mut there.names);
        std::mem::swap(&mut here.next_file, &mut there.next_file);
        here.mounted += 1;
    }

    /// Paths of all files, as programs see them.
    pub fn files(&self) -> Vec<PathBuf> {
        let files = self.0.lock().names.files().into_iter();
        files.map(|(path, _)| path).collect()
    }

    fn opened(&self, state: &State, number: u64) -> Arc<dyn DiskFile> {
        Arc::new(FaultFile {
            shared: Arc::clone(&self.0),
            number,
            mounted: state.mounted,
        })
    }
}

impl Disk for FaultDisk {
    fn create(&self, path: &Path, existing: Existing) -> io::Result<Arc<dyn DiskFile>> {
        let (mut state, course) = self.0.step(On::Change, None)?;
        let number = match state.names.get(path) {
            Some(Node::File(number)) if existing == Existing::Emptied => {
                if let Some(contents) = state.files.get_mut(&number) {
                    contents.set_len(0);
                }
                number
            }
            _ => {
                let number = state.next_file;
                state.names.put(path, Node::File(number))?;
                state.files.insert(number, Contents::default());
                state.next_file += 1;
                number
            }
        };
        course.end()?;
        Ok(self.opened(&state, number))
    }

    fn open(&self, path: &Path, _access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let (state, course) = self.0.step(On::Any, None)?;
        let number = state.names.file(path)?;
        course.end()?;
        Ok(self.opened(&state, number))
    }

    fn kind(&self, path: &Path) -> io::Result<Option<EntryKind>> {
        let (state, course) = self.0.step(On::Any, None)?;
        course.end()?;
        Ok(state.names.get(path).map(|node| match node {
            Node::Directory => EntryKind::Directory,
            Node::File(_) => EntryKind::File,
        }))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<Entry>> {
        let (state, course) = self.0.step(On::Any, None)?;
        course.end()?;
        let bytes = |file| state.files.get(&file).map_or(0, |contents| contents.len() as u64);
        state.names.list(directory, bytes)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        let (mut state, course) = self.0.step(On::Change, None)?;
        state.names.put(path, Node::Directory)?;
        course.end()
    }

    fn rename(&self, from: &Path, to: &Path, existing: Existing) -> io::Result<()> {
        let (mut state, course) = self.0.step(On::Change, None)?;
        state.names.rename(from, to, existing)?;
        course.end()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (mut state, course) = self.0.step(On::Change, None)?;
        state.names.remove(path)?;
        course.end()
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let (mut guard, course) = self.0.step(On::Sync, None)?;
        let State { names, random, .. } = &mut *guard;
        match course {
            Course::Failed(_) => names.fail(path, random),
            Course::Forgotten => {}
            Course::Well | Course::Short => names.sync(path)?,
        }
        course.end()
    }

    fn bytes_free(&self, _directory: &Path) -> io::Result<Option<u64>> {
        let (state, course) = self.0.step(On::Any, None)?;
        course.end()?;
        Ok(state
            .room_bytes
            .map(|room| room.saturating_sub(state.used_bytes())))
    }
}

struct FaultFile {
    shared: Arc<Shared>,
    number: u64,
    mounted: u64,
}

impl FaultFile {
    fn act<T>(&self, on: On, act: impl FnOnce(&mut Contents, Course, &mut Random) -> T) -> io::Result<T> {
        let (mut guard, course) = self.shared.step(on, Some(self.mounted))?;
        let State { files, random, .. } = &mut *guard;
        let contents = files.get_mut(&self.number).ok_or(Errno::STALE)?;
        let done = act(contents, course, random);
        course.end().map(|()| done)
    }

    fn sync_by(&self) -> io::Result<()> {
        self.act(On::Sync, |contents, course, random| match course {
            Course::Failed(_) => contents.fail(random),
            Course::Forgotten => contents.forget(),
            Course::Well | Course::Short => contents.sync(),
        })
    }
}

fn place(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| Errno::FBIG.into())
}

impl DiskFile for FaultFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let start = place(offset)?;
        let (mut guard, course) = self.shared.step(On::Change, Some(self.mounted))?;
        let room = guard
            .room_bytes
            .map(|room| room.saturating_sub(guard.used_bytes()));
        let contents = guard.files.get_mut(&self.number).ok_or(Errno::STALE)?;
        let mut length = match course {
            // A piece of that size is written in one go, whatever happens.
            Course::Failed(_) if bytes.len() > SECTOR_BYTES => bytes.len() / 2,
            Course::Failed(_) => bytes.len(),
            Course::Short => bytes.len().div_ceil(2),
            Course::Well | Course::Forgotten => bytes.len(),
        };
        if let Some(room) = room {
            length = length.min((contents.len() + place(room)?).saturating_sub(start));
            if length == 0 && !bytes.is_empty() {
                return Err(Errno::NOSPC.into());
            }
        }
        contents.write(&bytes[..length], start);
        course.end().map(|()| length)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let start = place(offset)?;
        self.act(On::Any, |contents, _, _| contents.read(buffer, start))
    }

    fn bytes(&self) -> io::Result<u64> {
        self.act(On::Any, |contents, _, _| contents.len() as u64)
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        let length = place(bytes)?;
        self.act(On::Change, |contents, _, _| contents.set_len(length))
    }

    fn make_room(&self, _bytes: u64) -> io::Result<()> {
        self.act(On::Change, |_, _, _| ())
    }

    fn make_read_only(&self, _executable: bool) -> io::Result<()> {
        self.act(On::Change, |_, _, _| ())
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_by()
    }

    fn sync_content(&self) -> io::Result<()> {
        self.sync_by()
    }

    fn drop_cached(&self) -> io::Result<()> {
        self.act(On::Any, |contents, _, _| contents.drop_cached())
    }
}
