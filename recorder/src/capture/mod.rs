//! Capture: puts the eBPF programs under one volume and hands out what they report.
//!
//! Owns loading, attaching, pinning and the shared maps. It does not know what an event means.

mod hooks;
mod kernel;
mod probes;
mod ring;
mod shared;
mod volume;

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use abi::{ABI_VERSION, Config, Counter, INODE_BYTES_MAX, features};
use anyhow::{Context, Result, anyhow, ensure};
use aya::maps::{HashMap, MapData};
use aya::programs::{KProbe, ProbeKind, ProgramInfo};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use serde::{Deserialize, Serialize};

pub(crate) use hooks::{Hook, HookState, survey};
pub(crate) use kernel::Kernel;
use probes::{Probes, Side};
pub(crate) use ring::Ring;
pub(crate) use shared::{Counters, Lost, Sequence, ThrottleArray};
pub(crate) use volume::{SUPPORT, Support, Volume};

/// The programs, as `cargo xtask build` made them; empty where they were not built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("TAPEWORM_BPF_OBJECT"));

/// Number of the top-level subvolume of every btrfs (`BTRFS_FS_TREE_OBJECTID`).
const BTRFS_FS_TREE: u64 = 5;

/// Where programs, maps and links are pinned.
const PIN_ROOT: &str = "/sys/fs/bpf/tapeworm";

/// How to capture.
#[derive(Clone, Debug)]
pub(crate) struct CaptureOptions {
    /// Size of the ring buffer in bytes: a power of two, at least a page.
    pub(crate) ring_bytes: u32,
    /// Inodes whose changes, and whose children's, are not recorded.
    pub(crate) excluded_inodes: Vec<u64>,
}

/// Programs attached to one volume. Their pins keep them there, whatever becomes of this process.
pub(crate) struct Capture {
    programs: Vec<ProgramInfo>,
    probes: Probes,
    pin_dir: PathBuf,
    /// What was attached where; not known of what an earlier recorder attached.
    hooks: Vec<Hook>,
    pins: Pins,
    ring: Option<Ring>,
    sequence: Sequence,
    counters: Counters,
    lost: Lost,
    throttle: Option<ThrottleArray>,
    messages: Option<Messages>,
}

/// What tells whether pins are the ones that somebody knew, and all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pins {
    /// The kernel's number of the map that counts: given once in its life.
    sequence_map: u32,
    /// Pinned links.
    links: usize,
}

/// What the programs have to say, as text.
type Messages = EbpfLogger<&'static dyn log::Log>;

impl Capture {
    /// Loads, attaches and pins everything that the volume's file system needs on this kernel.
    ///
    /// # Errors
    /// What is missing, and what to do about it.
    pub(crate) fn attach(volume: &Volume, options: &CaptureOptions) -> Result<Self> {
        ensure!(
            !OBJECT.is_empty(),
            "this recorder was built without its eBPF programs: build it with `cargo xtask build`"
        );
        let kernel = Kernel::read()?;
        kernel.check_usable()?;
        let mut hooks = hooks::choose(&kernel, &volume.fs_type)?;
        let pin_dir = Path::new(PIN_ROOT).join(&volume.uuid);
        fs::create_dir_all(&pin_dir).with_context(|| {
            format!(
                "create {}: is the BPF file system mounted on /sys/fs/bpf?",
                pin_dir.display()
            )
        })?;
        let config = config(&kernel, volume, options)?;
        probes::ensure_tracefs()?;
        let probes = Probes::of(&volume.uuid);
        // To one of the same name the kernel would add: each hit would be captured twice.
        probes.remove().context("an earlier recorder's probes")?;
        let mut ebpf = EbpfLoader::new()
            .override_global("CONFIG", config_bytes(&config), true)
            .map_max_entries("EVENTS", options.ring_bytes)
            .load(OBJECT)
            .context("load the eBPF object")?;
        if !options.excluded_inodes.is_empty() {
            let map = ebpf.map_mut("EXCLUDED").context("find map EXCLUDED")?;
            let mut excluded: HashMap<_, u64, u8> = HashMap::try_from(map).context("open map EXCLUDED")?;
            for ino in &options.excluded_inodes {
                excluded.insert(ino, 1, 0).context("exclude an inode")?;
            }
        }
        for hook in &mut hooks {
            attach_hook(&mut ebpf, hook, &probes, &pin_dir)?;
        }
        for (name, map) in ebpf.maps() {
            map.pin(pin_dir.join(format!("map-{}", name.replace('.', "_"))))
                .with_context(|| format!("pin map {name}"))?;
        }
        let mut capture = Self::open(&volume.uuid)?;
        capture.hooks = hooks;
        Ok(capture)
    }

