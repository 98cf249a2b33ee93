//! Live files as files.
