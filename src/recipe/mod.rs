//! What every image is made of.
