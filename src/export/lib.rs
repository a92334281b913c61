//! Writers (and readers) of profile formats: model -> `io::Write`, streaming; one file per format.
#![forbid(unsafe_code)]
