//! `replayer dump`: the rows of the journal as text or JSON. Interprets nothing.
//!
//! Raw bytes are escaped without loss (see [`crate::output`]); values of extended attributes and data are hexadecimal.

use std::io::{BufWriter, ErrorKind, Write};

use anyhow::{Context, Result};
use journal::Projection;
use journal::record::{Actor, Attributes, Entry, InodeKey, Op, Record, Time};
use serde_json::{Map, Value, json};

use crate::cli::DumpArgs;
use crate::exit::Exit;
use crate::media::Media;
use crate::output::{Format, escape, hex, utc};

/// Runs `replayer dump`.
pub(crate) fn run(args: &DumpArgs, format: Format) -> Result<Exit> {
    let media = Media::open(&args.media)?;
    let journals = media.journals_of(args.volume.as_deref())?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    match write_rows(args, format, &journals, &mut out).and_then(|()| out.flush().context("write rows")) {
        // Whoever reads has seen enough.
        Err(error)
            if error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe) =>
        {
            Ok(Exit::Ok)
        }
        result => result.map(|()| Exit::Ok),
    }
}

fn write_rows(
    args: &DumpArgs,
    format: Format,
    journals: &[&journal::Journal],
    out: &mut impl Write,
) -> Result<()> {
    let (from, to) = (args.from.unwrap_or(0), args.to.unwrap_or(u64::MAX));
    let projection = if args.data {
        Projection::All
    } else {
        Projection::Metadata
    };
    let mut first = true;
    if format == Format::Json {
        out.write_all(b"[")?;
    }
    for segment in journals.iter().flat_map(|journal| journal.segments()) {
        if segment.manifest.last_seq < from || segment.manifest.first_seq > to {
            continue;
        }
        for item in segment.records(projection)? {
            let (_, record) = item?;
            if record.last_seq < from || record.seq > to {
                continue;
            }
            let row = row_json(segment.manifest.epoch, &record, args.data);
            match format {
                Format::Json => write!(out, "{}{row}", if first { "" } else { ",\n" })?,
                Format::Text if args.json_lines => writeln!(out, "{row}")?,
                Format::Text => writeln!(out, "{}", row_text(&row))?,
            }
            first = false;
        }
    }
    if format == Format::Json {
        out.write_all(b"]\n")?;
    }
    Ok(())
}

/// An inode in text and JSON: number and generation.
fn show(key: InodeKey) -> String {
    format!("{}/{}", key.ino, key.generation)
}

fn entry_json(entry: &Entry) -> Value {
    json!({"parent": show(entry.parent), "name": escape(&entry.name)})
}

/// Seconds with nine decimals: exact.
fn time_text(time: Time) -> String {
    format!("{}.{:09}", time.sec, time.nsec)
}

/// One row as a JSON object; data only where it was asked for.
pub(crate) fn row_json(epoch: u64, record: &Record, with_data: bool) -> Value {
    let Record {
        seq,
        last_seq,
        time_ns,
        inode,
        attributes,
        from_snapshot,
        actor,
        op,
    } = record;
    let mut row = Map::new();
    row.insert("epoch".to_owned(), json!(epoch));
    row.insert("seq".to_owned(), json!(seq));
    if last_seq != seq {
        row.insert("last_seq".to_owned(), json!(last_seq));
    }
    row.insert("time".to_owned(), json!(utc(*time_ns)));
    let (name, details) = op_json(op, with_data);
    row.insert("op".to_owned(), json!(name));
    if *inode != InodeKey::default() {
        row.insert("inode".to_owned(), json!(show(*inode)));
    }
    row.extend(details);
    let stated = attributes_json(attributes);
    if !stated.is_empty() {
        row.insert("attributes".to_owned(), Value::Object(stated));
    }
    if *from_snapshot {
        row.insert("from_snapshot".to_owned(), json!(true));
    }
    if *actor != Actor::default() {
        let Actor {
            pid,
            tgid,
            uid,
            gid,
            cgroup,
            comm,
        } = actor;
        row.insert(
            "actor".to_owned(),
            json!({"pid": pid, "tgid": tgid, "uid": uid, "gid": gid, "cgroup": cgroup, "comm": escape(comm)}),
        );
    }
    Value::Object(row)
}

fn attributes_json(attributes: &Attributes) -> Map<String, Value> {
    let Attributes {
        mode,
        uid,
        gid,
        rdev,
        size,
        atime,
        mtime,
        ctime,
        file_flags,
        project,
    } = attributes;
    let all = [
        ("mode", mode.map(|mode| json!(format!("{mode:o}")))),
        ("uid", uid.map(|uid| json!(uid))),
        ("gid", gid.map(|gid| json!(gid))),
        (
            "rdev",
            rdev.map(|rdev| json!(format!("{}:{}", rustix::fs::major(rdev), rustix::fs::minor(rdev)))),
        ),
        ("size", size.map(|size| json!(size))),
        ("atime", atime.map(|time| json!(time_text(time)))),
        ("mtime", mtime.map(|time| json!(time_text(time)))),
        ("ctime", ctime.map(|time| json!(time_text(time)))),
        ("file_flags", file_flags.map(|flags| json!(format!("{flags:#x}")))),
        ("project", project.map(|project| json!(project))),
    ];
    all.into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
}

