//! The media: opens them, finds the volume and the moment, and folds the journal. Owns the passage from `journal`'s words to the plan's; knows
//! nothing of targets. How records and data are read is in `ahead`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Result, bail};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use journal::fold::{Inode, State};
use journal::record::{Attributes, InodeKey};
use journal::store::{DirStore, Store};
use journal::{
    At, Data, Journal, Problem, Projection, PublicKey, Reader, ResolvedPoint, Segment, Span, VolumeInfo,
};
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::cli::{MediaArgs, PastArgs};
use crate::cloned::Cloned;
use crate::drive::Drive;
use crate::exit::{Exit, failure, integrity};
use crate::output::{local, utc};
use crate::restore::build::{Builder, Built, RawInode};
use crate::restore::plan::{Kind, NodeIndex, Piece, Plan, RowRef};
use crate::restore::problems::Problems;
use crate::spill;

/// XFS shows its ACLs a second time under these names: restored as ACLs, they must not come back as attributes.
const ACL_SHADOWS: [&[u8]; 2] = [b"trusted.SGI_ACL_FILE", b"trusted.SGI_ACL_DEFAULT"];

/// A recorded volume.
pub(crate) type Volume = VolumeInfo;

/// Media that were opened together.
pub(crate) struct Media {
    reader: Reader,
    drive: Drive,
}

/// A moment, and how it is shown.
pub(crate) struct Point<'a> {
    /// What the journal resolved.
    pub(crate) resolved: ResolvedPoint,
    /// Why it is earlier than asked for.
    pub(crate) rounded: Option<String>,
    /// The media that hold its journal, where there are several journals of the volume.
    pub(crate) media: Option<String>,
    /// That journal.
    pub(crate) journal: &'a Journal,
    /// Takes media that were not given.
    drive: &'a Drive,
}

impl Point<'_> {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let ResolvedPoint {
            epoch, seq, time_ns, ..
        } = self.resolved;
        let on = self
            .media
            .as_ref()
            .map_or_else(String::new, |media| format!(" on {media}"));
        format!(
            "epoch {epoch} seq {seq} of {} (local {}){on}",
            utc(time_ns),
            local(time_ns)
        )
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let ResolvedPoint {
            epoch, seq, time_ns, ..
        } = self.resolved;
        json!({
            "epoch": epoch, "seq": seq, "time": utc(time_ns), "time_local": local(time_ns), "rounded": self.rounded,
            "chain": self.journal.chain(), "media": self.journal.media(),
        })
    }
}

/// The journal folded up to a moment.
pub(crate) struct Folded {
    /// What is to be made.
    pub(crate) plan: Plan,
    /// Which inode of the journal is which node.
    pub(crate) index: HashMap<InodeKey, NodeIndex>,
}

impl Media {
    /// Opens media and says what was ignored on them, and what is wrong with them.
    pub(crate) fn open(args: &MediaArgs) -> Result<Self> {
        let MediaArgs {
            media: paths,
            trust_key,
            ..
        } = args;
        let identities = args.identities();
        let mut stores: Vec<Arc<dyn Store>> = Vec::new();
        for path in paths {
            let store = DirStore::open(path).map_err(|error| {
                failure(
                    Exit::NoJournal,
                    format!("open medium {}: {error}", path.display()),
                )
            })?;
            stores.push(Arc::new(store));
        }
        let reader = Reader::open_with(stores, &identities)?;
        for notice in reader.notices() {
            warn!("{notice}");
        }
        for problem in reader.label_problems() {
            warn!("{problem}");
        }
        check_keys(&reader, *trust_key)?;
        Ok(Self {
            reader,
            drive: Drive::new(identities),
        })
    }

    /// Media that are absent are not asked for: whoever reads is answered by programs that cannot wait for a person.
    pub(crate) fn without_asking(mut self) -> Self {
        self.drive.is_silent = true;
        self
    }

    /// What is wrong beside the journals.
    pub(crate) fn verify(&self) -> Result<Vec<String>> {
        Ok(self.reader.verify_media()?)
    }

