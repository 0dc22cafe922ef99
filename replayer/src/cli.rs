//! The command line: what can be asked. Owns no behaviour.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgGroup, Args, Parser, Subcommand};
use journal::{Identities, PublicKey};

use crate::restore::device::FsType;

/// Longest first line of a file with a key, in bytes.
const KEY_LINE_BYTES_MAX: u64 = 1024;
/// Most that is read of a file of identities.
const IDENTITY_FILE_BYTES_MAX: u64 = 64 << 10;

/// Rebuilds a file system from its journal.
#[derive(Debug, Parser)]
#[command(
    name = "replayer",
    version,
    about = "Reads tapeworm media: rebuilds the recorded file system, checks and lists the journal",
    after_help = "Results are on stdout, progress and logs on stderr.\n\
        Exit codes: 0 ok, 1 failed, 2 usage, 3 finished but incomplete, 10 no journal there, 12 wrong key, 20 medium needed,\n\
        30 integrity failure, 31 hole in the requested range."
)]
pub(crate) struct Cli {
    /// Results and errors as one JSON document on stdout.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Rebuild the recorded tree in an empty directory, or on a blank disk.
    Restore(RestoreArgs),
    /// Say what a restore would read, from which media in which order, and what it would make.
    Plan(PlanArgs),
    /// Read every segment: hashes, chain, and that every row decodes.
    Verify(VerifyArgs),
    /// List the moments that can be restored by name, and the newest.
    Points(PointsArgs),
    /// List a directory, or a file, as it was at a moment.
    Ls(LsArgs),
    /// Find names in the tree as it was at a moment.
    Find(FindArgs),
    /// Write the content that a file had at a moment to stdout.
    Cat(CatArgs),
    /// Tell what happened to a path: what it named, every change of that, and who made it.
    History(HistoryArgs),
    /// Compare the trees of two moments.
    Diff(DiffArgs),
    /// Restore to a scratch place, read it back, compare it with the journal, remove it: `recorder status` tells how that went.
    Rehearse(RehearseArgs),
    /// Mount the tree as it was at a moment, read-only, until it is unmounted or this is told to end.
    Mount(MountArgs),
    /// Print the rows of the journal.
    Dump(DumpArgs),
    /// Write the segments as plain Parquet, decrypted where they are encrypted, for any SQL engine.
    Export(ExportArgs),
    /// Make an identity for an encrypted journal: the secret goes into a new file, whom to encrypt to is printed.
    Keygen(KeygenArgs),
}

impl Command {
    /// How much memory it may take, where it folds.
    pub(crate) fn memory(&self) -> Option<&MemoryArgs> {
        match self {
            Self::Restore(args) => Some(&args.memory),
            Self::Plan(args) => Some(&args.moment.past.memory),
            Self::Ls(args) => Some(&args.moment.past.memory),
            Self::Find(args) => Some(&args.moment.past.memory),
            Self::Cat(args) => Some(&args.moment.past.memory),
            Self::History(args) => Some(&args.memory),
            Self::Diff(args) => Some(&args.past.memory),
            Self::Rehearse(args) => Some(&args.moment.past.memory),
            Self::Mount(args) => Some(&args.moment.past.memory),
            Self::Verify(_) | Self::Points(_) | Self::Dump(_) | Self::Export(_) | Self::Keygen(_) => None,
        }
    }
}

/// How much memory a fold may take, and where it goes on.
#[derive(Args, Debug, Default)]
pub(crate) struct MemoryArgs {
    /// Memory to fold in, in bytes, or with K, M, G or T: beyond it the fold goes on in an unnamed file on a disk, as slow as that. Default: half of what
    /// this process may use.
    #[arg(long, value_name = "SIZE", value_parser = crate::spill::parse_size)]
    pub(crate) memory_max: Option<u64>,
    /// Directory for that file, which holds names and attributes unencrypted and is gone with the process; not in memory (tmpfs). Default: $TMPDIR, or
    /// /var/tmp.
    #[arg(long, value_name = "DIR")]
    pub(crate) spill_dir: Option<PathBuf>,
}

/// `replayer keygen`.
#[derive(Args, Debug)]
pub(crate) struct KeygenArgs {
    /// File that is made; whoever has it reads what is encrypted to it.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// Where the journal lies.
#[derive(Args, Debug)]
pub(crate) struct MediaArgs {
    /// Directory where a medium is mounted; given once for each, in any order.
    #[arg(long = "medium", value_name = "DIR", required = true)]
    pub(crate) media: Vec<PathBuf>,
    /// Public key that everything must be signed with (64 digits, or a file that holds them), from elsewhere than the media: `recorder key` prints it.
    #[arg(long, value_name = "KEY", value_parser = parse_key)]
    pub(crate) trust_key: Option<PublicKey>,
    /// File of the age identities that read an encrypted journal, as age-keygen writes it; given once for each.
    #[arg(long = "identity", value_name = "FILE", value_parser = parse_identities)]
    pub(crate) identities: Vec<Identities>,
}

impl MediaArgs {
    /// All identities that were given.
    pub(crate) fn identities(&self) -> Identities {
        let none = Identities::default();
        self.identities.iter().fold(none, |all, more| all.and(more))
    }
}

/// The identities in a file.
fn parse_identities(path: &str) -> Result<Identities, String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(IDENTITY_FILE_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| error.to_string())?;
    Identities::parse(&text).map_err(|error| error.to_string())
}

