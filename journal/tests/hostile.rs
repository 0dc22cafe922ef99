//! Segments made to do harm to whoever unpacks them, vouched for by a sound manifest: refused, in bounded memory and time.

#![expect(clippy::unwrap_used, reason = "a test may end where its preparations fail")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, BinaryArray, RecordBatch, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use journal::store::memory::MemoryStore;
use journal::{Label, Reader};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

const UUID: &str = "6f0cb0f4-0001-4000-8000-000000000001";

fn reseal(text: &str) -> Vec<u8> {
    let head = format!("{text}\n  \"check\": \"");
    let hash = blake3::hash(head.as_bytes()).to_hex();
    format!("{head}{hash}\"\n}}\n").into_bytes()
}

/// What verify says of a segment that a manifest vouches for.
fn problems(segment: &[u8]) -> String {
    let store = MemoryStore::new();
    Label::ensure(&store, b"", 0).unwrap();
    let manifest = format!(
        r#"{{"format": 5, "chain": "c", "volume": {{"uuid": "{UUID}", "fs_type": "ext4", "label": "", "block_size": 4096, "size_bytes": 1,
        "root": {{"ino": 2, "generation": 0}}, "mount_path": "", "hostname": ""}}, "epoch": 1, "index": 1, "first_seq": 1,
        "last_seq": 1000, "first_time_ns": 0, "last_time_ns": 1, "records": 9, "bytes": {}, "blake3": "{}", "row_groups": [],
        "previous": null, "void_indexes": [], "points": [], "writer": "","#,
        segment.len(),
        blake3::hash(segment).to_hex()
    );
    store.tamper(
        &format!("{UUID}/0000000001.manifest.json"),
        Some(reseal(&manifest)),
    );
    store.tamper(&format!("{UUID}/0000000001.parquet"), Some(segment.to_vec()));
    let reader = Reader::open(vec![Arc::new(store)]).unwrap();
    let report = reader.journal(None).unwrap().verify(|_| ()).unwrap();
    report.problems.join("; ")
}

fn properties() -> WriterPropertiesBuilder {
    WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap()))
}

fn parquet(columns: &[(&str, ArrayRef)], times: usize, properties: WriterPropertiesBuilder) -> Vec<u8> {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, array)| Field::new(*name, array.data_type().clone(), true))
        .collect();
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(
        Arc::clone(&schema),
        columns.iter().map(|(_, array)| Arc::clone(array)).collect(),
    )
    .unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, schema, Some(properties.build())).unwrap();
    for _ in 0..times {
        writer.write(&batch).unwrap();
    }
    writer.close().unwrap();
    bytes
}

fn seqs(rows: u64) -> ArrayRef {
    Arc::new(UInt64Array::from_iter_values(1..=rows))
}

/// Peak of this process's memory, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn bombs_are_not_unpacked() {
    let zeros = |bytes: usize| -> ArrayRef { Arc::new(BinaryArray::from_vec(vec![&vec![0_u8; bytes]])) };
    let plain = || properties().set_dictionary_enabled(false);
    let long = vec![7_u8; 3 << 20];
    let repeated: ArrayRef = Arc::new(BinaryArray::from_vec(vec![long.as_slice(); 100]));
    let names: ArrayRef = Arc::new(BinaryArray::from_vec(vec![&long[..100_000]; 100]));
    let prefixed = plain().set_column_encoding(ColumnPath::from("name"), Encoding::DELTA_BYTE_ARRAY);
    let rising = plain().set_column_encoding(ColumnPath::from("seq"), Encoding::DELTA_BINARY_PACKED);
    let bombs = [
        // 200 MiB of zeros are a few KiB on the medium.
        (
            "a row group of more",
            parquet(&[("data", zeros(50 << 20))], 4, plain()),
        ),
        // One value that every row has.
        (
            "a dictionary",
            parquet(&[("seq", seqs(100)), ("data", repeated.clone())], 1, properties()),
        ),
        (
            "in a dictionary",
            parquet(&[("seq", seqs(100)), ("name", names)], 1, properties()),
        ),
        (
            "encoding",
            parquet(&[("seq", seqs(100)), ("name", repeated)], 1, prefixed),
        ),
        // A run of numbers that is never written out.
        ("encoding", parquet(&[("seq", seqs(100_000))], 1, rising)),
        (
            "rows",
            parquet(
                &[("seq", seqs(1 << 20))],
                1,
                plain().set_max_row_group_row_count(Some(1 << 20)),
            ),
        ),
    ];
    let (before, started) = (peak(), Instant::now());
    for (words, bomb) in bombs {
        let problems = problems(&bomb);
        assert!(problems.contains(words), "{words}: {problems}");
    }
    let grown = peak() - before;
    assert!(grown < 64 << 20, "{grown} bytes");
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[test]
fn what_is_no_segment_is_refused() {
    let sound = parquet(&[("seq", seqs(10))], 1, properties());
    let mut endless = sound.clone();
    let at = endless.len() - 8;
    endless[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let text: ArrayRef = Arc::new(arrow_array::StringArray::from(vec!["1"]));
    for (words, bytes) in [
        ("too short", Vec::new()),
        ("no segment", b"PAR1PAR1".to_vec()),
        ("a footer of", endless),
        ("column seq has type", parquet(&[("seq", text)], 1, properties())),
        ("is missing", parquet(&[("other", seqs(10))], 1, properties())),
        ("is missing", sound),
    ] {
        let problems = problems(&bytes);
        assert!(problems.contains(words), "{words}: {problems}");
    }
}

/// Arrow's own notes in the file are not followed.
#[test]
fn types_come_from_parquet_alone() {
    let dictionary = Field::new_dictionary("op", DataType::Int32, DataType::Utf8, true);
    let array = arrow_array::DictionaryArray::<arrow_array::types::Int32Type>::from_iter(["mark"]);
    assert_eq!(
        dictionary.data_type(),
        &arrow_array::Array::data_type(&array).clone()
    );
    let problems = problems(&parquet(
        &[("seq", seqs(1)), ("last_seq", seqs(1)), ("op", Arc::new(array))],
        1,
        properties(),
    ));
    assert!(problems.contains("is missing"), "{problems}");
}
