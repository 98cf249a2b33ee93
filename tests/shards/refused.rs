//! Sets of files that do not fit together.