    /// What is pinned for a volume, by this recorder or an earlier one.
    ///
    /// # Errors
    /// When something is missing there.
    pub(crate) fn open(uuid: &str) -> Result<Self> {
        let pin_dir = Path::new(PIN_ROOT).join(uuid);
        let (mut programs, mut links) = (Vec::new(), 0);
        for name in pin_names(&pin_dir)? {
            if name.starts_with("link-") {
                links += 1;
            } else if name.starts_with("prog-") {
                programs.push(
                    ProgramInfo::from_pin(pin_dir.join(&name)).with_context(|| format!("open {name}"))?,
                );
            }
        }
        let map = |name: &str| open_map(&pin_dir, name);
        let (events, sequence) = (map("EVENTS")?, map("SEQ")?);
        let info = |map: &MapData| map.info().context("look at a map");
        let fd = events
            .fd()
            .as_fd()
            .try_clone_to_owned()
            .context("open the ring")?;
        let ring = Ring::open(fd, info(&events)?.max_entries())?;
        let pins = Pins {
            sequence_map: info(&sequence)?.id(),
            links,
        };
        // All programs speak through one map; one that never speaks does not know it.
        let messages = programs
            .iter()
            .find_map(|program| EbpfLogger::init_from_id(program.id()).ok());
        if messages.is_none() {
            tracing::warn!("what the programs have to say cannot be read");
        }
        Ok(Self {
            sequence: Sequence::new(sequence.fd().as_fd())?,
            counters: Counters::new(map("COUNTERS")?.fd().as_fd())?,
            lost: Lost::new(map("LOST")?.fd().as_fd())?,
            throttle: Some(ThrottleArray::new(map("THROTTLE")?.fd().as_fd())?),
            programs,
            probes: Probes::of(uuid),
            pin_dir,
            hooks: Vec::new(),
            pins,
            ring: Some(ring),
            messages,
        })
    }

    /// Passes on what the programs have said.
    pub(crate) fn pass_on_messages(&mut self) {
        if let Some(messages) = &mut self.messages {
            messages.flush();
        }
    }

    /// The ring's reader; there is one.
    ///
    /// # Errors
    /// When it was taken before.
    pub(crate) fn take_ring(&mut self) -> Result<Ring> {
        self.ring.take().context("the ring has its reader already")
    }

    /// The way to slow writers down; there is one.
    ///
    /// # Errors
    /// When it was taken before.
    pub(crate) fn take_throttle(&mut self) -> Result<ThrottleArray> {
        self.throttle
            .take()
            .context("somebody slows writers down already")
    }

    /// The counter of sequence numbers.
    pub(crate) fn sequence(&self) -> Sequence {
        self.sequence.clone()
    }

    /// The counters of the programs.
    pub(crate) fn counters(&self) -> Counters {
        self.counters.clone()
    }

    /// What found no place in the ring.
    pub(crate) fn lost(&self) -> Lost {
        self.lost.clone()
    }

    /// What tells these pins from others.
    pub(crate) fn pins(&self) -> &Pins {
        &self.pins
    }

    /// What is attached where.
    pub(crate) fn hooks(&self) -> &[Hook] {
        &self.hooks
    }

