//! The configuration: as written, as checked, and the shipped default.