    /// Refuses media whose labels are damaged: what lies on them may not be what they were.
    pub(crate) fn check_labels(&self) -> Result<()> {
        match self.reader.label_problems() {
            [] => Ok(()),
            problems => Err(integrity(format!(
                "{}; --without-label restores all the same",
                problems.join("; ")
            ))),
        }
    }

    /// The journals on the media.
    pub(crate) fn journals(&self) -> impl Iterator<Item = &Journal> {
        self.reader.journals()
    }

    /// The journals of a volume, or of the only one: one for each chain, oldest first, never none.
    ///
    /// # Errors
    /// Wrong usage where there are several volumes and none is named; the list of them is in it.
    pub(crate) fn journals_of(&self, uuid: Option<&str>) -> Result<Vec<&Journal>> {
        let mut lost = self.reader.lost_volumes();
        if let Some((lost, problems)) = lost.find(|(lost, _)| uuid.is_none_or(|uuid| uuid == *lost)) {
            let other = if uuid.is_none() {
                "; --volume UUID takes another one"
            } else {
                ""
            };
            return Err(integrity(format!(
                "nothing of volume {lost} can be read: {}{other}",
                problems.join("; ")
            )));
        }
        let volumes: BTreeMap<&str, &Volume> = self
            .journals()
            .map(|journal| (journal.volume().uuid.as_str(), journal.volume()))
            .collect();
        if uuid.is_none() && volumes.len() > 1 {
            let mut text = "several volumes are there: name one with --volume UUID".to_owned();
            for (uuid, volume) in volumes {
                let (fs_type, path) = (&volume.fs_type, &volume.mount_path);
                let _writing_to_a_string_cannot_fail =
                    write!(text, "\n  {uuid}  {fs_type} {path} of {}", volume.hostname);
            }
            return Err(failure(Exit::Usage, text));
        }
        Ok(self.reader.volume(uuid)?)
    }

    /// The moment asked for, of the volume named or the only one; the newest without one. Gives the volume as it was then.
    pub(crate) fn resolve(&self, uuid: Option<&str>, at: Option<&str>) -> Result<(Volume, Point<'_>)> {
        let at = parse_at(at)?;
        let journals = self.journals_of(uuid)?;
        for journal in &journals {
            check_chain(journal)?;
        }
        let (journal, resolved) = journal::resolve(&journals, &at)?;
        let point = Point {
            rounded: resolved.rounded.clone(),
            resolved,
            media: (journals.len() > 1).then(|| journal.media().join(", ")),
            journal,
            drive: &self.drive,
        };
        Ok((journal.volume().clone(), point))
    }
}

/// The tree of a moment.
pub(crate) struct Moment<'a> {
    /// When.
    pub(crate) point: Point<'a>,
    /// What is there.
    pub(crate) folded: Folded,
    /// What of it cannot be trusted.
    pub(crate) problems: Problems,
}

impl Moment<'_> {
    /// Whether all of it is as it was.
    pub(crate) fn exit(&self) -> Exit {
        if self.problems.count == 0 {
            Exit::Ok
        } else {
            Exit::Incomplete
        }
    }
}

impl Media {
    /// Folds a volume up to a moment, and says which one it is, and what cannot be trusted.
    ///
    /// # Errors
    /// As for [`Media::resolve`] and [`Point::fold`], with what damage costs.
    pub(crate) fn moment(&self, past: &PastArgs, at: Option<&str>) -> Result<Moment<'_>> {
        let uuid = past.volume.as_deref();
        let work = || {
            let (volume, point) = self.resolve(uuid, at)?;
            info!("volume {} ({}): {}", volume.uuid, volume.fs_type, point.text());
            if let Some(why) = &point.rounded {
                info!("rounded down: {why}");
            }
            let mut problems = Problems::default();
            let folded = point.fold(past.allow_holes, &mut problems)?;
            for problem in &problems.kept {
                warn!("not exact: {problem}");
            }
            Ok(Moment {
                point,
                folded,
                problems,
            })
        };
        work().map_err(|error| self.explain(uuid, error))
    }

    /// An error with what the damage behind it costs, where there is any.
    pub(crate) fn explain(&self, uuid: Option<&str>, error: anyhow::Error) -> anyhow::Error {
        // Where not even the journals can be told, the error says so already.
        match self.journals_of(uuid) {
            Ok(journals) => crate::damage::explain(error, journals),
            Err(_) => error,
        }
    }
}

