//! A run on disk while it goes on: after each flush, what was recorded so far survives even SIGKILL of the program.
//!
//! Runs on the thread that owns the profile, never in a handler. A flush costs what is new since the last one (plus, when the
//! timeline coarsened, the one chunk that was merged across the point reached).

use crate::spprof::{KIND_JOURNAL, Progress, write_header};
use spprof_model::{Metadata, Profile};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// The file is open only while it is written: a host may close any descriptor and open a file of its own under the number.
pub struct Journal {
    path: PathBuf,
    progress: Progress,
}

impl Journal {
    /// Makes the file, or empties it.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut out = BufWriter::new(File::create(path)?);
        write_header(&mut out, KIND_JOURNAL)?;
        out.flush()?;
        Ok(Self { path: path.to_owned(), progress: Progress::default() })
    }

    /// Appends what is new. It is with the kernel when this returns (a crash of the machine may still lose it). After an error
    /// the file's tail is in doubt: readers stop there.
    pub fn flush(&mut self, profile: &Profile, meta: &Metadata) -> io::Result<()> {
        let mut out = BufWriter::new(File::options().append(true).open(&self.path)?);
        self.progress.write_new(profile, meta, &mut out)?;
        out.flush()
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes and deletes the file: the run has ended and its profile is saved.
    pub fn remove(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}
