//! Updates in, snapshot out.
