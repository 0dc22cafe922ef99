//! Modes, owners, times, extended attributes.

use std::fs::{self};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use journal::record::{Attributes, Op};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use super::{Live, meta, stamps, time};

impl Live {
    pub(super) fn change_mode(&mut self) {
        let Some(path) = self.no_symlink() else { return };
        let mode = [0o600, 0o755, 0o4711, 0o1777][usize::try_from(self.random.below(4)).unwrap()];
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let attributes = Attributes {
            mode: Some(meta(&path).mode()),
            ..stamps(&path)
        };
        self.tell(&path, attributes, Op::SetAttr);
    }

    pub(super) fn change_owner(&mut self) {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let paths = self.paths();
        let path = self.pick(&paths);
        let id = u32::try_from(self.random.below(5000)).unwrap();
        std::os::unix::fs::lchown(&path, Some(id), Some(id + 1)).unwrap();
        let now = meta(&path);
        let (uid, gid) = (Some(now.uid()), Some(now.gid()));
        let attributes = Attributes {
            mode: Some(now.mode()),
            uid,
            gid,
            ..stamps(&path)
        };
        self.tell(&path, attributes, Op::SetAttr);
    }

    pub(super) fn change_times(&mut self) {
        let paths = self.paths();
        let path = self.pick(&paths);
        let sec = [-5_000_000_000, -1, 0, 4_000_000_000][usize::try_from(self.random.below(4)).unwrap()];
        let stamp = Timespec {
            tv_sec: sec.max(-2_000_000_000),
            tv_nsec: 123_456_789,
        };
        let times = Timestamps {
            last_access: stamp,
            last_modification: stamp,
        };
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let atime = Some(time(stamp.tv_sec, 123_456_789));
        self.tell(
            &path,
            Attributes {
                atime,
                ..stamps(&path)
            },
            Op::SetAttr,
        );
    }

    pub(super) fn change_xattr(&mut self) {
        let Some(path) = self.no_symlink() else { return };
        if meta(&path).mode() & 0o170_000 == 0o010_000 {
            return;
        }
        let name = format!("user.n{}", self.random.below(3));
        if self.random.below(3) == 0 {
            if xattr::remove(&path, &name).is_ok() {
                self.tell(
                    &path,
                    stamps(&path),
                    Op::RemoveXattr {
                        name: name.into_bytes(),
                    },
                );
            }
            return;
        }
        let length = self.random.below(300);
        let value = self.random.bytes(length);
        xattr::set(&path, &name, &value).unwrap();
        self.tell(
            &path,
            stamps(&path),
            Op::SetXattr {
                name: name.into_bytes(),
                value,
            },
        );
    }
}