impl Point<'_> {
    /// The volume as the journal describes it.
    pub(crate) fn volume(&self) -> &Volume {
        self.journal.volume()
    }

    /// Folds the metadata up to the moment into a plan. Beyond the bound of memory all of it lies on a disk.
    ///
    /// # Errors
    /// As for [`Point::each`] and [`spill::check`]; where the journal contradicts itself.
    pub(crate) fn fold(&self, allow_holes: bool, problems: &mut Problems) -> Result<Folded> {
        self.check_holes(allow_holes, problems)?;
        let mut state = State::new();
        let mut cloned = Cloned::default();
        self.each(Projection::State, |row, record| {
            spill::within(|| {
                cloned.check(&state, record)?;
                state.apply(row, record);
                anyhow::Ok(())
            })?;
            spill::check()
        })?;
        let folded = spill::within(|| plan_of(state, allow_holes, problems))?;
        spill::check()?;
        Ok(folded)
    }

    /// Refuses a hole that is open at the moment, or notes it.
    pub(crate) fn check_holes(&self, allow_holes: bool, problems: &mut Problems) -> Result<()> {
        for hole in &self.resolved.open_holes {
            let (first, last) = (hole.first_seq, hole.last_seq);
            let what = hole
                .ino
                .map_or_else(|| "anything".to_owned(), |ino| format!("inode {ino}"));
            let text = format!(
                "sequence numbers {first} to {last} never reached the journal and were not repaired ({what})"
            );
            if !allow_holes {
                bail!(failure(
                    Exit::HoleInRange,
                    format!("{text}; --allow-holes restores what is known")
                ));
            }
            problems.note(text);
        }
        Ok(())
    }

    /// The segments that lead to the moment, in order.
    pub(crate) fn spans(&self) -> Result<Vec<(Span, Vec<&Segment>)>> {
        let spans = self.resolved.spans().into_iter();
        spans
            .map(|span| {
                let segments = self.journal.segments_of(&span)?;
                Ok((span, segments))
            })
            .collect()
    }

    /// Whether rows of both are the same rows.
    pub(crate) fn is_of_the_journal_of(&self, other: &Self) -> bool {
        std::ptr::eq(self.journal, other.journal)
    }

    /// Reads the data of some rows of a segment, whose numbers rise.
    pub(crate) fn data(
        &self,
        segment: u32,
        rows: Vec<u64>,
    ) -> Result<impl Iterator<Item = journal::Result<(u64, Data)>>> {
        let segment = self.drive.fetch(self.journal.segment(u64::from(segment))?)?;
        Ok(segment.data(rows)?)
    }

    /// Says which media a plan needs that were not given.
    ///
    /// # Errors
    /// Exit code 20 where there are any and nobody can be asked for them.
    pub(crate) fn check_media(&self, plan: &Plan) -> Result<()> {
        self.drive.check(self.journal, plan)
    }
}

