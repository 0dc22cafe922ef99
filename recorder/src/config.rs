//! What to record and whereto: from the command line, or from the service's configuration file.
//!
//! Owns the file's shape and the checks that need no file system; whether the paths are fit is the daemon's to find out.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;

use crate::cli::AttachArgs;
use crate::cli::exit::{USAGE, coded};
use crate::daemon::checkpoints::Policy;
use crate::pipeline::OnFull;

/// Where spools are put unless told otherwise.
pub(crate) const SPOOL_DEFAULT: &str = "/var/lib/tapeworm/spool";
/// Default size of the ring in MiB.
pub(crate) const RING_MIB_DEFAULT: u32 = 64;
/// Default bound of a spool in MiB.
pub(crate) const SPOOL_MIB_DEFAULT: u32 = 1024;
/// Smallest bound of a spool in MiB.
pub(crate) const SPOOL_MIB_MIN: u32 = 256;
/// Default time between two barriers in seconds: after a power cut the content of what was written since the last one is read again.
pub(crate) const BARRIER_S_DEFAULT: u32 = 60;
/// Largest ring in MiB: the kernel locks its memory.
const RING_MIB_MAX: u32 = 1024;
/// Largest configuration file in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// One volume to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeConfig {
    /// Any path on the file system.
    pub(crate) path: PathBuf,
    /// Directories where media are mounted: the journal goes on on the next one where one is full or ejected.
    pub(crate) media: Vec<PathBuf>,
    /// Directories where media for copies are mounted.
    pub(crate) copies: Vec<PathBuf>,
    /// Directory that the volume's spool directory is made in.
    pub(crate) spool: PathBuf,
    /// Size of the ring in bytes.
    pub(crate) ring_bytes: u32,
    /// Bound of the spool in bytes.
    pub(crate) spool_bytes_max: u64,
    /// Time between two barriers.
    pub(crate) barrier: Duration,
    /// What to do before ring and spool are full.
    pub(crate) on_full: OnFull,
    /// When checkpoints are made.
    pub(crate) checkpoints: Policy,
    /// Age recipients that the journal is encrypted to; none where it is not.
    pub(crate) recipients: Vec<String>,
    /// Whether this host keeps nothing that reads what was encrypted.
    pub(crate) is_write_only: bool,
    /// Replayer to put on the medium.
    pub(crate) replayer: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    volume: Vec<FileVolume>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileVolume {
    path: PathBuf,
    medium: OneOrMore,
    copies: Option<OneOrMore>,
    spool: Option<PathBuf>,
    ring_mib: Option<u32>,
    spool_mib: Option<u32>,
    barrier_s: Option<u32>,
    #[serde(default)]
    on_full: OnFull,
    checkpoint_gib: Option<u32>,
    checkpoint_hours: Option<u32>,
    media_max: Option<u32>,
    #[serde(default)]
    checkpoint_live: bool,
    #[serde(default)]
    recipients: Vec<String>,
    #[serde(default)]
    write_only: bool,
    replayer: Option<PathBuf>,
}

/// One directory, or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(PathBuf),
    More(Vec<PathBuf>),
}

impl OneOrMore {
    fn into_list(self) -> Vec<PathBuf> {
        match self {
            Self::One(path) => vec![path],
            Self::More(paths) => paths,
        }
    }
}

/// The volumes that the arguments of `attach` name.
pub(crate) fn from_arguments(arguments: &AttachArgs) -> Result<Vec<VolumeConfig>> {
    let AttachArgs {
        paths,
        medium,
        copies,
        spool,
        ring_mib,
        spool_mib,
        barrier_s,
        on_full,
        checkpoint_gib,
        checkpoint_hours,
        media_max,
        checkpoint_live,
        recipient,
        write_only,
        replayer,
    } = arguments;
    let checkpoints = policy(*checkpoint_gib, *checkpoint_hours, *media_max, *checkpoint_live)
        .and_then(|policy| check_encryption(recipient, *write_only, policy).map(|()| policy))
        .and_then(|policy| check_copies(medium, copies).map(|()| policy))
        .map_err(|why| coded(USAGE, why))?;
    let volumes = paths
        .iter()
        .map(|path| VolumeConfig {
            path: path.clone(),
            media: medium.clone(),
            copies: copies.clone(),
            spool: spool.clone(),
            ring_bytes: ring_mib << 20,
            spool_bytes_max: u64::from(*spool_mib) << 20,
            barrier: Duration::from_secs(u64::from(*barrier_s)),
            on_full: *on_full,
            checkpoints,
            recipients: recipient.clone(),
            is_write_only: *write_only,
            replayer: replayer.clone(),
        })
        .collect();
    Ok(volumes)
}