/// A public key, or a file that begins with one.
fn parse_key(text: &str) -> Result<PublicKey, String> {
    text.parse::<PublicKey>().or_else(|why| {
        let file = File::open(text).map_err(|error| format!("{why}; and as a file: {error}"))?;
        let mut first = String::new();
        BufReader::new(file.take(KEY_LINE_BYTES_MAX))
            .read_line(&mut first)
            .map_err(|error| error.to_string())?;
        first.parse()
    })
}

/// `replayer verify`.
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// Where the journal lies.
    #[command(flatten)]
    pub(crate) media: MediaArgs,
    /// What `recorder status` last said to be on the medium: fail where the journal ends before. Without it nothing can show that the
    /// newest segments are missing.
    #[arg(long, value_name = "EPOCH:SEQ")]
    pub(crate) durable: Option<Durable>,
}

/// `replayer restore`.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("target").required(true).args(["to", "device"])))]
pub(crate) struct RestoreArgs {
    /// Where the journal lies.
    #[command(flatten)]
    pub(crate) media: MediaArgs,
    /// What it may take to fold that.
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
    /// Restore into this directory, which must be empty, or is made.
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
    /// Make a file system of the recorded type, label and uuid on this blank block device and restore into it.
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<PathBuf>,
    /// Make this type of file system in place of the recorded one.
    #[arg(long, value_name = "TYPE", requires = "device")]
    pub(crate) mkfs: Option<FsType>,
    /// Destroy what lies on the device.
    #[arg(long, requires = "device")]
    pub(crate) wipe: bool,
    /// Which moment: latest, seq:N (of the newest epoch that has it), seq:EPOCH:N, mark:NAME, or a time (RFC 3339; without an offset, local). Default: the newest.
    #[arg(long, value_name = "POINT")]
    pub(crate) at: Option<String>,
    /// Which volume, where the media hold several.
    #[arg(long, value_name = "UUID")]
    pub(crate) volume: Option<String>,
    /// Apply every record to the target, one by one, in place of what is left of them all: a check, and slow.
    #[arg(long)]
    pub(crate) stepwise: bool,
    /// Restore although a hole before the point was never repaired: list what cannot be trusted, exit with 3.
    #[arg(long)]
    pub(crate) allow_holes: bool,
    /// Restore although the label of a medium is damaged or missing.
    #[arg(long)]
    pub(crate) without_label: bool,
    /// What `recorder status` last said to be on the medium: fail where the journal ends before.
    #[arg(long, value_name = "EPOCH:SEQ")]
    pub(crate) durable: Option<Durable>,
}

/// `replayer plan`.
#[derive(Args, Debug)]
pub(crate) struct PlanArgs {
    /// What would be restored.
    #[command(flatten)]
    pub(crate) moment: MomentArgs,
    /// Million bytes a second that media are read with and the target written: for the estimate.
    #[arg(long, value_name = "MB/S", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: u64,
}

/// `replayer rehearse`.
#[derive(Args, Debug)]
pub(crate) struct RehearseArgs {
    /// What is restored.
    #[command(flatten)]
    pub(crate) moment: MomentArgs,
    /// Directory with room for it: a directory is made there, and removed at the end.
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch: PathBuf,
    /// Leave the result in this file instead of where `recorder status` looks for it.
    #[arg(long, value_name = "FILE")]
    pub(crate) result: Option<PathBuf>,
}

/// Up to where a recorder said that a journal reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Durable {
    /// Epoch.
    pub(crate) epoch: u64,
    /// Sequence number in it.
    pub(crate) seq: u64,
}

impl FromStr for Durable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (epoch, seq) = text
            .split_once(':')
            .and_then(|(epoch, seq)| Some((epoch.parse().ok()?, seq.parse().ok()?)))
            .ok_or("two numbers with a colon between them, as in 3:1200")?;
        Ok(Self { epoch, seq })
    }
}

/// `replayer points`.
#[derive(Args, Debug)]
pub(crate) struct PointsArgs {
    /// Where the journal lies.
    #[command(flatten)]
    pub(crate) media: MediaArgs,
    /// Only this volume.
    #[arg(long, value_name = "UUID")]
    pub(crate) volume: Option<String>,
}

/// `replayer export`.
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// Where the journal lies.
    #[command(flatten)]
    pub(crate) media: MediaArgs,
    /// Directory to write into, which must be empty, or is made: it gets the files as on a medium; where the volume has several chains, a directory for each.
    #[arg(long, value_name = "DIR")]
    pub(crate) to: PathBuf,
    /// Which volume, where the media hold several.
    #[arg(long, value_name = "UUID")]
    pub(crate) volume: Option<String>,
}

