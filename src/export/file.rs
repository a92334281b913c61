//! A profile into a file, whole or not at all: written beside its place and moved there.

use crate::{Format, WriteOptions, write};
use spprof_model::Profile;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Writes `path`. A file that is there keeps its mode and what links to it, and stays as it is if anything fails; what is no
/// regular file (a pipe, a device) is written to directly.
pub fn write_file(profile: &Profile, format: Format, path: &Path, options: &WriteOptions) -> io::Result<()> {
    write_whole(path, |out| write(profile, format, out, options))
}

/// The same for what is not a profile.
pub fn write_whole(path: &Path, content: impl Fn(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let fill = |file: File| {
        let mut out = BufWriter::with_capacity(1 << 16, file);
        content(&mut out)?;
        out.flush()
    };
    match Place::of(path)? {
        Place::Direct(path) => fill(File::create(path)?),
        Place::Beside(path, permissions) => {
            let Some((temporary, file)) = create_beside(&path)? else { return fill(File::create(path)?) };
            let written = permissions
                .map_or(Ok(()), |permissions| file.set_permissions(permissions))
                .and_then(|()| fill(file))
                .and_then(|()| fs::rename(&temporary, &path));
            if written.is_err() {
                // The error that counts is the one above.
                let _ = fs::remove_file(&temporary);
            }
            written
        }
    }
}

enum Place {
    /// Open it and write.
    Direct(PathBuf),
    /// Write a new file beside it, with these permissions if there are any to keep, and move that there.
    Beside(PathBuf, Option<fs::Permissions>),
}

impl Place {
    fn of(path: &Path) -> io::Result<Self> {
        let real = match fs::canonicalize(path) {
            Ok(real) => real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A link to nowhere is followed by opening it.
                let is_link = fs::symlink_metadata(path).is_ok();
                return Ok(if is_link { Self::Direct(path.into()) } else { Self::Beside(path.into(), None) });
            }
            Err(error) => return Err(error),
        };
        let metadata = fs::metadata(&real)?;
        if !metadata.is_file() {
            return Ok(Self::Direct(real));
        }
        // Moving a file over one that may not be written would go around its protection.
        OpenOptions::new().append(true).open(&real)?;
        Ok(Self::Beside(real, Some(metadata.permissions())))
    }
}

/// A new file in the folder of `path`; `None` if the folder takes none but `path` itself can be written.
fn create_beside(path: &Path) -> io::Result<Option<(PathBuf, File)>> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let temporary = folder.join(format!(".spprof-{}-{number}.tmp", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&temporary) {
            Ok(file) => return Ok(Some((temporary, file))),
            // Left behind by a process that was killed and had our id.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && path.exists() => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}
