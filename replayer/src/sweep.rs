//! The sweep: every kind of rot, at every place of a small medium, and what `verify` and `restore` make of it.
//!
//! All of it must be detected by `verify`. `restore` must refuse (30; 20 where something is only not there; 10 where no journal is left)
//! and leave the target empty, or make the right tree, where what is damaged is none of the journal's. The data of a segment is read only
//! where something is left of it, and after the first names are made: there a part of the tree may be left, and must be said to be one.
//! Nothing else may be touched.
//!
//! Labels and manifests are flipped at every byte: each flip must be seen when the medium is opened, which is what both commands begin with,
//! and every sixth is followed through both to the end. The rest is flipped and cut by a stride from a fixed seed. With
//! `REPLAYER_SWEEP=full` in the environment every bit of everything is flipped, and everything cut at every byte (hours):
//! `REPLAYER_SWEEP=full cargo test -p replayer sweep -- --nocapture`.

pub(crate) mod medium;

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastrand::Rng;
use journal::store::DirStore;
use journal::{Manifest, Reader};

use self::medium::{LAST_SEQ, UUID};
use crate::cli::{Durable, MediaArgs, MemoryArgs, RestoreArgs, VerifyArgs};
use crate::exit::{Exit, exit_of};
use crate::output::Format;

/// A volume of which nothing is on the medium.
const OTHER_UUID: &str = "fedcba98-0123-4567-89ab-cdef01234567";

/// Makes the medium, and gives all its files by name.
fn make_medium(path: &Path) -> BTreeMap<String, Vec<u8>> {
    medium::make(path);
    files(path)
}

fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).expect("read") {
            let path = entry.expect("read").path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                let name = path.strip_prefix(root).expect("below").to_str().expect("text");
                found.insert(name.to_owned(), fs::read(&path).expect("read"));
            }
        }
    }
    found
}

/// What is compared of a restored tree.
fn tree(root: &Path) -> Vec<(String, u32, i64, Vec<u8>)> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).expect("read") {
            let path = entry.expect("read").path();
            let metadata = path.symlink_metadata().expect("read");
            let content = if metadata.is_dir() {
                waiting.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path).expect("read")
            };
            found.push((
                path.display().to_string(),
                metadata.mode(),
                metadata.mtime(),
                content,
            ));
        }
    }
    found.sort();
    found
}

/// What a restore may do, besides refusing.
#[derive(Clone, Copy, PartialEq)]
enum Allowed {
    /// Nothing.
    Refusal,
    /// Say that another medium is needed.
    Need,
    /// Restore the right tree: none of the journal is damaged.
    Tree,
    /// Restore the right tree, or a part of it: data is damaged.
    Part,
}

