//! The files that version 1 of the formats wrote must open for ever.
