//! What Python and pandas do, where a reference scorer relies on it.
