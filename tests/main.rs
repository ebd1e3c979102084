//! All integration tests, as one program.

mod support;

mod architecture;
mod derivation;
mod fetch;
mod recipes;