/// What is to be made of a state.
fn plan_of(state: State, allow_holes: bool, problems: &mut Problems) -> Result<Folded> {
    let root = state.root().ok_or_else(|| integrity("the journal has no base"))?;
    let (mut inodes, mut contents) = (HashMap::new(), Vec::new());
    for (key, mut inode) in state.into_inodes() {
        if !inode.extents.is_empty() {
            contents.push((key, std::mem::take(&mut inode.extents)));
        }
        inodes.insert(key, Box::new(raw(inode)));
        spill::check()?;
    }
    let Built { mut plan, index } = Builder::new(inodes, allow_holes, problems).build(root)?;
    let mut noted = Vec::new();
    // Beside the extents, which go one file after the other, they are most of what a plan takes.
    let pieces = contents.iter().map(|(_, extents)| extents.len()).sum();
    plan.pieces.reserve_exact(pieces);
    for (key, extents) in contents {
        let Some(&node) = index.get(&key) else { continue };
        // What is written goes where its name leads: into a device or pipe that the journal also made, it would leave the target.
        if !matches!(plan.node(node).kind, Kind::File { .. }) {
            let what = format!("{} is no file and has content", plan.path(node));
            if !allow_holes {
                return Err(integrity(format!("the journal contradicts itself: {what}")));
            }
            noted.push(what);
            continue;
        }
        for extent in extents.iter() {
            plan.pieces.push(Piece {
                row: row_ref(extent.source.row),
                data_offset: extent.source.offset,
                node,
                offset: extent.offset,
                length: extent.length,
            });
        }
    }
    noted
        .into_iter()
        .for_each(|what| problems.note(format!("left out: {what}")));
    plan.pieces.sort_unstable();
    Ok(Folded { plan, index })
}

/// Refuses what is not signed with the trusted key. Where none is named, says with which keys it is signed.
fn check_keys(reader: &Reader, trusted: Option<PublicKey>) -> Result<()> {
    let mut keys = BTreeSet::new();
    for segment in reader.journals().flat_map(Journal::all_segments) {
        let key = segment.manifest.signed_by();
        if let Some(trusted) = trusted
            && key != Some(trusted)
        {
            let by = key.map_or_else(|| "not signed".to_owned(), |key| format!("signed with key {key}"));
            return Err(failure(
                Exit::WrongKey,
                format!(
                    "{} on {} is {by}, and {trusted} is trusted: this is not what you trust, or another key is right",
                    segment.name(),
                    segment.medium()
                ),
            ));
        }
        keys.extend(key);
    }
    if trusted.is_none() {
        for key in keys {
            info!(
                "signed with key {}: compare it, or name it with --trust-key {key}",
                key.fingerprint()
            );
        }
    }
    Ok(())
}

/// Parses `--at`: what the journal knows, and a time without an offset, which is local.
pub(crate) fn parse_at(text: Option<&str>) -> Result<At> {
    let Some(text) = text else { return Ok(At::Latest) };
    text.parse::<At>().or_else(|why| {
        let local = text
            .parse::<DateTime>()
            .ok()
            .and_then(|time| TimeZone::system().to_timestamp(time).ok());
        let time_ns = local.and_then(|time| i64::try_from(time.as_nanosecond()).ok());
        time_ns
            .map(At::Time)
            .ok_or_else(|| failure(Exit::Usage, format!("--at: {why}")))
    })
}

/// Refuses a chain that was altered. Segments that are only missing are said, and matter where they are needed.
pub(crate) fn check_chain(journal: &Journal) -> Result<()> {
    let (missing, altered): (Vec<&Problem>, Vec<&Problem>) =
        journal.problems().iter().partition(|problem| problem.is_missing);
    for problem in missing {
        warn!("{problem}");
    }
    if altered.is_empty() {
        return Ok(());
    }
    let altered: Vec<&str> = altered.iter().map(|problem| problem.text.as_str()).collect();
    Err(integrity(format!("integrity failure: {}", altered.join("; "))))
}

fn row_ref(journal::RowRef { segment, row }: journal::RowRef) -> RowRef {
    RowRef { segment, row }
}

fn raw(inode: Inode) -> RawInode {
    let Inode {
        attributes,
        size,
        extents: _,
        entries,
        mut xattrs,
        link_target,
    } = inode;
    xattrs.retain(|name, _| !ACL_SHADOWS.contains(&name.as_slice()));
    RawInode {
        attributes: Attributes {
            size: Some(size),
            ..attributes
        },
        link_target,
        entries,
        xattrs,
    }
}
