//! Events as the programs write them, and as they are decoded.

use super::*;

fn bytes<T>(value: &T) -> Vec<u8> {
    // SAFETY: plain structs of integers with explicit padding.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) }.to_vec()
}

fn write_event() -> Vec<u8> {
    let mut head = Head {
        size: 0,
        kind: EventKind::Write as u16,
        seq: 7,
        time_ns: 5,
        ..Head::default()
    };
    head.state.inode = InodeRef {
        ino: 12,
        generation: 3,
        pad: 0,
    };
    let mut event = bytes(&head);
    event.extend(bytes(&DataBody {
        offset: 100,
        length: 4,
        pad: 0,
    }));
    event.extend(b"data and slack");
    event
}

#[test]
fn a_write_is_decoded() {
    let decoded = decode(&write_event(), 1000).unwrap();
    assert_eq!((decoded.record.seq, decoded.record.time_ns), (7, 1005));
    assert_eq!(
        decoded.record.inode,
        InodeKey {
            ino: 12,
            generation: 3
        }
    );
    assert_eq!(
        decoded.record.op,
        Op::Write {
            offset: 100,
            data: b"data".to_vec(),
            length: 4
        }
    );
}

/// XFS zeroes the rest of a collapsed file's last block before it lowers the size: the journal has lowered it by then.
#[test]
fn zeros_of_the_file_system_make_no_file_longer() {
    let mut head: Head = read(&write_event()).unwrap();
    head.kind = EventKind::Zero as u16;
    let mut event = bytes(&head);
    event.extend(bytes(&RangeBody {
        offset: 5000,
        length: 3192,
        ..RangeBody::default()
    }));
    let expected = Op::Fallocate {
        mode: KEEP_SIZE | ZERO_RANGE,
        offset: 5000,
        length: 3192,
    };
    assert_eq!(decode(&event, 0).unwrap().record.op, expected);
}

#[test]
fn whatever_is_cut_off_is_an_error_and_no_panic() {
    let event = write_event();
    for length in 0..size_of::<Head>() + size_of::<DataBody>() + 4 {
        assert!(decode(&event[..length], 0).is_err(), "{length} bytes");
    }
}

#[test]
fn an_acl_is_encoded_as_user_space_does() {
    let raw = [
        1i16.to_ne_bytes(),
        6u16.to_ne_bytes(),
        [9, 9],
        [9, 9],
        2i16.to_ne_bytes(),
        4u16.to_ne_bytes(),
    ]
    .concat();
    let raw = [raw, 1000u32.to_ne_bytes().to_vec()].concat();
    let expected = [
        2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0,
    ];
    assert_eq!(acl(&raw).unwrap(), expected);
}
