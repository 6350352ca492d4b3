//! What only the embedded engine can do wrong: layers that are hostile or damaged, state directories
//! on other file systems, leftovers.
