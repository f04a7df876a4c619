//! A BGP-4 speaker without I/O, and a thin driver.