/// `replayer dump`.
#[derive(Args, Debug)]
pub(crate) struct DumpArgs {
    /// Where the journal lies.
    #[command(flatten)]
    pub(crate) media: MediaArgs,
    /// First sequence number.
    #[arg(long, value_name = "SEQ")]
    pub(crate) from: Option<u64>,
    /// Last sequence number.
    #[arg(long, value_name = "SEQ")]
    pub(crate) to: Option<u64>,
    /// One JSON object a line. Raw names are strings: printable UTF-8 as it is, a backslash as `\\`, other bytes as `\xNN`.
    #[arg(long, conflicts_with = "json")]
    pub(crate) json_lines: bool,
    /// With the data of writes, in hexadecimal.
    #[arg(long)]
    pub(crate) data: bool,
    /// Only this volume.
    #[arg(long, value_name = "UUID")]
    pub(crate) volume: Option<String>,
}

/// A volume, to look into its past.
#[derive(Args, Debug)]
pub(crate) struct PastArgs {
    /// Where the journal lies.
    #[command(flatten)]
    pub(crate) media: MediaArgs,
    /// What it may take to fold that.
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
    /// Which volume, where the media hold several.
    #[arg(long, value_name = "UUID")]
    pub(crate) volume: Option<String>,
    /// Go on although a hole before the moment was never repaired: what cannot be trusted is listed, exit with 3.
    #[arg(long)]
    pub(crate) allow_holes: bool,
}

/// A moment of a volume.
#[derive(Args, Debug)]
pub(crate) struct MomentArgs {
    /// Which volume.
    #[command(flatten)]
    pub(crate) past: PastArgs,
    /// Which moment: latest, seq:N (of the newest epoch that has it), seq:EPOCH:N, mark:NAME, or a time (RFC 3339; without an offset, local). Default: the newest.
    #[arg(long, value_name = "POINT")]
    pub(crate) at: Option<String>,
}

/// `replayer ls`.
#[derive(Args, Debug)]
pub(crate) struct LsArgs {
    /// Where to look.
    #[command(flatten)]
    pub(crate) moment: MomentArgs,
    /// Directories below it too.
    #[arg(long, short = 'R')]
    pub(crate) recursive: bool,
    /// Path from the root of the volume; symbolic links are not followed.
    #[arg(default_value = "/")]
    pub(crate) path: OsString,
}

/// `replayer find`.
#[derive(Args, Debug)]
pub(crate) struct FindArgs {
    /// Where to look.
    #[command(flatten)]
    pub(crate) moment: MomentArgs,
    /// Only names that match this pattern of the shell: `*.conf`.
    #[arg(long, value_name = "GLOB")]
    pub(crate) name: Option<String>,
    /// Only this type: f, d, l, p, s, c or b.
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) file_type: Option<FileType>,
    /// Path from the root of the volume; symbolic links are not followed.
    #[arg(default_value = "/")]
    pub(crate) path: OsString,
}

/// A type of file, by the letter that `find` has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum FileType {
    /// Regular file.
    F,
    /// Directory.
    D,
    /// Symbolic link.
    L,
    /// Named pipe.
    P,
    /// Socket.
    S,
    /// Character device.
    C,
    /// Block device.
    B,
}

/// `replayer cat`.
#[derive(Args, Debug)]
pub(crate) struct CatArgs {
    /// Where to look.
    #[command(flatten)]
    pub(crate) moment: MomentArgs,
    /// Path of a regular file from the root of the volume; symbolic links are not followed.
    pub(crate) path: OsString,
}

/// `replayer history`.
#[derive(Args, Debug)]
pub(crate) struct HistoryArgs {
    /// Where the journal lies.
    #[command(flatten)]
    pub(crate) media: MediaArgs,
    /// What it may take to fold that.
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
    /// Which volume, where the media hold several.
    #[arg(long, value_name = "UUID")]
    pub(crate) volume: Option<String>,
    /// One JSON object a line.
    #[arg(long, conflicts_with = "json")]
    pub(crate) json_lines: bool,
    /// Path from the root of the volume; symbolic links are not followed.
    pub(crate) path: OsString,
}

/// `replayer diff`.
#[derive(Args, Debug)]
pub(crate) struct DiffArgs {
    /// Where to look.
    #[command(flatten)]
    pub(crate) past: PastArgs,
    /// The one moment: latest, seq:N, seq:EPOCH:N, mark:NAME, or a time.
    pub(crate) from: String,
    /// The other moment.
    #[arg(default_value = "latest")]
    pub(crate) to: String,
}

/// `replayer mount`.
#[derive(Args, Debug)]
pub(crate) struct MountArgs {
    /// What to mount.
    #[command(flatten)]
    pub(crate) moment: MomentArgs,
    /// MiB of unpacked data to keep in memory: what was read once need not be unpacked again.
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(CACHE_MIB_MIN..=CACHE_MIB_MAX))]
    pub(crate) cache_mib: u64,
    /// Empty directory to mount it on. As root, every user may look into it, within the permissions of that time; otherwise only the user who
    /// mounts, with fusermount3.
    pub(crate) directory: PathBuf,
}

/// The largest row group has its place.
const CACHE_MIB_MIN: u64 = 160;
/// 1 TiB.
const CACHE_MIB_MAX: u64 = 1 << 20;
