//! Where repositories come from, and what is written from them: checkout layers and patch layers.