/// Reads the configuration file. Unknown keys are errors; so is a file that names no volume.
pub(crate) fn read(path: &Path) -> Result<Vec<VolumeConfig>> {
    let bad = |why: String| coded(USAGE, format!("read configuration {}: {why}", path.display()));
    let length = std::fs::metadata(path)
        .map_err(|error| bad(error.to_string()))?
        .len();
    if length > FILE_BYTES_MAX {
        return Err(bad(format!(
            "{length} bytes, at most {FILE_BYTES_MAX} are accepted"
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    parse(&text).map_err(bad)
}

fn parse(text: &str) -> Result<Vec<VolumeConfig>, String> {
    let File { volume } = toml::from_str(text).map_err(|error| error.to_string())?;
    if volume.is_empty() {
        return Err("it names no [[volume]]".to_owned());
    }
    volume
        .into_iter()
        .map(
            |FileVolume {
                 path,
                 medium,
                 copies,
                 spool,
                 ring_mib,
                 spool_mib,
                 barrier_s,
                 on_full,
                 checkpoint_gib,
                 checkpoint_hours,
                 media_max,
                 checkpoint_live,
                 recipients,
                 write_only,
                 replayer,
             }| {
                let media = medium.into_list();
                let copies = copies.map_or_else(Vec::new, OneOrMore::into_list);
                if media.is_empty() {
                    return Err(format!("volume {} names no medium", path.display()));
                }
                for named in media.iter().chain(&copies).chain([&path]) {
                    if !named.is_absolute() {
                        return Err(format!("{} is not an absolute path", named.display()));
                    }
                }
                let ring_mib = check_ring_mib(ring_mib.unwrap_or(RING_MIB_DEFAULT))?;
                let spool_mib = spool_mib.unwrap_or(SPOOL_MIB_DEFAULT);
                if spool_mib < SPOOL_MIB_MIN {
                    return Err(format!(
                        "spool_mib is {spool_mib}, at least {SPOOL_MIB_MIN} are needed"
                    ));
                }
                let barrier_s = barrier_s.unwrap_or(BARRIER_S_DEFAULT);
                if barrier_s == 0 {
                    return Err("barrier_s is 0, at least 1 is needed".to_owned());
                }
                let checkpoints = policy(checkpoint_gib, checkpoint_hours, media_max, checkpoint_live)?;
                check_encryption(&recipients, write_only, checkpoints)?;
                check_copies(&media, &copies)?;
                Ok(VolumeConfig {
                    path,
                    media,
                    copies,
                    spool: spool.unwrap_or_else(|| PathBuf::from(SPOOL_DEFAULT)),
                    ring_bytes: ring_mib << 20,
                    spool_bytes_max: u64::from(spool_mib) << 20,
                    barrier: Duration::from_secs(u64::from(barrier_s)),
                    on_full,
                    checkpoints,
                    recipients,
                    is_write_only: write_only,
                    replayer,
                })
            },
        )
        .collect()
}

/// When checkpoints are made, from what was asked for.
fn policy(
    gib: Option<u32>,
    hours: Option<u32>,
    media_max: Option<u32>,
    is_live: bool,
) -> Result<Policy, String> {
    for (name, value) in [("checkpoint_gib", gib), ("checkpoint_hours", hours)] {
        if value == Some(0) {
            return Err(format!("{name} is 0, at least 1 is needed"));
        }
    }
    // A checkpoint is begun when the last medium allowed is, and may itself need another one.
    if media_max.is_some_and(|media_max| media_max < 2) {
        return Err("media_max is below 2: a checkpoint is made while another medium is begun".to_owned());
    }
    if is_live && gib.or(hours).or(media_max).is_none() {
        return Err(
            "checkpoint_live says nothing without checkpoint_gib, checkpoint_hours or media_max".to_owned(),
        );
    }
    Ok(Policy {
        is_live,
        bytes: gib.map(|gib| u64::from(gib) << 30),
        interval: hours.map(|hours| Duration::from_secs(u64::from(hours) * 3600)),
        media_max,
    })
}

/// A copy beside its original is none.
pub(crate) fn check_copies(media: &[PathBuf], copies: &[PathBuf]) -> Result<(), String> {
    match copies.iter().find(|place| media.contains(place)) {
        None => Ok(()),
        Some(place) => Err(format!(
            "{} is named as a place for the medium and for copies: a copy lies on another medium, at a place of its own",
            place.display()
        )),
    }
}

/// Checks what does not go together; recipients themselves are looked at where keys are.
fn check_encryption(recipients: &[String], is_write_only: bool, checkpoints: Policy) -> Result<(), String> {
    if is_write_only && recipients.is_empty() {
        return Err("write_only says nothing without recipients".to_owned());
    }
    if is_write_only && checkpoints != Policy::default() {
        return Err(
            "checkpoints are made from the journal, and with write_only this host cannot read it: leave one of the two out"
                .to_owned(),
        );
    }
    Ok(())
}

/// The value of `--ring-mib`.
pub(crate) fn parse_ring_mib(text: &str) -> Result<u32, String> {
    check_ring_mib(text.parse().map_err(|_| format!("{text} is not a number"))?)
}

fn check_ring_mib(mib: u32) -> Result<u32, String> {
    if mib.is_power_of_two() && mib <= RING_MIB_MAX {
        Ok(mib)
    } else {
        Err(format!(
            "the ring must be a power of two of at most {RING_MIB_MAX} MiB, not {mib}"
        ))
    }
}

/// A mark's name is printed, typed and stored: 1 to 255 bytes without control characters.
pub(crate) fn check_mark_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) {
        return Err(coded(
            USAGE,
            "a mark's name has 1 to 255 bytes and no control characters",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::code_of;

    #[test]
    fn a_file_with_two_volumes() {
        let volumes = parse(
            "[[volume]]\npath = \"/srv\"\nmedium = \"/media/a\"\n\
             [[volume]]\npath = \"/home\"\nmedium = [\"/media/b\", \"/media/c\"]\ncopies = [\"/media/d\", \"/media/e\"]\nspool = \"/s\"\nring_mib = 16\nspool_mib = 256\n",
        )
        .unwrap();
        assert_eq!(volumes.len(), 2);
        assert_eq!(volumes[0].spool, Path::new(SPOOL_DEFAULT));
        assert_eq!(volumes[0].media, [Path::new("/media/a")]);
        assert_eq!(volumes[1].media, [Path::new("/media/b"), Path::new("/media/c")]);
        assert_eq!(volumes[0].copies, <[PathBuf; 0]>::default());
        assert_eq!(volumes[1].copies, [Path::new("/media/d"), Path::new("/media/e")]);
        assert_eq!(volumes[1].ring_bytes, 16 << 20);
        assert_eq!(volumes[1].spool_bytes_max, 256 << 20);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, why) in [
            ("", "no [[volume]]"),
            (
                "[[volume]]\npath = \"/a\"\nmedium = \"/m\"\nmedum = \"/n\"\n",
                "medum",
            ),
            ("[[volume]]\npath = \"a\"\nmedium = \"/m\"\n", "absolute"),
            (
                "[[volume]]\npath = \"/a\"\nmedium = \"/m\"\nring_mib = 12\n",
                "power of two",
            ),
            (
                "[[volume]]\npath = \"/a\"\nmedium = \"/m\"\nspool_mib = 255\n",
                "256",
            ),
            (
                "[[volume]]\npath = \"/a\"\nmedium = \"/m\"\nbarrier_s = 0\n",
                "barrier_s",
            ),
            ("[[volume]]\npath = \"/a\"\n", "medium"),
            ("[[volume]]\npath = \"/a\"\nmedium = []\n", "no medium"),
            (
                "[[volume]]\npath = \"/a\"\nmedium = [\"/m\", \"n\"]\n",
                "absolute",
            ),
            (
                "[[volume]]\npath = \"/a\"\nmedium = \"/m\"\ncopies = \"n\"\n",
                "absolute",
            ),
            (
                "[[volume]]\npath = \"/a\"\nmedium = [\"/l\", \"/m\"]\ncopies = [\"/n\", \"/m/\"]\n",
                "/m/ is named as a place for the medium and for copies",
            ),
            (
                "[[volume]]\npath = \"/a\"\nmedium = \"/m\"\nwrite_only = true\n",
                "without recipients",
            ),
            (
                "[[volume]]\npath = \"/a\"\nmedium = \"/m\"\nrecipients = [\"age1\"]\nwrite_only = true\nmedia_max = 2\n",
                "cannot read it",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_smallest_spool_has_room_for_its_files() {
        assert!(u64::from(SPOOL_MIB_MIN) << 20 >= crate::spool::FILES_MIN * crate::spool::FILE_BYTES);
    }

    #[test]
    fn a_missing_file_is_a_usage_error() {
        assert_eq!(
            code_of(&read(Path::new("/nonexistent/x.toml")).unwrap_err()),
            USAGE
        );
    }

    #[test]
    fn mark_names() {
        assert!(check_mark_name("before upgrade é").is_ok());
        for name in ["", "a\nb", "a\0b", &"x".repeat(256)] {
            assert!(check_mark_name(name).is_err(), "{name:?}");
        }
    }
}
