//! What an operator asks of the data path: the flows that it holds, why a packet goes where it goes,
//! and the way of sampled packets through the program.
//!
//! Reads the mapped records and the maps only, and changes nothing but the filter of the trace. A
//! record is read while the program writes it, so it is copied and its state looked at before and
//! after. Work is bounded: one pass over the records, answers of a stated length.