    /// Times that a probe was hit and its program did not run. A rise is a hole that nothing names.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn misses(&self) -> Result<u64> {
        let mut skipped = 0;
        for program in &self.programs {
            skipped += shared::recursion_misses(program.fd().context("open a program")?.as_fd());
        }
        Ok(skipped + self.probes.misses()?)
    }

    /// Takes the programs off the volume.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub(crate) fn detach(self) -> Result<()> {
        let Self {
            programs,
            probes,
            pin_dir,
            ..
        } = self;
        remove_pins(&pin_dir)?;
        drop(programs);
        remove_probes(&probes);
        Ok(())
    }
}

/// Removes probes that have no links any more. One that stays does nothing, and is in nobody's way until the next attach, which waits for it.
fn remove_probes(probes: &Probes) {
    if let Err(error) = probes.remove() {
        tracing::warn!("{error:#}");
    }
}

/// Hash of the programs that this recorder carries.
pub(crate) fn object_hash() -> String {
    blake3::hash(OBJECT).to_hex().to_string()
}

/// Whether pins of an earlier recorder are there for the volume.
pub(crate) fn has_pins(uuid: &str) -> bool {
    Path::new(PIN_ROOT).join(uuid).exists()
}

/// The volumes that programs are pinned for.
pub(crate) fn pinned_volumes() -> Vec<String> {
    pin_names(Path::new(PIN_ROOT)).unwrap_or_default()
}

/// What programs that nobody reads from have captured so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unread {
    /// Newest number taken.
    pub(crate) captured_seq: u64,
    /// Bytes that wait in the ring.
    pub(crate) ring_fill_bytes: u64,
    /// Bytes that the ring holds.
    pub(crate) ring_bytes: u64,
    /// Events that found no room there, since the programs were attached.
    pub(crate) dropped: u64,
}

/// Looks at the programs of a volume whose recorder has ended.
///
/// # Errors
/// When something is missing there.
pub(crate) fn unread(uuid: &str) -> Result<Unread> {
    let pin_dir = Path::new(PIN_ROOT).join(uuid);
    let map = |name: &str| open_map(&pin_dir, name);
    let events = map("EVENTS")?;
    let ring_bytes = events.info().context("look at the ring")?.max_entries();
    let fd = events
        .fd()
        .as_fd()
        .try_clone_to_owned()
        .context("open the ring")?;
    let ring = Ring::open(fd, ring_bytes)?;
    Ok(Unread {
        captured_seq: Sequence::new(map("SEQ")?.fd().as_fd())?.peek().saturating_sub(1),
        ring_fill_bytes: ring.fill_bytes(),
        ring_bytes: ring.size_bytes(),
        dropped: Counters::new(map("COUNTERS")?.fd().as_fd())?.get(Counter::Dropped),
    })
}

fn open_map(pin_dir: &Path, name: &str) -> Result<MapData> {
    MapData::from_pin(pin_dir.join(format!("map-{name}"))).with_context(|| format!("open map {name}"))
}

/// Removes the pins of an earlier recorder: its programs stop capturing.
///
/// # Errors
/// When a pin cannot be removed.
pub(crate) fn remove_stale_pins(uuid: &str) -> Result<()> {
    remove_pins(&Path::new(PIN_ROOT).join(uuid))?;
    remove_probes(&Probes::of(uuid));
    Ok(())
}

fn pin_names(pin_dir: &Path) -> Result<Vec<String>> {
    fs::read_dir(pin_dir)
        .and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        })
        .with_context(|| format!("read {}", pin_dir.display()))
}

fn remove_pins(pin_dir: &Path) -> Result<()> {
    // The links first: a program without its maps' pins still captures, one without its link does not.
    let mut names = pin_names(pin_dir)?;
    names.sort_by_key(|name| !name.starts_with("link-"));
    for name in names {
        let pin = pin_dir.join(name);
        fs::remove_file(&pin).with_context(|| format!("unpin {}", pin.display()))?;
    }
    fs::remove_dir(pin_dir).with_context(|| format!("remove {}", pin_dir.display()))
}