struct Bench {
    directory: tempfile::TempDir,
    sound: BTreeMap<String, Vec<u8>>,
    tree: Vec<(String, u32, i64, Vec<u8>)>,
    tried: u64,
    is_full: bool,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join("to")).expect("make");
        let sound = make_medium(&directory.path().join("medium"));
        let mut bench = Self {
            directory,
            sound,
            tree: Vec::new(),
            tried: 0,
            is_full: std::env::var_os("REPLAYER_SWEEP").is_some_and(|value| value == "full"),
        };
        assert!(bench.verify().expect("verified"), "a sound medium is good");
        assert_eq!(bench.restore().expect("restored"), Exit::Ok);
        bench.tree = tree(&bench.to());
        assert_eq!(bench.tree.len(), 4);
        bench.clear();
        bench
    }

    fn to(&self) -> PathBuf {
        self.directory.path().join("to")
    }

    fn medium(&self, name: &str) -> PathBuf {
        self.directory.path().join("medium").join(name)
    }

    fn media(&self) -> MediaArgs {
        MediaArgs {
            media: vec![self.medium("")],
            trust_key: None,
            identities: Vec::new(),
        }
    }

    fn durable() -> Option<Durable> {
        Some(Durable {
            epoch: 1,
            seq: LAST_SEQ,
        })
    }

    fn verify(&self) -> anyhow::Result<bool> {
        let args = VerifyArgs {
            media: self.media(),
            durable: Self::durable(),
        };
        let verdict = crate::verify::check(&args)?;
        assert!(verdict.is_good || verdict.text.lines().count() > 1, "it says why");
        Ok(verdict.is_good)
    }

    fn restore(&self) -> anyhow::Result<Exit> {
        let args = RestoreArgs {
            media: self.media(),
            memory: MemoryArgs::default(),
            to: Some(self.to()),
            device: None,
            mkfs: None,
            wipe: false,
            at: None,
            volume: None,
            stepwise: false,
            allow_holes: false,
            without_label: false,
            durable: Self::durable(),
        };
        crate::restore::run(&args, Format::Text)
    }

    fn clear(&self) {
        fs::remove_dir_all(self.to()).expect("remove");
        fs::create_dir(self.to()).expect("make");
    }

    /// Puts files in place of those that are there (`None`: takes them away), judges, and makes all as it was.
    fn try_out(&mut self, what: &str, changes: &[(&str, Option<&[u8]>)], allowed: Allowed) {
        for (name, bytes) in changes {
            self.put(name, *bytes);
        }
        self.judge(what, allowed);
        for (name, _) in changes {
            self.put(name, self.sound.get(*name).map(Vec::as_slice));
        }
    }

    fn put(&self, name: &str, bytes: Option<&[u8]>) {
        let path = self.medium(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
        if let Some(bytes) = bytes {
            fs::create_dir_all(path.parent().expect("a directory")).expect("make");
            fs::write(&path, bytes).expect("write");
        }
        if let Some((directory, _)) = name.split_once('/')
            && directory != UUID
            && bytes.is_none()
        {
            fs::remove_dir(self.medium(directory)).expect("remove");
        }
    }

    fn judge(&mut self, what: &str, allowed: Allowed) {
        self.tried += 1;
        match self.verify() {
            Ok(good) => assert!(!good, "{what}: verify says good"),
            Err(error) => assert!(
                matches!(exit_of(&error), Exit::Integrity | Exit::NoJournal),
                "{what}: verify: {error:#}"
            ),
        }
        let to = self.to();
        match self.restore() {
            Err(error) => {
                let exit = exit_of(&error);
                let expected = matches!(exit, Exit::Integrity | Exit::NoJournal)
                    || (allowed == Allowed::Need && exit == Exit::MediumNeeded);
                assert!(expected, "{what}: restore: {exit:?} {error:#}");
                let wrote = fs::read_dir(&to).expect("there").next().is_some();
                if allowed == Allowed::Part && wrote {
                    let said = format!("{error:#}");
                    assert!(said.contains("not complete"), "{what}: {said}");
                    self.clear();
                } else {
                    assert!(!wrote, "{what}: wrote");
                }
            }
            Ok(exit) => {
                let may_restore = matches!(allowed, Allowed::Tree | Allowed::Part);
                assert!(may_restore && exit == Exit::Ok, "{what}: restored");
                assert!(tree(&to) == self.tree, "{what}: another tree");
                self.clear();
            }
        }
        let outside = fs::read_dir(self.directory.path()).expect("read").count();
        assert_eq!(outside, 2, "{what}: something lies outside the target");
    }

    /// Flips and cuts one file.
    fn rot(&mut self, name: &str, stride: usize, cut_stride: usize, allowed: Allowed, random: &mut Rng) {
        let sound = self.sound[name].clone();
        let (stride, cut_stride) = if self.is_full {
            (1, 1)
        } else {
            (stride, cut_stride)
        };
        let start = random.usize(..stride);
        let data = self.data_of(name);
        for at in (start..sound.len()).step_by(stride) {
            let bits = if self.is_full { 0..8 } else { at % 8..at % 8 + 1 };
            for bit in bits {
                let bit = (bit as u64 + random.u64(..)) % 8;
                let mut bytes = sound.clone();
                bytes[at] ^= 1 << bit;
                let is_data = data.iter().any(|range| range.contains(&at));
                self.try_out(
                    &format!("{name}: bit {bit} of byte {at}"),
                    &[(name, Some(&bytes))],
                    if is_data { Allowed::Part } else { allowed },
                );
            }
        }
        if allowed == Allowed::Refusal && stride > 1 && name.ends_with("json") {
            self.flip_and_open(name);
        }
        for at in (start % cut_stride..sound.len()).step_by(cut_stride) {
            let what = format!("{name}: cut at {at}");
            self.try_out(&what, &[(name, Some(&sound[..at]))], allowed);
        }
        let mut longer = sound;
        longer.push(0);
        self.try_out(&format!("{name}: longer"), &[(name, Some(&longer))], allowed);
    }

    /// Where a segment has data, by its manifest; nowhere in anything else.
    fn data_of(&self, name: &str) -> Vec<Range<usize>> {
        let Some(stem) = name.strip_suffix("parquet") else {
            return Vec::new();
        };
        let name = format!("{stem}manifest.json");
        let manifest = Manifest::from_bytes(&self.sound[&name], &name).expect("sound");
        let groups = manifest.row_groups.iter().map(|group| {
            let parts = group.parts.as_ref().expect("parts");
            let place = |at: u64| usize::try_from(at).expect("small");
            place(group.offset + parts.metadata_bytes)..place(group.offset + group.bytes)
        });
        groups.collect()
    }

    /// Flips a bit of every byte of a label or manifest.
    fn flip_and_open(&mut self, name: &str) {
        let mut bytes = self.sound[name].clone();
        for at in 0..bytes.len() {
            bytes[at] ^= 1 << (at % 8);
            self.put(name, Some(&bytes));
            let store = DirStore::open(&self.medium("")).expect("open");
            let reader = Reader::open(vec![Arc::new(store)]).expect("the rest is sound");
            let seen = !reader.label_problems().is_empty()
                || reader.journals().any(|journal| !journal.problems().is_empty());
            assert!(seen, "{name}: byte {at}");
            bytes[at] ^= 1 << (at % 8);
            self.tried += 1;
        }
        self.put(name, Some(&bytes));
    }

    fn end(&self, least: u64) {
        assert!(self.tried >= least, "only {} were tried", self.tried);
        assert!(files(&self.medium("")) == self.sound, "the medium is as it was");
        println!("sweep: {} kinds of rot, all detected", self.tried);
    }
}