/// The name of an operation and what only it has.
fn op_json(op: &Op, with_data: bool) -> (&'static str, Map<String, Value>) {
    let (name, details) = match op {
        Op::Write { offset, data, length } => {
            let mut details = json!({"offset": offset, "length": length});
            if with_data {
                details["data"] = json!(hex(data));
            }
            ("write", details)
        }
        Op::Create {
            entry,
            dir: _,
            link_target,
        } => {
            let mut details = json!({"entry": entry_json(entry)});
            if let Some(target) = link_target {
                details["link_target"] = json!(escape(target));
            }
            ("create", details)
        }
        Op::CreateUnnamed => ("create_unnamed", json!({})),
        Op::Link { entry, dir: _ } => ("link", json!({"entry": entry_json(entry)})),
        Op::Unlink { entry, dir: _ } => ("unlink", json!({"entry": entry_json(entry)})),
        Op::Rmdir { entry, dir: _ } => ("rmdir", json!({"entry": entry_json(entry)})),
        Op::Rename {
            from,
            from_dir: _,
            to,
            to_dir: _,
            victim,
        } => (
            "rename",
            json!({"from": entry_json(from), "to": entry_json(to), "victim": victim.map(show)}),
        ),
        Op::Exchange {
            from,
            from_dir: _,
            to,
            to_dir: _,
            other,
        } => (
            "exchange",
            json!({"from": entry_json(from), "to": entry_json(to), "other": show(*other)}),
        ),
        Op::Evict => ("evict", json!({})),
        Op::SetAttr => ("setattr", json!({})),
        Op::SetXattr { name, value } => ("setxattr", json!({"name": escape(name), "value": hex(value)})),
        Op::RemoveXattr { name } => ("removexattr", json!({"name": escape(name)})),
        Op::Fallocate { mode, offset, length } => (
            "fallocate",
            json!({"mode": format!("{mode:#x}"), "offset": offset, "length": length}),
        ),
        Op::Clone {
            source,
            source_offset,
            offset,
            length,
        } => (
            "clone",
            json!({"source": show(*source), "source_offset": source_offset, "offset": offset, "length": length}),
        ),
        Op::Snapshot { link_target, scope } => (
            "snapshot",
            json!({"scope": format!("{scope:?}").to_lowercase(), "link_target": link_target.as_deref().map(escape)}),
        ),
        Op::SnapshotEntry { entry } => ("snapshot_entry", json!({"entry": entry_json(entry)})),
        Op::SnapshotEnd { begin_seq } => ("snapshot_end", json!({"begin_seq": begin_seq})),
        Op::BaseBegin { continues } => (
            "base_begin",
            json!({"continues_epoch": continues.map(|of| of.epoch), "continues_seq": continues.map(|of| of.seq)}),
        ),
        Op::BaseEnd { begin_seq } => ("base_end", json!({"begin_seq": begin_seq})),
        Op::Mark { name } => ("mark", json!({"name": name})),
        Op::Barrier { up_to } => ("barrier", json!({"up_to_seq": up_to})),
        Op::Hole {
            last_seq,
            inode,
            since_seq,
        } => (
            "hole",
            json!({"last_lost_seq": last_seq, "inode_touched": inode.map(show), "since_seq": since_seq}),
        ),
        Op::HoleClosed { hole_seq } => ("hole_closed", json!({"hole_seq": hole_seq})),
    };
    let Value::Object(details) = details else {
        return (name, Map::new());
    };
    (
        name,
        details
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .collect(),
    )
}

/// One row as a line of text: fixed fields first, then `key=value`.
pub(crate) fn row_text(row: &Value) -> String {
    let field = |name: &str| row.get(name).map(plain).unwrap_or_default();
    let mut line = format!(
        "{:>2} {:>10} {} {:<14} {:<14}",
        field("epoch"),
        field("seq"),
        field("time"),
        field("op"),
        field("inode")
    );
    if let Value::Object(row) = row {
        for (name, value) in row {
            if !matches!(name.as_str(), "epoch" | "seq" | "time" | "op" | "inode") {
                line.push(' ');
                push_pairs(&mut line, name, value);
            }
        }
    }
    line.trim_end().to_owned()
}

/// Nested objects become `outer.inner=value`.
fn push_pairs(line: &mut String, name: &str, value: &Value) {
    match value {
        Value::Object(inner) => {
            for (at, (inner_name, inner_value)) in inner.iter().enumerate() {
                if at > 0 {
                    line.push(' ');
                }
                push_pairs(line, &format!("{name}.{inner_name}"), inner_value);
            }
        }
        Value::String(text) if text.contains(' ') || text.is_empty() => {
            line.push_str(&format!("{name}={}", text.replace(' ', "\\x20")));
        }
        other => line.push_str(&format!("{name}={}", plain(other))),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