/// Name of the pin that keeps a hook attached.
fn link_pin(hook: &Hook) -> String {
    format!("link-{}-{}", hook.program, hook.function)
}

fn attach_hook(ebpf: &mut Ebpf, hook: &mut Hook, probes: &Probes, pin_dir: &Path) -> Result<()> {
    let pin = link_pin(hook);
    let Hook {
        program,
        function,
        state,
        ..
    } = hook;
    let probe: &mut KProbe = ebpf
        .program_mut(program)
        .with_context(|| format!("find program {program}"))?
        .try_into()
        .with_context(|| format!("program {program} is no kprobe"))?;
    if probe.fd().is_err() {
        probe
            .load()
            .map_err(|error| anyhow!("load program {program}: {}", last_lines(&error)))?;
        probe
            .pin(pin_dir.join(format!("prog-{program}")))
            .with_context(|| format!("pin program {program}"))?;
    }
    let side = match probe.kind() {
        ProbeKind::Entry => Side::Entry,
        ProbeKind::Return => Side::Return,
    };
    let loaded = probe.fd().with_context(|| format!("find program {program}"))?;
    probes.attach(loaded.as_fd(), side, program, function, &pin_dir.join(&pin))?;
    *state = HookState::Attached;
    Ok(())
}

/// The verifier's log ends with its reason.
fn last_lines(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    let lines: Vec<&str> = text.lines().collect();
    let (head, tail) = (
        lines.first().copied().unwrap_or_default(),
        &lines[lines.len().saturating_sub(30)..],
    );
    if lines.len() > 30 {
        format!("{head} ... {}", tail.join("\n"))
    } else {
        text
    }
}

fn config(kernel: &Kernel, volume: &Volume, options: &CaptureOptions) -> Result<Config> {
    let inode_bytes = kernel.offsets.inode_bytes();
    ensure!(
        (1..INODE_BYTES_MAX).contains(&inode_bytes),
        "kernel {}: what is told of an inode takes {inode_bytes} bytes of it: this recorder does not know this kernel yet",
        kernel.release
    );
    let mut config = Config {
        abi_version: ABI_VERSION,
        device: volume.device,
        vmemmap_base_address: kernel.vmemmap_base_address,
        page_offset_base_address: kernel.page_offset_base_address,
        features: 0,
        subvolume: if volume.fs_type == "btrfs" {
            BTRFS_FS_TREE
        } else {
            0
        },
        pg_head_bit: kernel.pg_head_bit,
        pg_uptodate_bit: kernel.pg_uptodate_bit,
        private: kernel.private(&volume.fs_type)?,
        offsets: kernel.offsets,
        inode_bytes,
        pad: [0; 6],
    };
    if config.offsets.folio_order == abi::ABSENT {
        config.features |= features::FOLIO_ORDER_IN_FLAGS;
    }
    if config.offsets.inode_atime_sec == abi::ABSENT {
        config.features |= features::INODE_TIMES_ARE_STRUCTS;
    }
    if kernel.write_end_takes_pages {
        config.features |= features::WRITE_END_TAKES_PAGES;
    }
    if !options.excluded_inodes.is_empty() {
        config.features |= features::HAS_EXCLUDED;
    }
    if labels_new_inodes() {
        config.features |= features::CREATES_ARE_LABELLED;
    }
    Ok(config)
}

/// Whether a security module gives every new inode a label, which the file system then stores past all hooks.
fn labels_new_inodes() -> bool {
    let active = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    let labels = |module: &str| matches!(module.trim(), "selinux" | "smack");
    active.split(',').any(labels)
        || Path::new("/sys/fs/selinux/status").exists()
        || Path::new("/sys/fs/smackfs").exists()
}

fn config_bytes(config: &Config) -> &[u8] {
    // SAFETY: repr(C) of integers without padding bytes (the size is asserted, fields are ordered by size); read-only.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(config).cast::<u8>(), size_of::<Config>()) }
}

const _: () = assert!(Counter::Count as u32 == 10);