fn name(index: u64, suffix: &str) -> String {
    format!("{UUID}/{index:010}.{suffix}")
}

/// Label, manifests and segments.
fn journal_names() -> Vec<String> {
    let mut names = vec![journal::LABEL_NAME.to_owned()];
    for index in 1..=3 {
        names.extend([name(index, "manifest.json"), name(index, "parquet")]);
    }
    names
}

#[test]
fn rot_of_label_and_manifests() {
    let (mut bench, mut random) = (Bench::new(), Rng::with_seed(4));
    for name in journal_names().iter().filter(|name| name.ends_with("json")) {
        bench.rot(name, 6, 61, Allowed::Refusal, &mut random);
    }
    bench.end(4000);
}

#[test]
fn rot_of_segments_and_of_what_explains_the_medium() {
    let (mut bench, mut random) = (Bench::new(), Rng::with_seed(5));
    for name in journal_names().iter().filter(|name| name.ends_with("parquet")) {
        bench.rot(name, 97, 597, Allowed::Refusal, &mut random);
    }
    for name in ["FORMAT.md", "README.txt", "replayer"] {
        bench.rot(name, 61, 397, Allowed::Tree, &mut random);
    }
    bench.end(500);
}

#[test]
fn what_is_missing_doubled_swapped_renamed_or_foreign() {
    let mut bench = Bench::new();
    let sound = bench.sound.clone();
    let names = journal_names();
    let other = tempfile::tempdir().expect("a temporary directory");
    let others = make_medium(&other.path().join("medium"));
    let noise: Vec<u8> = (0..2000_u32)
        .map(|number| ((number * number) >> 3) as u8)
        .collect();
    for one in &names {
        let one = one.as_str();
        let bytes = sound[one].as_slice();
        let content = Some(bytes);
        bench.try_out(&format!("{one} missing"), &[(one, None)], Allowed::Need);
        bench.try_out(&format!("{one} empty"), &[(one, Some(b""))], Allowed::Refusal);
        bench.try_out(&format!("{one} noise"), &[(one, Some(&noise))], Allowed::Refusal);
        let foreign = Some(others[one].as_slice());
        bench.try_out(
            &format!("{one} of another medium"),
            &[(one, foreign)],
            Allowed::Need,
        );
        for two in names.iter().map(String::as_str).filter(|two| *two != one) {
            let other = Some(sound[two].as_slice());
            bench.try_out(
                &format!("{one} and {two} swapped"),
                &[(one, other), (two, content)],
                Allowed::Need,
            );
            bench.try_out(&format!("{one} over {two}"), &[(two, content)], Allowed::Need);
            bench.try_out(
                &format!("{one} renamed over {two}"),
                &[(one, None), (two, content)],
                Allowed::Need,
            );
        }
        for suffix in ["parquet", "manifest.json"] {
            for to in [
                name(4, suffix),
                name(6, suffix),
                format!("{OTHER_UUID}/0000000001.{suffix}"),
            ] {
                let more = Some(bytes);
                bench.try_out(&format!("{one} doubled as {to}"), &[(&to, more)], Allowed::Tree);
                bench.try_out(
                    &format!("{one} renamed to {to}"),
                    &[(&to, more), (one, None)],
                    Allowed::Need,
                );
            }
        }
        bench.try_out(
            &format!("{one} renamed away"),
            &[("holiday.jpg", content), (one, None)],
            Allowed::Need,
        );
    }
    pairs(&mut bench, &others);
    bench.end(200);
}

/// Segments together with their manifests.
fn pairs(bench: &mut Bench, others: &BTreeMap<String, Vec<u8>>) {
    let sound = bench.sound.clone();
    for one in 1..=3 {
        let (segment, manifest) = (name(one, "parquet"), name(one, "manifest.json"));
        bench.try_out(
            &format!("pair {one} missing"),
            &[(&segment, None), (&manifest, None)],
            Allowed::Need,
        );
        bench.try_out(
            &format!("pair {one} of another medium"),
            &[
                (&segment, Some(&others[&segment])),
                (&manifest, Some(&others[&manifest])),
            ],
            Allowed::Need,
        );
        for to in 4..6 {
            for files in [&sound, others] {
                bench.try_out(
                    &format!("pair {one} as {to}"),
                    &[
                        (&name(to, "parquet"), Some(&files[&segment])),
                        (&name(to, "manifest.json"), Some(&files[&manifest])),
                    ],
                    Allowed::Need,
                );
            }
        }
        for two in (1..=3).filter(|two| *two != one) {
            let (segment_two, manifest_two) = (name(two, "parquet"), name(two, "manifest.json"));
            bench.try_out(
                &format!("pairs {one} and {two} swapped"),
                &[
                    (&segment, Some(&sound[&segment_two])),
                    (&manifest, Some(&sound[&manifest_two])),
                    (&segment_two, Some(&sound[&segment])),
                    (&manifest_two, Some(&sound[&manifest])),
                ],
                Allowed::Need,
            );
        }
    }
}
